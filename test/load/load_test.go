package load

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/xdr"
)

// The histogram agrees with a sorted list to within a bucket.
func TestHistogram(t *testing.T) {
	var h, half Histogram
	rng := rand.New(rand.NewPCG(1, 2))
	var list []time.Duration
	for i := range 20_000 {
		d := time.Duration(rng.Int64N(1 << (1 + rng.IntN(40))))
		list = append(list, d)
		if i%2 == 0 {
			h.Record(d)
		} else {
			half.Record(d)
		}
	}
	h.Add(&half)
	slices.Sort(list)
	if h.Count() != uint64(len(list)) || h.Max() != list[len(list)-1] {
		t.Errorf("%d values to %v, want %d to %v", h.Count(), h.Max(), len(list), list[len(list)-1])
	}
	for _, q := range []float64{0, .1, .5, .9, .99, .999, 1} {
		want := list[max(int(q*float64(len(list))+.5)-1, 0)]
		got := h.Quantile(q)
		if got < want || float64(got) > float64(want)*(1+1.0/subs) {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
}

func TestHistogramOfExtremes(t *testing.T) {
	var h Histogram
	if h.Quantile(.5) != 0 || h.Max() != 0 {
		t.Error("the quantile of nothing is not 0")
	}
	h.Record(-1)
	if h.Quantile(1) != 0 {
		t.Error("a negative duration is not 0")
	}
	h.Record(1<<63 - 1)
	if got := h.Quantile(1); got != 1<<63-1 {
		t.Errorf("the longest duration is %v", got)
	}
}

// answer is what a port mapper would say to a call, read by the reader of the program.
func answer(t *testing.T, message []byte) (oncrpc.Call, xdr.Reader) {
	t.Helper()
	c, err := oncrpc.ParseCall(message)
	if err != nil {
		t.Fatal(err)
	}
	return c, xdr.NewReader(c.Args)
}

func TestQuestions(t *testing.T) {
	const r = Registration(7) // the fourth program, over TCP
	c, args := answer(t, GetPort(r).Call)
	if m := rpcbind.ReadMapping(&args); c.Version != 2 || c.Procedure != 3 || m != (rpcbind.Mapping{Program: FirstProgram + 3, Version: 1, Prot: rpcbind.ProtTCP}) {
		t.Errorf("GETPORT: %+v %+v", c, m)
	}
	c, args = answer(t, GetAddr(r, netip.MustParseAddr("10.99.0.1")).Call)
	if m := rpcbind.ReadRPCB(&args); c.Version != 4 || c.Procedure != 3 || m.Program != FirstProgram+3 || string(m.NetID) != "tcp" || string(m.Addr) != "10.99.0.1.0.111" {
		t.Errorf("GETADDR: %+v %+v", c, m)
	}
	c, args = answer(t, Set(r).Call)
	if m := rpcbind.ReadRPCB(&args); c.Version != 4 || c.Procedure != 1 || string(m.Addr) != "0.0.0.0.4.3" {
		t.Errorf("SET: %+v %+v", c, m)
	}
	if c, _ = answer(t, Unset(r).Call); c.Procedure != 2 {
		t.Errorf("UNSET: %+v", c)
	}
}

// Only the right reply is right: another port, another status, a byte less.
func TestReplyIsChecked(t *testing.T) {
	q := GetPort(7)
	good := append(oncrpc.AppendAccepted(nil, 99, oncrpc.Success), 0, 0, 4, 3)
	if !q.right(good) {
		t.Error("the right reply is wrong")
	}
	for name, bad := range map[string][]byte{
		"another port": append(oncrpc.AppendAccepted(nil, 99, oncrpc.Success), 0, 0, 4, 4),
		"not accepted": oncrpc.AppendAuthError(nil, 99, 5),
		"unavailable":  append(oncrpc.AppendAccepted(nil, 99, oncrpc.ProcUnavail), 0, 0, 4, 3),
		"short":        good[:len(good)-1],
		"long":         append(slices.Clone(good), 0),
	} {
		if q.right(bad) {
			t.Errorf("%s: taken for right", name)
		}
	}
	if !(&Question{}).right(good) {
		t.Error("an unchecked reply is wrong")
	}
}

// TestLoadCounts has a server that answers most calls, some wrongly, some twice
// and some never, and counts with it.
func TestLoadCounts(t *testing.T) {
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		buf := make([]byte, 2048)
		for i := 1; ; i++ {
			n, from, err := server.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			reply := append(oncrpc.AppendAccepted(nil, xidOf(buf[:n]), oncrpc.Success), 0, 0, 4, 0)
			switch i % 10 {
			case 1:
				continue
			case 2:
				reply[len(reply)-1]++
			case 3:
				server.WriteToUDPAddrPort(reply, from)
			}
			server.WriteToUDPAddrPort(reply, from)
		}
	}()
	for _, rate := range []float64{0, 500} {
		r, err := Run(Plan{
			Network: "udp", Addr: server.LocalAddr().(*net.UDPAddr).AddrPort(), Sockets: 1, Window: 8, Rate: rate,
			Time: 300 * time.Millisecond, Timeout: 50 * time.Millisecond,
			Asker: func(int) Asker { return &Rotation{Questions: []Question{GetPort(0)}} },
		})
		if err != nil {
			t.Fatal(err)
		}
		if r.Answered == 0 || r.Wrong == 0 || r.Late == 0 || r.Lost == 0 {
			t.Errorf("at rate %v: %+v, want some of each", rate, r)
		}
	}
}

// A flood's packets are those that it says they are.
func TestFloodPackets(t *testing.T) {
	to := netip.MustParseAddrPort("10.98.0.1:111")
	for _, kind := range []Kind{Fragments, Spoofed, HalfOpen} {
		f := Flood{Kind: kind, Addr: to, Prefixes: 1000}
		p := f.packet()
		f.vary(p, 7)
		if p[0] != 0x45 || netip.AddrFrom4([4]byte(p[16:])) != to.Addr() || p[ipHeader+3] != 111 {
			t.Errorf("%s: % x", kind, p)
		}
		source := netip.AddrFrom4([4]byte(p[ipSource:]))
		switch kind {
		case Fragments:
			if p[ipFragment] != 0x20 || len(p[ipHeader:])%8 != 0 || !source.IsUnspecified() {
				t.Errorf("not a first fragment: % x", p)
			}
		case Spoofed:
			if _, err := oncrpc.ParseCall(p[ipHeader+udpHeader:]); err != nil || source != netip.MustParseAddr("11.0.7.5") {
				t.Errorf("no call from 11.0.7.5: %v, %v", source, err)
			}
		case HalfOpen:
			if p[ipHeader+13] != 2 || tcpChecksum(p) != 0 || source != netip.MustParseAddr("11.0.7.5") {
				t.Errorf("no SYN from 11.0.7.5 with a right checksum: % x", p)
			}
		}
	}
}

// A paced flood sends what its rate says, no matter how it is cut.
func TestPace(t *testing.T) {
	for _, rate := range []float64{100, 5000, 1e6} {
		f := Flood{Rate: rate, Time: 100 * time.Millisecond}
		p := f.pace()
		for n := p.next(batchSize); n > 0; n = p.next(batchSize) {
			p.sent += uint64(n)
		}
		if most := rate/10 + batchSize; float64(p.sent) > most || p.sent == 0 {
			t.Errorf("%d packets at %v a second, want at most %v", p.sent, rate, most)
		}
	}
}

// The loop of look-ups costs the client no allocation per call.
func TestSendingDoesNotAllocate(t *testing.T) {
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	fd, err := dialUDP(server.LocalAddr().(*net.UDPAddr).AddrPort())
	if err != nil {
		t.Fatal(err)
	}
	out := segments{fd: fd}
	message := GetPort(0).Call
	if n := testing.AllocsPerRun(100, func() {
		for range 2 * batchSize {
			if _, err := out.add(message); err != nil {
				t.Fatal(err)
			}
		}
		if err := out.flush(); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
