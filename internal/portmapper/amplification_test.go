package portmapper_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"rpcward/internal/policy"
	"rpcward/internal/portmapper"
	"rpcward/rpcbind"
)

// many registers 700 services on all transports, and has GETSTAT count many.
func (f *fixture) many(t testing.TB) {
	t.Helper()
	for i := range 175 {
		p := fmt.Sprintf("%d.%d", 16+i/256, i%256)
		f.register(t,
			fmt.Sprintf("%d 1 tcp 0.0.0.0.%s superuser", 300000+i, p), fmt.Sprintf("%d 1 udp 0.0.0.0.%s superuser", 300000+i, p),
			fmt.Sprintf("%d 1 tcp6 ::.%s superuser", 300000+i, p), fmt.Sprintf("%d 1 udp6 ::.%s superuser", 300000+i, p))
		f.ask(unix(0), call(2, 3, 300000+i, 1, 6, 0))
	}
	f.register(t, "300000 1 local /"+strings.Repeat("p", 106)+" superuser")
}

// TestNoAmplification asks every procedure of every version over UDP from the
// network, of a host with 700 registrations: without a TCP exchange of the
// caller before, no answer is longer than the question.
func TestNoAmplification(t *testing.T) {
	for name, s := range map[string]setup{
		"listed":              {},
		"by default":          {allow: "sshd: ALL", def: policy.Allow},
		"forwarding, any SET": {options: portmapper.Options{InsecureRemote: true, InsecureLocal: true, Forward: &portmapper.ForwardList{}}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, s)
			f.many(t)
			eachQuestion(func(what string, msg []byte) {
				for _, n := range []rpcbind.NetID{rpcbind.UDP, rpcbind.UDP6} {
					if got, _ := f.ask(client(n), msg); len(got) > len(msg) {
						t.Errorf("%s over %v: %d bytes for %d", what, n, len(got), len(msg))
					}
				}
			})
		})
	}
}

// eachQuestion makes calls of every version and procedure, with the shortest
// arguments and with those that get the longest answers.
func eachQuestion(visit func(what string, msg []byte)) {
	for version := range 6 {
		for proc := range 16 {
			what := fmt.Sprintf("version %d procedure %d", version, proc)
			visit(what, call(version, proc))
			visit(what+" with arguments", call(version, proc, goodArgs(version, proc)))
			visit(what+" for a service", call(version, proc, 300000, 1, "", "", ""))
			visit(what+" for a port", call(version, proc, 300000, 1, 6, 0))
			visit(what+" of itself", call(version, proc, 100000, 4, 0, ""))
		}
	}
}

// TestValidated: a client that a rule lists gets long answers for ten minutes
// after a TCP exchange. One that is only let in by default does not.
func TestValidated(t *testing.T) {
	listed := newFixture(t, setup{})
	unlisted := newFixture(t, setup{allow: "sshd: ALL", def: policy.Allow})
	dump := call(2, 4)
	long := func(f *fixture, n rpcbind.NetID) bool {
		got, _ := f.ask(client(n), dump)
		full, _ := f.ask(loopback(n, 40000), dump)
		if !bytes.Equal(got, tooWeak) && !bytes.Equal(got, full) {
			t.Fatalf("DUMP over %v: %x", n, got)
		}
		return len(got) > len(dump)
	}
	for _, n := range []struct{ udp, tcp rpcbind.NetID }{{rpcbind.UDP, rpcbind.TCP}, {rpcbind.UDP6, rpcbind.TCP6}} {
		listed.machine.now = startTime
		if long(listed, n.udp) {
			t.Errorf("%v: a long answer before any TCP exchange", n.udp)
		}
		listed.ask(client(n.tcp), call(2, 0))
		unlisted.ask(client(n.tcp), call(2, 0))
		if !long(listed, n.udp) {
			t.Errorf("%v: no long answer after a TCP exchange", n.udp)
		}
		if long(unlisted, n.udp) {
			t.Errorf("%v: a long answer for a client that no rule lists", n.udp)
		}
		listed.machine.now += 599
		if !long(listed, n.udp) {
			t.Errorf("%v: no long answer after 599 seconds", n.udp)
		}
		listed.machine.now++
		if long(listed, n.udp) {
			t.Errorf("%v: a long answer after 600 seconds", n.udp)
		}
	}
}

// TestRefusedDoNotValidate: a TCP connection that was refused proves nothing.
func TestRefusedDoNotValidate(t *testing.T) {
	f := newFixture(t, setup{allow: "portmap: 10.99.0.0/24 EXCEPT 10.99.0.2"})
	f.ask(client(rpcbind.TCP), call(2, 0))
	o := client(rpcbind.UDP)
	if got, _ := f.ask(o, call(2, 4)); len(got) > 0 {
		t.Errorf("DUMP for a refused client: %x", got)
	}
}

// TestDatagramLimit: what is too long for a datagram is a SYSTEM_ERR, for this
// host, too; on a stream there is no limit.
func TestDatagramLimit(t *testing.T) {
	f := newFixture(t, setup{})
	f.many(t)
	for version := 2; version <= 4; version++ {
		got, _ := f.ask(loopback(rpcbind.TCP, 40000), call(version, 4))
		if want := len(success) + len(own())*20; len(got) < want {
			t.Errorf("DUMP of version %d over TCP: %d bytes", version, len(got))
		}
		want := systemErr
		if len(got) <= 8800 {
			want = got
		}
		if got, _ := f.ask(loopback(rpcbind.UDP, 40000), call(version, 4)); !bytes.Equal(got, want) {
			t.Errorf("DUMP of version %d over UDP: %d bytes, want %d", version, len(got), len(want))
		}
	}
}
