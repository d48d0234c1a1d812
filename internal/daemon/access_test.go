package daemon

import (
	"errors"
	"fmt"
	"log/syslog"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"rpcward/hostsaccess"
	"rpcward/internal/policy"
	"rpcward/internal/portmapper"
	"rpcward/internal/registry"
	"rpcward/oncrpc"
	"rpcward/rpcbind"
)

// lines is a sink that keeps what it is given.
type lines []string

func (l *lines) write(_ syslog.Priority, text string) { *l = append(*l, text) }

// logged returns the lines that a log has when visit is done with it.
func logged(t *testing.T, rates policy.Rates, visit func(a *accessLog)) (got lines) {
	t.Helper()
	synctest.Test(t, func(*testing.T) {
		q := newLogQueue(&got)
		visit(newAccessLog(q, false, rates))
		q.close()
	})
	return got
}

// callFrom is a datagram from an address in a second.
func callFrom(addr string, second int) *policy.Origin {
	return &policy.Origin{
		Channel: policy.Network, NetID: rpcbind.UDP, At: int64(second) * int64(time.Second),
		Source: netip.AddrPortFrom(netip.MustParseAddr(addr), 40000), Local: netip.MustParseAddrPort("10.99.0.1:111"),
	}
}

var (
	dump    = &oncrpc.Call{Program: rpcbind.Program, Version: 2, Procedure: 4}
	getPort = &oncrpc.Call{Program: rpcbind.Program, Version: 2, Procedure: 3,
		Args: rpcbind.AppendMapping(nil, rpcbind.Mapping{Program: 100003, Version: 3, Prot: rpcbind.ProtTCP})}
)

// TestAccessLines: the first refusal of a source prefix has a line, in rpcbind's
// words, and what more came of it another one when the interval ends.
func TestAccessLines(t *testing.T) {
	t.Parallel()
	refuse := func(a *accessLog, addr string, calls int, c *oncrpc.Call) {
		for range calls {
			a.Refused(callFrom(addr, 1), c, policy.Decision{})
		}
	}
	limit := func(a *accessLog, addr string, calls int) {
		for range calls {
			a.Limited(callFrom(addr, 1), getPort)
		}
	}
	for _, tt := range []struct {
		name  string
		rates policy.Rates
		visit func(a *accessLog)
		want  lines
	}{
		{"one", policy.Rates{}, func(a *accessLog) { refuse(a, "192.0.2.7", 1, dump) }, lines{
			"connect from 192.0.2.7 to dump(): request from unauthorized host",
		}},
		{"many of one", policy.Rates{}, func(a *accessLog) { refuse(a, "192.0.2.7", 1_234_568, getPort) }, lines{
			"connect from 192.0.2.7 to getport/addr(nfs): request from unauthorized host",
			"1,234,567 more requests from unauthorized hosts in 192.0.2.0/24 in the last 10 s, last from 192.0.2.7 to getport/addr(nfs)",
		}},
		{"its neighbour", policy.Rates{}, func(a *accessLog) {
			refuse(a, "192.0.2.7", 1, getPort)
			refuse(a, "192.0.2.9", 1, dump)
		}, lines{
			"connect from 192.0.2.7 to getport/addr(nfs): request from unauthorized host",
			"1 more request from an unauthorized host in 192.0.2.0/24 in the last 10 s, last from 192.0.2.9 to dump()",
		}},
		{"IPv6", policy.Rates{}, func(a *accessLog) {
			refuse(a, "2001:db8:0:1::7", 2, dump)
			refuse(a, "fe80::1%lan", 4, dump)
		}, lines{
			"connect from 2001:db8:0:1::7 to dump(): request from unauthorized host",
			"connect from fe80::1%lan to dump(): request from unauthorized host",
			"3 more requests from unauthorized hosts in fe80::/56 in the last 10 s, last from fe80::1%lan to dump()",
			"1 more request from an unauthorized host in 2001:db8::/56 in the last 10 s, last from 2001:db8:0:1::7 to dump()",
		}},
		{"again in another interval", policy.Rates{}, func(a *accessLog) {
			refuse(a, "192.0.2.7", 2, dump)
			a.summarize(9999 * time.Millisecond)
			refuse(a, "192.0.2.7", 1, dump)
		}, lines{
			"connect from 192.0.2.7 to dump(): request from unauthorized host",
			"1 more request from an unauthorized host in 192.0.2.0/24 in the last 10 s, last from 192.0.2.7 to dump()",
			"connect from 192.0.2.7 to dump(): request from unauthorized host",
		}},
		{"over the rate", policy.Rates{}, func(a *accessLog) { limit(a, "192.0.2.7", 1001) }, lines{
			"connect from 192.0.2.7 to getport/addr(nfs): held back by the rate limit",
			"1,000 more answers held back by the rate limit in 192.0.2.0/24 in the last 10 s, last from 192.0.2.7 to getport/addr(nfs)",
		}},
		{"over the rate, logged only", policy.Rates{LogOnly: true}, func(a *accessLog) { limit(a, "192.0.2.7", 2) }, lines{
			"connect from 192.0.2.7 to getport/addr(nfs): answered over the rate limit",
			"1 more answer over the rate limit in 192.0.2.0/24 in the last 10 s, last from 192.0.2.7 to getport/addr(nfs)",
		}},
		{"dropped in the kernel", policy.Rates{}, func(a *accessLog) {
			a.DroppedInKernel(4_000_000)
			a.DroppedInKernel(1)
		}, lines{
			"4,000,001 packets of refused networks dropped in the kernel during a flood, in the last 10 s",
		}},
		{"not saved", policy.Rates{}, func(a *accessLog) {
			for range refusedLines + 3 {
				a.NotSaved(errors.New("no space"))
			}
		}, append(repeat(refusedLines, "a change was refused since it can't be saved: no space"), "3 more suppressed: changes that can't be saved")},
		{"nothing", policy.Rates{}, func(*accessLog) {}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := logged(t, tt.rates, func(a *accessLog) {
				tt.visit(a)
				a.summarize(10 * time.Second)
				a.summarize(10 * time.Second)
			})
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("lines (-want +got):\n%s", d)
			}
		})
	}
}

func repeat(n int, text string) (list lines) {
	for range n {
		list = append(list, text)
	}
	return list
}

var number = regexp.MustCompile(`^([0-9,]+) (?:more )?requests? from`)

// sum returns how many refused calls the lines tell of.
func (l lines) sum(t *testing.T) (calls int) {
	t.Helper()
	for _, line := range l {
		if strings.HasSuffix(line, ": request from unauthorized host") {
			calls++
		} else if m := number.FindStringSubmatch(line); m != nil {
			n, err := strconv.Atoi(strings.ReplaceAll(m[1], ",", ""))
			if err != nil {
				t.Fatal(err)
			}
			calls += n
		} else {
			t.Errorf("line %q", line)
		}
	}
	return calls
}

// TestAccessLogUnderForgedFlood: 200,000 prefixes in ten seconds cost a few
// lines, who calls most is named, and no call is lost from the count.
func TestAccessLogUnderForgedFlood(t *testing.T) {
	t.Parallel()
	const forged, seconds = 200_000, 10
	got := logged(t, policy.Rates{}, func(a *accessLog) {
		for i := range forged {
			o := callFrom("192.0.2.7", i*seconds/forged)
			a.Refused(o, dump, policy.Decision{})
			o.Source = netip.AddrPortFrom(netip.AddrFrom4([4]byte{byte(11 + i>>16), byte(i >> 8), byte(i), 7}), 1)
			a.Refused(o, dump, policy.Decision{})
			if i%1000 == 0 {
				synctest.Wait() // until the lines are written
			}
		}
		a.summarize(seconds * time.Second)
	})
	if most := seconds*refusedLines + summaryLines + 1; len(got) > most {
		t.Errorf("%d lines, want at most %d", len(got), most)
	}
	if n := got.sum(t); n != 2*forged {
		t.Errorf("%d calls in the lines, want %d", n, 2*forged)
	}
	all := strings.Join(got, "\n")
	for _, want := range []string{
		"\n199,999 more requests from unauthorized hosts in 192.0.2.0/24 in the last 10 s, last from 192.0.2.7 to dump()\n",
		" other networks in the last 10 s",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("lines\n%s\nhave no %q", all, want)
		}
	}
	if n := len(regexp.MustCompile(`in about [12][0-9]{2},[0-9]{3} other networks`).FindAllString(all, -1)); n != 1 {
		t.Errorf("%d lines about the others in\n%s", n, all)
	}
}

// TestAccessLogWithoutRoom: what the log has no room for is told of later.
func TestAccessLogWithoutRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &gate{open: make(chan struct{})}
		q := newLogQueue(g)
		a := newAccessLog(q, false, policy.Rates{})
		q.write(0, "first")
		synctest.Wait() // until the sink has it, and nothing waits
		fill := texts("line", queueSize-queueReserve)
		for _, text := range fill {
			q.write(0, text)
		}
		const calls, dropped = 5, 70
		for range calls {
			a.Refused(callFrom("192.0.2.7", 1), dump, policy.Decision{})
		}
		a.DroppedInKernel(dropped)
		a.summarize(time.Second)
		a.Refused(callFrom("192.0.2.7", 1), dump, policy.Decision{})
		a.summarize(time.Second)
		close(g.open)
		q.flush()
		a.summarize(time.Second)
		q.close()
		want := append(append([]string{"first"}, fill...),
			"6 more requests from unauthorized hosts in other networks in the last 1 s",
			"70 packets of refused networks dropped in the kernel during a flood, in the last 1 s")
		if d := cmp.Diff(want, g.lines); d != "" {
			t.Errorf("lines (-want +got):\n%s", d)
		}
	})
}

// TestRefusals: the counts can be read, now and after they were told of.
func TestRefusals(t *testing.T) {
	t.Parallel()
	logged(t, policy.Rates{}, func(a *accessLog) {
		for i := range 10 {
			a.Refused(callFrom(fmt.Sprintf("192.0.%d.7", i/7), 1), dump, policy.Decision{})
		}
		for range 2 {
			top := a.Refusals().Top(1)
			if len(top) != 1 || top[0].Prefix.String() != "192.0.0.0/24" || top[0].Calls != 7 || a.Refusals().Total() != 10 {
				t.Errorf("top %+v, %d in all", top, a.Refusals().Total())
			}
			a.summarize(time.Second)
		}
	})
}

// refusals is a port mapper that refuses whom deny names, with its log.
func refusals(t testing.TB, rates policy.Rates, deny string) *portmapper.Worker {
	t.Helper()
	p, _, err := policy.New(nil, hostsaccess.Parse("hosts.deny", []byte(deny)), policy.Options{Default: policy.Allow})
	if err != nil {
		t.Fatal(err)
	}
	q := newLogQueue(new(lines))
	t.Cleanup(q.close)
	a := newAccessLog(q, false, rates)
	m := portmapper.New(registry.New(nil, nil, nil), func() *policy.Policy { return p }, new(host), a, portmapper.Options{Rates: rates})
	return m.NewWorker()
}

// TestRefusingDoesNotAllocate: from the message to the count, whoever sends,
// once the lines of this second are used up.
func TestRefusingDoesNotAllocate(t *testing.T) {
	for _, tt := range []struct {
		name     string
		deny     string
		rates    policy.Rates
		prefixes int
	}{
		{"refused", "ALL: ALL\n", policy.Rates{}, 1},
		{"refused, forged prefixes", "ALL: ALL\n", policy.Rates{}, 1 << 16},
		{"over the rate", "", policy.Rates{Unlisted: 1}, 1},
		{"over the rate, forged prefixes", "", policy.Rates{Unlisted: 1}, 100},
	} {
		w := refusals(t, tt.rates, tt.deny)
		o, msg, n := callFrom("192.0.2.7", 1), oncrpc.AppendCall(nil, getPort), 0
		ask := func() {
			n++
			i := n % tt.prefixes
			o.Source = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 7}), 1)
			w.Answer(nil, msg, o)
		}
		for range 1000 { // with the first lines, and the first calls of each prefix
			ask()
		}
		if allocs := testing.AllocsPerRun(5000, ask); allocs != 0 {
			t.Errorf("%s: %v allocations", tt.name, allocs)
		}
	}
}

func BenchmarkRefuse(b *testing.B) {
	for name, prefixes := range map[string]int{"one prefix": 1, "forged prefixes": 1 << 16} {
		b.Run(name, func(b *testing.B) {
			w := refusals(b, policy.Rates{}, "ALL: ALL\n")
			o, msg, n := callFrom("192.0.2.7", 1), oncrpc.AppendCall(nil, getPort), 0
			for b.Loop() {
				n++
				i := n % prefixes
				o.Source = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 7}), 1)
				w.Answer(nil, msg, o)
			}
		})
	}
}
