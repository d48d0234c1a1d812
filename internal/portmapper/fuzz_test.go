package portmapper_test

import (
	"bytes"
	"net/netip"
	"testing"

	"rpcward/internal/policy"
	"rpcward/internal/portmapper"
	"rpcward/oncrpc"
	"rpcward/rpcbind"
)

// origins are ways to call, by number.
var origins = []policy.Origin{
	unix(0), unix(1000),
	loopback(rpcbind.UDP, 700), loopback(rpcbind.TCP6, 40000), self(rpcbind.UDP),
	client(rpcbind.UDP), client(rpcbind.UDP6),
	over(policy.Network, rpcbind.TCP, netip.MustParseAddr("10.99.0.3"), 40000, server4), // which never asks over UDP
	alien(rpcbind.UDP), alien(rpcbind.TCP6),
	{}, // of which the transport knew nothing
	over(policy.Network, rpcbind.UDP6, netip.MustParseAddr("fe80::2%lan"), 40000, netip.MustParseAddr("fe80::1%lan")),
}

// FuzzAnswer sends any bytes from anywhere: whatever they are, the answer is
// one to them, strangers and broken messages get none over UDP, nobody from
// the network gets more bytes than were sent, and the port mapper's own
// registrations stay.
func FuzzAnswer(f *testing.F) {
	eachProc(func(version, proc int) {
		for i := range origins {
			f.Add(uint8(i), call(version, proc, goodArgs(version, proc)))
		}
	})
	f.Add(uint8(5), words(xid, 0, 2, 100000, 2, 0, 1, string(words(0, "client", 0, 0, 1, 0)), 0, 0))
	fix := newFixture(f, setup{options: portmapper.Options{InsecureRemote: true, Forward: &portmapper.ForwardList{100001: {1}}}})
	fix.register(f, few...)
	fix.register(f, "100001 3 udp 0.0.0.0.15.160 superuser", "100004 2 udp6 ::.3.32 superuser")
	f.Fuzz(func(t *testing.T, from uint8, msg []byte) {
		o := origins[int(from)%len(origins)]
		w := fix.NewWorker()
		sent := bytes.Clone(msg)
		got, outcome := whole(w)(w.Answer(nil, msg, &o))
		if !bytes.Equal(msg, sent) {
			t.Fatal("the message was changed")
		}
		checkAnswer(t, &o, msg, got, outcome)
		if outcome == portmapper.Forward {
			got = w.Forwarded.Reply(nil, &oncrpc.Reply{Stat: oncrpc.MsgAccepted, Accept: oncrpc.Success, Results: make([]byte, 1<<15)})
			checkAnswer(t, &o, msg, got, portmapper.Reply)
		}
		if n := fix.registry.Snapshot().Len() - len(fix.services()); n != len(own()) {
			t.Fatalf("%d registrations of the port mapper's own, want %d", n, len(own()))
		}
	})
}

func checkAnswer(t *testing.T, o *policy.Origin, msg, got []byte, outcome portmapper.Outcome) {
	t.Helper()
	if outcome != portmapper.Reply && len(got) > 0 {
		t.Fatalf("outcome %d with a reply %x", outcome, got)
	}
	if len(got) == 0 {
		return
	}
	r, err := oncrpc.ParseReply(got)
	if err != nil || !bytes.Equal(got[:4], msg[:4]) {
		t.Fatalf("reply %x to %x: xid %x, %v", got, msg, r.XID, err)
	}
	stranger := o.Source.Addr() == alien4 || o.Source.Addr() == alien6
	switch {
	case o.NetID.Datagram() && stranger:
		t.Fatalf("a stranger got %x", got)
	case o.NetID.Datagram() && o.Channel == policy.Network && len(got) > len(msg):
		t.Fatalf("%d bytes for %d", len(got), len(msg))
	case o.NetID.Datagram() && len(got) > 8800:
		t.Fatalf("a datagram of %d bytes", len(got))
	}
}
