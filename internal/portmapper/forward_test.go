package portmapper_test

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rpcward/internal/policy"
	"rpcward/internal/portmapper"
	"rpcward/oncrpc"
	"rpcward/rpcbind"
)

// registered for calls that are to be forwarded: two programs of the default
// list, NFS, and one on an address of its own.
var forwardable = []string{
	"100001 3 udp 0.0.0.0.15.160 superuser", "100001 4 udp 0.0.0.0.15.161 superuser", "100001 3 tcp 0.0.0.0.15.160 superuser",
	"100004 2 udp 10.98.0.1.3.32 superuser", "100004 2 udp6 ::.3.32 superuser",
	"100003 3 udp 0.0.0.0.8.1 superuser", "100005 3 udp 192.0.2.9.3.33 superuser",
}

func defaultForward() portmapper.Options {
	list := portmapper.DefaultForwardList()
	return portmapper.Options{Forward: &list}
}

// TestForward has which calls for others are forwarded, and where to.
func TestForward(t *testing.T) {
	udp := client(rpcbind.UDP)
	none := words() // silence
	tests := []struct {
		name   string
		origin policy.Origin
		call   []byte
		target string // of what is forwarded
		want   []byte // the reply, if it is not
	}{
		{"v2, on the list", udp, call(2, 5, 100001, 3, 1, "args"), "127.0.0.1:4000", nil},
		{"v3, on the list", udp, call(3, 5, 100001, 3, 1, "args"), "127.0.0.1:4000", nil},
		{"v4 broadcast, on the list", udp, call(4, 5, 100001, 3, 1, "args"), "127.0.0.1:4000", nil},
		{"v4 indirect, on the list", udp, call(4, 10, 100001, 3, 1, "args"), "127.0.0.1:4000", nil},
		{"to the address that it has", udp, call(3, 5, 100004, 2, 1, "args"), "10.98.0.1:800", nil},
		{"over IPv6", client(rpcbind.UDP6), call(3, 5, 100004, 2, 1, "args"), "[::1]:800", nil},
		{"procedure 0 of anything", udp, call(3, 5, 100003, 3, 0, ""), "127.0.0.1:2049", nil},

		{"from our own address", self(rpcbind.UDP), call(3, 5, 100001, 3, 1, "args"), "127.0.0.1:4000", nil},
		{"from our own IPv6 address, which can be forged", self(rpcbind.UDP6), call(3, 5, 100004, 2, 1, "args"), "", none},
		{"from our own IPv6 address, indirect", self(rpcbind.UDP6), call(4, 10, 100004, 2, 1, "args"), "", tooWeak},
		{"an address that we had", udp, call(3, 5, 100005, 3, 0, ""), "", none},
		{"not on the list", udp, call(3, 5, 100003, 3, 1, "args"), "", none},
		{"not on the list, indirect", udp, call(4, 10, 100003, 3, 1, "args"), "", tooWeak},
		{"another procedure of the list's program", udp, call(4, 10, 100001, 3, 2, "args"), "", tooWeak},
		{"not registered", udp, call(3, 5, 300000, 1, 0, ""), "", none},
		{"not registered, indirect", udp, call(4, 10, 300000, 1, 0, ""), "", progUnavail},
		{"another version", udp, call(4, 5, 100001, 9, 1, ""), "", none},
		{"another version, indirect", udp, call(4, 10, 100001, 9, 1, ""), "", reply(mismatch, 3, 4)},
		{"over TCP", client(rpcbind.TCP), call(3, 5, 100001, 3, 1, ""), "", none},
		{"over TCP, indirect", client(rpcbind.TCP), call(4, 10, 100001, 3, 1, ""), "", none},
		{"broken arguments", udp, call(3, 5, 100001, 3, 1, 400), "", none},
		{"broken arguments, indirect", udp, call(4, 10, 100001, 3, 1, 400), "", garbageArgs},

		{"itself, NULL", udp, call(3, 5, 100000, 4, 0, ""), "", reply(success, "10.99.0.1.0.111", "")},
		{"itself, NULL, version 2", udp, call(2, 5, 100000, 2, 0, ""), "", reply(success, 111, "")},
		{"itself, SET", udp, call(2, 5, 100000, 2, 1, string(words(200001, 1, 6, 4000))), "", none},
		{"itself, DUMP, indirect", udp, call(4, 10, 100000, 4, 4, ""), "", tooWeak},
		{"itself, CALLIT", udp, call(2, 5, 100000, 2, 5, string(words(100000, 2, 0, ""))), "", none},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, setup{options: defaultForward()})
			f.register(t, forwardable...)
			w := f.NewWorker()
			got, outcome := w.Answer([]byte("mark"), tt.call, &tt.origin)
			switch {
			case tt.target != "":
				if outcome != portmapper.Forward || w.Forwarded.Target.String() != tt.target || string(got) != "mark" {
					t.Errorf("outcome %d, target %v, buffer %q; want it forwarded to %s", outcome, w.Forwarded.Target, got, tt.target)
				}
			case len(tt.want) == 0:
				if outcome != portmapper.Silence || string(got) != "mark" {
					t.Errorf("outcome %d, %x; want silence", outcome, got[4:])
				}
			default:
				if diff := cmp.Diff(tt.want, got[4:]); diff != "" || outcome != portmapper.Reply {
					t.Errorf("outcome %d, reply (-want +got):\n%s", outcome, diff)
				}
			}
		})
	}
}

// TestForwardZeroList: the zero list forwards procedure 0 and nothing else.
func TestForwardZeroList(t *testing.T) {
	f := newFixture(t, setup{options: portmapper.Options{Forward: new(portmapper.ForwardList)}})
	f.register(t, forwardable...)
	if _, outcome := f.ask(client(rpcbind.UDP), call(3, 5, 100001, 3, 0, "")); outcome != portmapper.Forward {
		t.Errorf("procedure 0: outcome %d", outcome)
	}
	if _, outcome := f.ask(client(rpcbind.UDP), call(3, 5, 100001, 3, 1, "")); outcome != portmapper.Silence {
		t.Errorf("procedure 1: outcome %d", outcome)
	}
}

// TestForwardReply has what the caller gets of the service's answer.
func TestForwardReply(t *testing.T) {
	answer := oncrpc.Reply{Stat: oncrpc.MsgAccepted, Accept: oncrpc.Success, Results: []byte("answ")}
	failed := oncrpc.Reply{Stat: oncrpc.MsgAccepted, Accept: oncrpc.ProcUnavail}
	denied := oncrpc.Reply{Stat: oncrpc.MsgDenied, Reject: oncrpc.AuthError, Auth: oncrpc.AuthTooWeak}
	long := oncrpc.Reply{Stat: oncrpc.MsgAccepted, Accept: oncrpc.Success, Results: make([]byte, 200)}
	args := string(make([]byte, 100)) // so that the answer is not longer than the call
	tests := []struct {
		name    string
		call    []byte
		service *oncrpc.Reply
		want    []byte
	}{
		{"v2", call(2, 5, 100001, 3, 1, args), &answer, reply(success, 4000, "answ")},
		{"v3", call(3, 5, 100001, 3, 1, args), &answer, reply(success, "10.99.0.1.15.160", "answ")},
		{"v4 broadcast", call(4, 5, 100001, 3, 1, args), &answer, reply(success, "10.99.0.1.15.160", "answ")},
		{"v4 indirect", call(4, 10, 100001, 3, 1, args), &answer, reply(success, "10.99.0.1.15.160", "answ")},
		{"service failed", call(3, 5, 100001, 3, 1, args), &failed, nil},
		{"service failed, indirect", call(4, 10, 100001, 3, 1, args), &failed, systemErr},
		{"service denied, indirect", call(4, 10, 100001, 3, 1, args), &denied, systemErr},
		{"no answer", call(3, 5, 100001, 3, 1, args), nil, nil},
		{"no answer, indirect", call(4, 10, 100001, 3, 1, args), nil, systemErr},
		{"longer than the call", call(3, 5, 100001, 3, 1, args), &long, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, setup{options: defaultForward()})
			f.register(t, forwardable...)
			w, o := f.NewWorker(), client(rpcbind.UDP)
			if _, outcome := w.Answer(nil, tt.call, &o); outcome != portmapper.Forward {
				t.Fatalf("outcome %d", outcome)
			}
			if got := w.Forwarded.Reply(nil, tt.service); !bytes.Equal(got, tt.want) {
				t.Errorf("reply %x, want %x", got, tt.want)
			}
		})
	}
}

// TestForwardIsCounted: GETSTAT tells of each call for another program.
func TestForwardIsCounted(t *testing.T) {
	f := newFixture(t, setup{options: defaultForward()})
	f.register(t, forwardable...)
	w, o := f.NewWorker(), client(rpcbind.UDP)
	w.Answer(nil, call(2, 5, 100001, 3, 1, ""), &o)
	w.Forwarded.Reply(nil, &oncrpc.Reply{Stat: oncrpc.MsgAccepted, Accept: oncrpc.Success})
	w.Answer(nil, call(2, 5, 100001, 3, 1, ""), &o)
	w.Forwarded.Reply(nil, nil)
	f.ask(o, call(2, 5, 100003, 3, 1, ""))  // may not be forwarded
	f.ask(o, call(4, 10, 100003, 3, 1, "")) // counted by version 4
	want := words(
		0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, // calls
		0, 0, 0, // SETs, UNSETs, no look-ups
		1, 100003, 3, 1, 0, 1, 0, "udp", // success, failure, indirect
		1, 100001, 3, 1, 1, 1, 0, "udp",
		0)
	if got := f.stat(); !bytes.HasPrefix(got, want) {
		t.Errorf("GETSTAT: %x, want %x", got, want)
	}
	if last := words(1, 100003, 3, 1, 0, 1, 1, "udp", 0); !bytes.HasSuffix(f.stat(), last) {
		t.Errorf("GETSTAT: %x, want it to end in %x", f.stat(), last)
	}
	if f.notes.indirect != 2 {
		t.Errorf("the observer was told %+v", *f.notes)
	}
}

// TestForwardedCredentials: nothing of the caller goes to the service but the
// arguments.
func TestForwardedCredentials(t *testing.T) {
	f := newFixture(t, setup{options: defaultForward()})
	f.register(t, forwardable...)
	msg := words(xid, 0, 2, 100000, 3, 5, 1, string(words(0, "client", 0, 0, 0)), 0, 0, 100001, 3, 1, "args")
	w, o := f.NewWorker(), client(rpcbind.UDP)
	w.Answer(nil, msg, &o)
	want := rpcbind.RemoteCall{Program: 100001, Version: 3, Procedure: 1, Args: []byte("args")}
	if diff := cmp.Diff(want, w.Forwarded.Call); diff != "" {
		t.Errorf("forwarded call (-want +got):\n%s", diff)
	}
	if w.Forwarded.Target != netip.MustParseAddrPort("127.0.0.1:4000") {
		t.Errorf("target %v", w.Forwarded.Target)
	}
}
