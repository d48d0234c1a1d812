package portmapper_test

import (
	"bytes"
	"fmt"
	"testing"

	"rpcward/internal/policy"
	"rpcward/internal/portmapper"
	"rpcward/rpcbind"
)

// TestGate asks as a stranger for every version from 0 to 5 and every procedure
// from 0 to 15, with good and bad credentials and arguments: nothing gets an
// answer over UDP, everything the same one over TCP, nothing changes, nothing
// is counted.
func TestGate(t *testing.T) {
	f := newFixture(t, setup{deny: "ALL: ALL", options: portmapper.Options{InsecureRemote: true, Forward: &portmapper.ForwardList{}}})
	f.register(t, few...)
	before, stat := f.services(), f.stat()
	refused := 0
	for version := range 6 {
		for proc := range 16 {
			good := call(version, proc, goodArgs(version, proc))
			for name, msg := range map[string][]byte{
				"good":           good,
				"no arguments":   call(version, proc),
				"bad credential": append(words(xid, 0, 2, 100000, version, proc, 6, 0, 0, 0), goodArgs(version, proc)...),
				"other program":  append(words(xid, 0, 2, 100003), good[16:]...),
				"not a call":     good[:11],
			} {
				for _, n := range []rpcbind.NetID{rpcbind.UDP, rpcbind.UDP6, rpcbind.TCP, rpcbind.TCP6} {
					what := fmt.Sprintf("%s: version %d procedure %d over %v", name, version, proc, n)
					got, outcome := f.ask(alien(n), msg)
					refused++
					if name == "not a call" && !n.Datagram() {
						if outcome != portmapper.HangUp || len(got) > 0 {
							t.Errorf("%s: outcome %d, %x", what, outcome, got)
						}
						continue
					}
					checkRefused(t, what, n, got, outcome)
				}
			}
		}
	}
	if got := f.services(); fmt.Sprint(got) != fmt.Sprint(before) {
		t.Errorf("strangers changed the registry: %v, was %v", got, before)
	}
	const beforeV4 = 2 * 17 * 4 // versions 2 and 3, without names; that of 4 counts the asking
	if got := f.stat(); !bytes.Equal(got[:beforeV4], stat[:beforeV4]) {
		t.Errorf("strangers were counted: %x, was %x", got, stat)
	}
	if f.notes.refused != refused || f.notes.declined != 0 || f.notes.indirect != 0 {
		t.Errorf("the observer was told %+v, want %d refusals", *f.notes, refused)
	}
}

func checkRefused(t *testing.T, what string, n rpcbind.NetID, got []byte, outcome portmapper.Outcome) {
	t.Helper()
	if n.Datagram() {
		if outcome != portmapper.Refused || len(got) > 0 {
			t.Errorf("%s: outcome %d, %x; want silence", what, outcome, got)
		}
		return
	}
	if outcome != portmapper.Reply || !bytes.Equal(got, tooWeak) {
		t.Errorf("%s: outcome %d, %x; want AUTH_TOOWEAK", what, outcome, got)
	}
}

// stat is GETSTAT's result, asked as root.
func (f *fixture) stat() []byte {
	got, _ := f.ask(unix(0), call(4, 12))
	return got[len(success):]
}

// TestGateLetsIn: what the policy allows is answered, over every transport, and
// this host whatever the policy says.
func TestGateLetsIn(t *testing.T) {
	f := newFixture(t, setup{})
	closed := newFixture(t, setup{allow: "sshd: ALL", deny: "ALL: ALL"})
	for _, n := range []rpcbind.NetID{rpcbind.UDP, rpcbind.UDP6, rpcbind.TCP, rpcbind.TCP6} {
		for what, ask := range map[string]func() ([]byte, portmapper.Outcome){
			"a client":                func() ([]byte, portmapper.Outcome) { return f.ask(client(n), call(2, 0)) },
			"loopback, all denied":    func() ([]byte, portmapper.Outcome) { return closed.ask(loopback(n, 40000), call(2, 0)) },
			"own address, all denied": func() ([]byte, portmapper.Outcome) { return closed.ask(self(n), call(2, 0)) },
		} {
			if got, outcome := ask(); outcome != portmapper.Reply || !bytes.Equal(got, success) {
				t.Errorf("%s over %v: outcome %d, %x", what, n, outcome, got)
			}
		}
	}
	if got, _ := closed.ask(unix(1000), call(2, 0)); !bytes.Equal(got, success) {
		t.Errorf("unix, all denied: %x", got)
	}
}

// self is a caller from the address that it calls, as the kernel reports a
// datagram that this host sends to itself.
func self(n rpcbind.NetID) policy.Origin {
	if n.Is6() {
		return over(policy.Claimed, n, server6, 40000, server6)
	}
	return over(policy.Claimed, n, server4, 40000, server4)
}

// TestSelf: who calls from the host's own address is told what loopback is
// told, and may change as little as anybody from the network.
func TestSelf(t *testing.T) {
	f := newFixture(t, setup{})
	f.register(t, few...)
	for _, proc := range []int{4, 12} {
		near, _ := f.ask(self(rpcbind.UDP), call(4, proc))
		if bytes.Equal(near, tooWeak) || len(near) < 200 {
			t.Errorf("procedure %d from the own address: %x", proc, near)
		}
	}
	if got, _ := f.ask(self(rpcbind.UDP), call(4, 4)); !bytes.Contains(got, []byte("/run/statd.sock")) {
		t.Error("DUMP to the own address hides paths")
	}
	if got, _ := f.ask(self(rpcbind.UDP), call(2, 3, 100024, 1, 6, 0)); !bytes.Equal(got, reply(success, 662)) {
		t.Errorf("GETPORT of a service on loopback from the own address: %x", got)
	}
	priv := self(rpcbind.UDP)
	priv.Source = over(policy.Claimed, rpcbind.UDP, server4, 700, server4).Source
	if got, _ := f.ask(priv, call(2, 1, 200001, 1, 6, 4000)); !bytes.Equal(got, tooWeak) {
		t.Errorf("SET in a datagram with our own source address: %x, want AUTH_TOOWEAK", got)
	}
}

// TestDeclined: SET and UNSET from where they may not come are declined before
// their arguments are read.
func TestDeclined(t *testing.T) {
	f := newFixture(t, setup{})
	f.register(t, few...)
	before := fmt.Sprint(f.services())
	asked := 0
	for _, o := range []policy.Origin{
		client(rpcbind.UDP), client(rpcbind.TCP), client(rpcbind.UDP6), client(rpcbind.TCP6),
		over(policy.Network, rpcbind.TCP, client4, 700, server4), // a privileged port of another host
		over(policy.Network, rpcbind.UDP, loop4, 700, server4),   // a forged source
		loopback(rpcbind.UDP, 1024), loopback(rpcbind.TCP6, 40000),
	} {
		for version := 2; version <= 4; version++ {
			for proc := 1; proc <= 2; proc++ {
				for _, args := range [][]byte{goodArgs(version, proc), nil} {
					asked++
					got, outcome := f.ask(o, call(version, proc, args))
					if forged := o.Source.Addr() == loop4 && o.Channel == policy.Network; forged {
						asked--
						checkRefused(t, "a forged source", o.NetID, got, outcome)
					} else if !bytes.Equal(got, tooWeak) {
						t.Errorf("version %d procedure %d from %v %v: %x, want AUTH_TOOWEAK", version, proc, o.Channel, o.Source, got)
					}
				}
			}
		}
	}
	if got := fmt.Sprint(f.services()); got != before {
		t.Errorf("registry is %v, was %v", got, before)
	}
	if f.notes.declined != asked {
		t.Errorf("the observer was told of %d declined calls, want %d", f.notes.declined, asked)
	}
}
