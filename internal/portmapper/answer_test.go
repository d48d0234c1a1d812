package portmapper_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rpcward/internal/policy"
	"rpcward/internal/portmapper"
	"rpcward/rpcbind"
)

// few are registrations to look up.
var few = []string{
	"100003 3 tcp 0.0.0.0.8.1 superuser",
	"100003 4 tcp 0.0.0.0.8.2 superuser",
	"100003 3 udp 10.98.0.1.8.1 superuser",
	"100003 3 udp6 ::.8.3 1000",
	"100024 1 local /run/statd.sock 29",
	"100024 1 tcp 127.0.0.1.2.150 29",
}

// TestAnswers has each procedure of each version, asked over the transports
// that make a difference.
func TestAnswers(t *testing.T) {
	udp, tcp, udp6, local := loopback(rpcbind.UDP, 700), loopback(rpcbind.TCP, 40000), loopback(rpcbind.UDP6, 700), unix(0)
	remote := client(rpcbind.TCP)
	rpcb := func(program, version int, hint string) []byte { return words(program, version, "bogus", hint, "owner") }
	tests := []struct {
		name   string
		origin policy.Origin
		call   []byte
		want   []byte // nil: silence
	}{
		{"null v2", udp, call(2, 0), success},
		{"null v3", tcp, call(3, 0), success},
		{"null v4 with bytes behind", local, call(4, 0, 1, 2, 3), success},

		{"set v2", udp, call(2, 1, 200001, 1, 6, 4000), reply(success, 1)},
		{"set v3", local, call(3, 1, 200001, 1, "tcp", "0.0.0.0.15.160", ""), reply(success, 1)},
		{"set v4 again, same address", local, call(4, 1, 100003, 3, "tcp", "0.0.0.0.8.1", "me"), reply(success, 1)},
		{"set v4 again, other address", local, call(4, 1, 100003, 3, "tcp", "0.0.0.0.9.9", "me"), reply(success, 0)},
		{"set, other protocol than TCP and UDP", udp, call(2, 1, 200001, 1, 132, 4000), reply(success, 0)},
		{"unset v2", udp, call(2, 2, 100003, 3, 0, 0), reply(success, 1)},
		{"unset v3, nothing there", local, call(3, 2, 200009, 1, "", "", ""), reply(success, 1)},
		{"unset v4, unknown netid", local, call(4, 2, 100003, 3, "bogus", "", ""), reply(success, 1)},

		{"getport", udp, call(2, 3, 100003, 3, 6, 0), reply(success, 0x0801)},
		{"getport of another version: the last one", udp, call(2, 3, 100003, 9, 6, 0), reply(success, 0x0802)},
		{"getport, not there", udp, call(2, 3, 200001, 1, 6, 0), reply(success, 0)},
		{"getport, SCTP", udp, call(2, 3, 100003, 3, 132, 0), reply(success, 0)},
		{"getport, on loopback, from here", udp, call(2, 3, 100024, 1, 6, 0), reply(success, 662)},
		{"getport, on loopback, from elsewhere", remote, call(2, 3, 100024, 1, 6, 0), reply(success, 0)},
		{"getport over IPv6", udp6, call(2, 3, 100003, 3, 6, 0), reply(success, 0x0801)},

		{"getaddr v3: where it was asked", tcp, call(3, 3, rpcb(100003, 3, "")), reply(success, "127.0.0.1.8.1")},
		{"getaddr v4, remote", remote, call(4, 3, rpcb(100003, 3, "")), reply(success, "10.99.0.1.8.1")},
		{"getaddr, another version", tcp, call(4, 3, rpcb(100003, 7, "")), reply(success, "127.0.0.1.8.2")},
		{"getaddr, a specific address", udp, call(3, 3, rpcb(100003, 3, "")), reply(success, "10.98.0.1.8.1")},
		{"getaddr over IPv6", udp6, call(3, 3, rpcb(100003, 3, "")), reply(success, "::1.8.3")},
		{"getaddr over unix", local, call(3, 3, rpcb(100024, 1, "")), reply(success, "/run/statd.sock")},
		{"getaddr over unix, of an IP service", local, call(3, 3, rpcb(100003, 3, "")), reply(success, "")},
		{"getaddr, hint of ours", remote, call(3, 3, rpcb(100003, 3, "10.98.0.1.0.111")), reply(success, "10.98.0.1.8.1")},
		{"getaddr, hint of another host", remote, call(3, 3, rpcb(100003, 3, "10.99.0.77.0.111")), reply(success, "10.99.0.1.8.1")},
		{"getaddr, hint of loopback from elsewhere", remote, call(3, 3, rpcb(100003, 3, "127.0.0.1.0.111")), reply(success, "10.99.0.1.8.1")},
		{"getaddr, hint is no address", remote, call(3, 3, rpcb(100003, 3, "garbage")), reply(success, "10.99.0.1.8.1")},
		{"getaddr, hint is a broadcast address", remote, call(3, 3, rpcb(100003, 3, "255.255.255.255.0.111")), reply(success, "10.99.0.1.8.1")},
		{"getaddr, hint of the other family", remote, call(3, 3, rpcb(100003, 3, "fd99::1.0.111")), reply(success, "10.99.0.1.8.1")},
		{"getaddr, service on loopback, from elsewhere", remote, call(4, 3, rpcb(100024, 1, "")), reply(success, "")},
		{"getversaddr", tcp, call(4, 9, rpcb(100003, 4, "")), reply(success, "127.0.0.1.8.2")},
		{"getversaddr, another version", tcp, call(4, 9, rpcb(100003, 7, "")), reply(success, "")},

		{"dump v2", tcp, call(2, 4), reply(success,
			1, 100000, 4, 6, 111, 1, 100000, 3, 6, 111, 1, 100000, 2, 6, 111,
			1, 100000, 4, 17, 111, 1, 100000, 3, 17, 111, 1, 100000, 2, 17, 111,
			1, 100003, 3, 6, 0x0801, 1, 100003, 4, 6, 0x0802, 1, 100003, 3, 17, 0x0801, 1, 100024, 1, 6, 662, 0)},
		{"dump v3", udp, call(3, 4), reply(success, dumped(true), 0)},
		{"dump v4, remote: without paths", remote, call(4, 4), reply(success, dumped(false), 0)},

		{"gettime v3", udp, call(3, 6), reply(success, uint32(startTime))},
		{"gettime v4", local, call(4, 6), reply(success, uint32(startTime))},

		{"uaddr2taddr", tcp, call(3, 7, "1.2.3.4.0.111"), reply(success, 16, "\x02\x00\x00\x6f\x01\x02\x03\x04\x00\x00\x00\x00\x00\x00\x00\x00")},
		{"uaddr2taddr, IPv6", udp6, call(4, 7, "fd99::1.0.111"), reply(success, 28,
			"\x0a\x00\x00\x6f\x00\x00\x00\x00\xfd\x99\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00")},
		{"uaddr2taddr, unix", local, call(4, 7, "/x"), reply(success, 110, "\x01\x00/x")},
		{"uaddr2taddr, other family", tcp, call(4, 7, "::1.0.111"), reply(success, 0, "")},
		{"uaddr2taddr, with a zone", udp6, call(4, 7, "fe80::1%lan.0.111"), reply(success, 0, "")},
		{"uaddr2taddr, no address", tcp, call(4, 7, "1.2.3.4.x.300"), reply(success, 0, "")},
		{"taddr2uaddr", udp, call(3, 8, 16, "\x02\x00\x00\x6f\x01\x02\x03\x04\x00\x00\x00\x00\x00\x00\x00\x00"), reply(success, "1.2.3.4.0.111")},
		{"taddr2uaddr, IPv6", udp6, call(4, 8, 28, "\x0a\x00\x00\x6f\x00\x00\x00\x00\xfd\x99\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00"), reply(success, "fd99::1.0.111")},
		{"taddr2uaddr, unix", local, call(4, 8, 110, "\x01\x00/x\x00rest"), reply(success, "/x")},
		{"taddr2uaddr, other family", udp, call(4, 8, 16, "\x0a\x00\x00\x6f\x01\x02\x03\x04\x00\x00\x00\x00\x00\x00\x00\x00"), reply(success, "")},
		{"taddr2uaddr, too short", udp, call(4, 8, 16, "\x02\x00\x00\x6f"), reply(success, "")},
		{"taddr2uaddr, longer than it may be", udp, call(4, 8, 8, "\x02\x00\x00\x6f\x01\x02\x03\x04\x00\x00\x00\x00\x00\x00\x00\x00"), garbageArgs},

		{"getaddrlist", tcp, call(4, 11, rpcb(100003, 3, "")), reply(success,
			1, "127.0.0.1.8.1", "tcp", 3, "inet", "tcp",
			1, "10.98.0.1.8.1", "udp", 1, "inet", "udp", 0)},
		{"getaddrlist over IPv6", udp6, call(4, 11, rpcb(100003, 3, "")), reply(success, 1, "::1.8.3", "udp6", 1, "inet6", "udp", 0)},
		{"getaddrlist over unix", local, call(4, 11, rpcb(100024, 1, "")), reply(success, 1, "/run/statd.sock", "local", 3, "loopback", "-", 0)},
		{"getaddrlist, another version", tcp, call(4, 11, rpcb(100003, 7, "")), reply(success, 0)},
		{"getaddrlist, on loopback, from elsewhere", remote, call(4, 11, rpcb(100024, 1, "")), reply(success, 0)},

		{"callit v2 over a stream", tcp, call(2, 5, 100003, 3, 0, ""), nil},
		{"callit v3, off", udp, call(3, 5, 100003, 3, 0, ""), nil},
		{"bcast v4, off", udp, call(4, 5, 100003, 3, 0, ""), nil},
		{"indirect v4, off", udp, call(4, 10, 100003, 3, 0, ""), systemErr},
		{"indirect v4 over a stream", local, call(4, 10, 100003, 3, 0, ""), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, setup{})
			f.register(t, few...)
			got, outcome := f.ask(tt.origin, tt.call)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("reply (-want +got):\n%s", diff)
			}
			if want := outcomeOf(tt.want); outcome != want {
				t.Errorf("outcome %d, want %d", outcome, want)
			}
		})
	}
}

func outcomeOf(reply []byte) portmapper.Outcome {
	if reply == nil {
		return portmapper.Silence
	}
	return portmapper.Reply
}

// dumped is the list of DUMP for few, without its end.
func dumped(paths bool) []byte {
	var b []byte
	item := func(program, version uint32, netid, addr, owner string) {
		if paths || netid != "local" {
			b = append(b, words(1, program, version, netid, addr, owner)...)
		}
	}
	for _, r := range own() {
		item(r.Program, r.Version, r.NetID.String(), r.Addr, r.Owner)
	}
	for _, line := range few {
		w := strings.Fields(line)
		item(number(w[0]), number(w[1]), w[2], w[3], w[4])
	}
	return b
}

// TestGetStat follows the counters of version 3.
func TestGetStat(t *testing.T) {
	f := newFixture(t, setup{})
	f.register(t, few...)
	for _, msg := range [][]byte{
		call(3, 0), call(3, 0),
		call(3, 1, 200001, 1, "tcp", "0.0.0.0.15.160", ""),
		call(3, 1, 200001, 1, "bogus", "0.0.0.0.15.160", ""), // is not done, and not counted as done
		call(3, 2, 200001, 1, "", "", ""),
		call(3, 3, 100024, 1, "", "", ""),
		call(3, 3, 300000, 1, "", "", ""),
		call(3, 3, 100024, 1, "", "", ""),
		call(3, 9), // no such procedure
	} {
		f.ask(unix(0), msg)
	}
	got, _ := f.ask(unix(0), call(4, 12))
	zero := words(slices.Repeat([]any{0}, 13)...)
	want := reply(success,
		zero, 0, 0, 0, 0, // version 2
		2, 2, 1, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, // calls of version 3
		1, 1, // SETs and UNSETs that were done
		1, 300000, 1, 0, 1, "local", // looked up: success, failure
		1, 100024, 1, 2, 0, "local",
		0, 0,
		zero[:48], 1, 0, 0, 0, 0) // version 4: this one
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("GETSTAT (-want +got):\n%s", diff)
	}
}

// TestHeaders has what is answered before a procedure is looked at.
func TestHeaders(t *testing.T) {
	head := func(items ...any) []byte { return words(append([]any{xid, 0, 2}, items...)...) }
	authErr := func(why int) []byte { return words(xid, 1, 1, 1, why) }
	sys := words(0, "client", 0, 0, 1, 0)
	tests := []struct {
		name string
		msg  []byte
		want []byte // nil: the connection ends
	}{
		{"other program", head(100003, 3, 0, 0, 0, 0, 0), progUnavail},
		{"version 0", call(0, 0), reply(mismatch, 2, 4)},
		{"version 1", call(1, 0), reply(mismatch, 2, 4)},
		{"version 5", call(5, 0), reply(mismatch, 2, 4)},
		{"version 2^32-1", call(-1, 0), reply(mismatch, 2, 4)},
		{"v2 procedure 6", call(2, 6), procUnavail},
		{"v3 procedure 9", call(3, 9), procUnavail},
		{"v4 procedure 13", call(4, 13), procUnavail},
		{"v4 procedure 2^32-1", call(4, -1), procUnavail},
		{"AUTH_NONE with a body", head(100000, 2, 0, 0, 4, 7, 0, 0), success},
		{"AUTH_SYS", head(100000, 2, 0, 1, string(sys), 0, 0), success},
		{"AUTH_SYS with a verifier: ours is null", head(100000, 2, 0, 1, string(sys), 5, "verf"), success},
		{"AUTH_SYS, cut", head(100000, 2, 0, 1, string(sys[:20]), 0, 0), authErr(1)},
		{"AUTH_SHORT", head(100000, 2, 0, 2, "", 0, 0), authErr(2)},
		{"AUTH_DH", head(100000, 2, 0, 3, "", 0, 0), authErr(7)},
		{"RPCSEC_GSS", head(100000, 2, 0, 6, "token", 0, 0), authErr(1)},
		{"unknown flavor", head(100000, 2, 0, 390000, "", 0, 0), authErr(2)},
		{"bad credential before wrong version", head(100000, 9, 0, 2, "", 0, 0), authErr(2)},
		{"RPC version 3", words(xid, 0, 3, 100000, 2, 0, 0, 0, 0, 0), nil},
		{"a reply", words(xid, 1, 2, 100000, 2, 0, 0, 0, 0, 0), nil},
		{"credential of 404 bytes", head(100000, 2, 0, 0, strings.Repeat("c", 404), 0, 0), nil},
		{"verifier of 404 bytes", head(100000, 2, 0, 0, 0, 0, strings.Repeat("v", 404)), nil},
		{"cut in the verifier", head(100000, 2, 0, 0, 0, 0), nil},
		{"empty", nil, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, setup{})
			got, outcome := f.ask(unix(0), tt.msg)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("reply (-want +got):\n%s", diff)
			}
			if (outcome == portmapper.HangUp) != (tt.want == nil) {
				t.Errorf("outcome %d", outcome)
			}
		})
	}
}

// goodArgs are arguments of each procedure. Version 2 has the first six, in a
// form of its own.
func goodArgs(version, proc int) []byte {
	switch {
	case proc == 5 || proc == 10:
		return words(200001, 1, 0, "args")
	case version == 2 && 1 <= proc && proc <= 3:
		return words(200001, 1, 6, 4000)
	case proc >= 1 && proc <= 3 || proc == 9 || proc == 11:
		return words(200001, 1, "tcp", "0.0.0.0.15.160", "owner")
	case proc == 7:
		return words("1.2.3.4.0.111")
	case proc == 8:
		return words(16, strings.Repeat("\x02\x00", 8))
	}
	return nil
}

// lastProcs has the highest procedure of each version.
var lastProcs = map[int]int{2: 5, 3: 8, 4: 12}

// eachProc calls visit for each procedure of each version.
func eachProc(visit func(version, proc int)) {
	for version := 2; version <= 4; version++ {
		for proc := 0; proc <= lastProcs[version]; proc++ {
			visit(version, proc)
		}
	}
}

// TestTruncatedArgs cuts the arguments of each procedure at each length:
// nothing but the bytes of the message counts, so that each cut is garbage.
// CALLIT and BCAST may be broadcasts, and are met with silence.
func TestTruncatedArgs(t *testing.T) {
	f := newFixture(t, setup{})
	eachProc(func(version, proc int) {
		args := goodArgs(version, proc)
		for n := range len(args) {
			got, outcome := f.ask(loopback(rpcbind.UDP, 700), call(version, proc, args[:n]))
			if proc == 5 {
				if outcome != portmapper.Silence {
					t.Errorf("version %d procedure 5, %d of %d bytes: %x", version, n, len(args), got)
				}
				continue
			}
			if !bytes.Equal(got, garbageArgs) {
				t.Errorf("version %d procedure %d, %d of %d bytes: %x, want GARBAGE_ARGS", version, proc, n, len(args), got)
			}
		}
	})
	if got := f.services(); len(got) > 0 {
		t.Errorf("broken calls registered %v", got)
	}
}

// TestReplyIsAppended: what stands in the buffer stays.
func TestReplyIsAppended(t *testing.T) {
	f := newFixture(t, setup{})
	f.register(t, few...)
	w := f.NewWorker()
	eachProc(func(version, proc int) {
		for _, o := range []policy.Origin{unix(0), loopback(rpcbind.UDP, 700), client(rpcbind.UDP), alien(rpcbind.TCP)} {
			got, _ := w.Answer([]byte("mark"), call(version, proc, goodArgs(version, proc)), &o)
			if !bytes.HasPrefix(got, []byte("mark")) {
				t.Errorf("version %d procedure %d from %v: %q", version, proc, o.Channel, got)
			}
		}
	})
}
