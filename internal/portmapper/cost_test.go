package portmapper_test

import (
	"testing"

	"rpcward/internal/policy"
	"rpcward/internal/portmapper"
	"rpcward/rpcbind"
)

// cheap are the calls that must cost no memory: what a flood is made of, and
// what every mount asks.
func cheap() []cheapCall {
	v6 := words(100003, 3, "udp6", "fd99::1.0.111", "")
	return []cheapCall{
		{"NULL", client(rpcbind.UDP), call(2, 0), portmapper.Reply},
		{"GETPORT", client(rpcbind.UDP), call(2, 3, 100003, 3, 17, 0), portmapper.Reply},
		{"GETPORT of nothing", client(rpcbind.UDP), call(2, 3, 200009, 3, 17, 0), portmapper.Reply},
		{"GETADDR", client(rpcbind.UDP), call(3, 3, 100003, 3, "udp", "10.99.0.1.0.111", ""), portmapper.Reply},
		{"GETADDR over IPv6", client(rpcbind.UDP6), call(4, 3, v6), portmapper.Reply},
		{"GETADDR with another hint", client(rpcbind.UDP), call(4, 3, 100003, 3, "udp", "10.98.0.1.0.111", ""), portmapper.Reply},
		{"GETTIME", client(rpcbind.UDP), call(4, 6), portmapper.Reply},
		{"DUMP, too long", client(rpcbind.UDP), call(4, 4), portmapper.Reply},
		{"GETPORT over TCP", client(rpcbind.TCP), call(2, 3, 100003, 3, 17, 0), portmapper.Reply},
		{"DUMP over TCP", client(rpcbind.TCP), call(4, 4), portmapper.Part},
		{"GETADDRLIST", client(rpcbind.TCP), call(4, 11, 100003, 3, "udp", "", ""), portmapper.Reply},
		{"refused", alien(rpcbind.UDP), call(2, 3, 100003, 3, 17, 0), portmapper.Refused},
		{"refused over IPv6", alien(rpcbind.UDP6), call(4, 3, v6), portmapper.Refused},
		{"refused over TCP", alien(rpcbind.TCP), call(4, 4), portmapper.Reply},
		{"SET from the network", client(rpcbind.UDP), call(2, 1, 100003, 3, 17, 2049), portmapper.Reply},
		{"CALLIT, off", client(rpcbind.UDP), call(2, 5, 100003, 3, 1, "args"), portmapper.Silence},
		{"garbage", client(rpcbind.UDP), call(4, 3, 100003), portmapper.Reply},
		{"not RPC", client(rpcbind.UDP), []byte("GET / HTTP/1.1\r\n\r\n"), portmapper.HangUp},
	}
}

type cheapCall struct {
	name   string
	origin policy.Origin
	msg    []byte
	want   portmapper.Outcome
}

func costFixture(t testing.TB) *fixture {
	f := newFixture(t, setup{options: portmapper.Options{Rates: policy.DefaultRates()}})
	f.many(t)
	f.register(t, "100003 3 udp 0.0.0.0.8.1 superuser", "100003 3 udp6 ::.8.1 superuser")
	return f
}

func TestAnswerDoesNotAllocate(t *testing.T) {
	f := costFixture(t)
	w, buf := f.NewWorker(), make([]byte, 0, 1<<16)
	for _, c := range cheap() {
		var outcome portmapper.Outcome
		allocs := testing.AllocsPerRun(100, func() { _, outcome = w.Answer(buf, c.msg, &c.origin) })
		if allocs != 0 || outcome != c.want {
			t.Errorf("%s: %v allocations, outcome %d; want none, %d", c.name, allocs, outcome, c.want)
		}
	}
}

func BenchmarkAnswer(b *testing.B) {
	f := costFixture(b)
	for _, c := range cheap() {
		b.Run(c.name, func(b *testing.B) {
			w, buf := f.NewWorker(), make([]byte, 0, 1<<16)
			b.ReportAllocs()
			for b.Loop() {
				c.origin.At += 2000 // nanoseconds, so that it stays within its rate
				w.Answer(buf, c.msg, &c.origin)
			}
		})
	}
}
