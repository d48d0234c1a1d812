package bench

import (
	"fmt"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"rpcward/rpcbind"
	"rpcward/test/lab"
	"rpcward/test/load"
)

// controlPort has a socket that nobody reads. A flood to it costs the client,
// which shares its core with the flood, what a flood of the server does.
const controlPort = 9

// floodKinds are the floods as the table calls them.
var floodKinds = []struct {
	kind load.Kind
	text string
}{
	{load.Calls, "refused calls"},
	{load.Garbage, "garbage"},
	{load.Fragments, "fragments"},
	{load.Spoofed, "refused calls from 100,000 networks"},
	{load.HalfOpen, "half-open TCP connections"},
	{load.Connects, "TCP connections"},
}

// measureFloods asks servers while a stranger floods them.
func measureFloods(t testing.TB, s scale) report {
	stock, ward, echo := rpcbindBed(t), rpcwardBed(t), echoBed(t)
	beds := []*bed{stock, ward}
	for _, b := range append(beds, echo) {
		b.start(setting{registrations: s.registrations[0]})
		b.holdControlPort()
	}
	got := samples{}
	for range s.runs {
		for _, b := range beds {
			got.add(b.look(s.local()).PerSecond, b.name, "alone")
		}
		for _, f := range floodKinds {
			for _, b := range beds {
				measureFlood(got, b, f.kind, s)
			}
		}
		for _, rate := range s.floodRates {
			for _, b := range append(beds, echo) {
				r, sent := b.during(load.Calls, rate, rpcbind.Port, s.local())
				got.add(r.PerSecond, b.name, "at", rate)
				got.add(sent.PerSecond, b.name, "sent", rate)
			}
		}
	}
	return report{tables: []table{floodTable(got, s)}, plots: []plot{floodPlot(got, s)}}
}

// local is the load of the host's own look-ups, which are asked again soon when
// one is lost: few losses must not empty the window. remote is an allowed client.
func (s *scale) local() lookups {
	return lookups{from: overLoopback, version: 2, window: s.window, registrations: s.registrations[0], warmup: s.warmup, time: s.time, timeout: 50 * time.Millisecond}
}

func (s *scale) remote() lookups {
	return lookups{from: overVeth, version: 2, window: 4096, rate: 2000, registrations: s.registrations[0], warmup: s.warmup, time: s.time}
}

// holdControlPort opens the sockets of the control, which the host ends with.
func (b *bed) holdControlPort() {
	b.t.Helper()
	u, err := b.Server.ListenPacket("udp4", ":"+strconv.Itoa(controlPort))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { u.Close() })
	l, err := b.Server.Listen("tcp4", ":"+strconv.Itoa(controlPort))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { l.Close() })
}

func measureFlood(got samples, b *bed, kind load.Kind, s scale) {
	key := fmt.Sprint(b.name, kind)
	control, _ := b.during(kind, s.floodRate, controlPort, s.local())
	got.add(control.PerSecond, key+"control")
	r, sent := b.during(kind, s.floodRate, rpcbind.Port, s.local())
	got.add(r.PerSecond, key+"local")
	got.add(sent.PerSecond, key, "sent")
	r, _ = b.during(kind, s.floodRate, rpcbind.Port, s.remote())
	got.add(100*float64(r.Lost)/float64(max(r.Sent, 1)), key, "lost")
	got.add(r.Micros.P99, key, "p99")
}

// during makes look-ups while a flood is under way.
func (b *bed) during(kind load.Kind, rate float64, port uint16, l lookups) (asked, flood load.Result) {
	b.t.Helper()
	lead := l.warmup // for the flood to fill the queues
	p := b.begin(b.Stranger, "flood", "-kind", string(kind), "-rate", fmt.Sprint(rate),
		"-addr", netip.AddrPortFrom(lab.ServerWAN, port).String(), "-time", (l.time + 3*lead).String())
	time.Sleep(lead)
	asked = b.look(l)
	b.read(p, &flood)
	return asked, flood
}

func floodTable(got samples, s scale) table {
	t := table{
		text: fmt.Sprintf("Look-ups while a stranger in a namespace of its own sends %s packets a second, or as many as it can; medians of %d runs by turns. Flood and client share a core, so the control is the same flood to a port that nobody reads: what is left is the server's part. A local look-up that is lost is asked again after 50 ms. The allowed client asks 2,000 times a second over veth; a call is lost after a second.", number(s.floodRate), s.runs),
		head: []string{"flood", "server", "sent per second", "local look-ups per second: no flood", "control", "flood", "left of control", "allowed client: lost", "99th percentile"},
	}
	for _, f := range floodKinds {
		for _, name := range []string{"rpcbind", "rpcward"} {
			key := fmt.Sprint(name, f.kind)
			t.add(f.text, name, got.show(key, "sent"), got.show(name, "alone"), got.show(key+"control"), got.show(key+"local"),
				percent(got.ratio(key+"local", key+"control")),
				fmt.Sprintf("%.1f %%", got.median(key, "lost")), got.micros(key, "p99"))
		}
	}
	return t
}

func floodPlot(got samples, s scale) plot {
	p := plot{file: "performance-floods.svg", title: "Local look-ups while a stranger is refused (GETPORT over UDP)", x: "refused calls per second"}
	for _, name := range []string{"rpcward", "rpcbind", "echo"} {
		line := series{name: name}
		for _, rate := range s.floodRates {
			line.points = append(line.points, point{got.median(name, "sent", rate), got.median(name, "at", rate)})
		}
		p.series = append(p.series, line)
	}
	return p
}
