package bench

import (
	"fmt"
	"testing"
	"time"
)

// measureLookups asks each server as fast as it answers, and one call at a
// time, with few rules and registrations.
func measureLookups(t testing.TB, s scale) report {
	base := setting{registrations: s.registrations[0]}
	stock, ward, echo, goEcho := rpcbindBed(t), rpcwardBed(t), echoBed(t), goEchoBed(t)
	beds := []*bed{stock, ward, echo, goEcho}
	for _, b := range beds {
		b.start(base)
	}
	time.Sleep(min(s.time, time.Second))
	idle := map[*bed]int{}
	for _, b := range beds {
		idle[b] = b.status("VmRSS")
	}
	got := samples{}
	for range s.runs {
		for _, from := range []place{overVeth, overLoopback} {
			for _, version := range []int{2, 4} {
				for _, b := range beds {
					measureBoth(got, b, lookups{from: from, version: version, registrations: base.registrations, warmup: s.warmup, time: s.time}, s.window)
				}
			}
		}
		for _, b := range []*bed{stock, ward} {
			r := b.look(lookups{from: overVeth, version: 2, tcp: true, window: 32, registrations: base.registrations, warmup: s.warmup, time: s.time})
			got.add(r.PerSecond, b.name+"tcp")
		}
	}
	memory := table{text: "Memory in use (VmRSS) after the start, and the most since (VmHWM), after the loads above.", head: []string{"", "idle", "most"}}
	for _, b := range []*bed{stock, ward} {
		memory.add(b.name, megabytes(float64(idle[b])), megabytes(float64(b.status("VmHWM"))))
	}
	return report{tables: []table{throughput(got, s), latency(got), memory}}
}

// measureBoth measures the rate at a window and the latency of single calls.
func measureBoth(got samples, b *bed, l lookups, window int) {
	key := fmt.Sprint(b.name, l.from.name, l.version)
	l.window = window
	used, begin := b.busy(), time.Now()
	r := b.look(l)
	got.add(r.PerSecond, key)
	got.add(r.Busy, key, "client")
	got.add((b.busy()-used).Seconds()/time.Since(begin).Seconds(), key, "server")
	l.window = 1
	r = b.look(l)
	got.add(r.Micros.P50, key, "p50")
	got.add(r.Micros.P99, key, "p99")
}

func question(version int) string {
	if version == 2 {
		return "version 2 GETPORT"
	}
	return "version 4 GETADDR"
}

func throughput(got samples, s scale) table {
	t := table{
		text: fmt.Sprintf("Answers per second over UDP, %d calls under way at once, the server on one core and the client on the other; medians of %d runs by turns, ratios those of the runs. The echo is a loop of recvmmsg and sendmmsg in C that answers each datagram of these clients without looking into it, the Go echo the same in Go. Busy is how much of their cores the client and the server had in use: the one with more is the narrow place.", s.window, s.runs),
		head: []string{"", "rpcbind", "rpcward", "echo", "Go echo", "rpcward of echo", "of rpcbind", "busy: client, echo", "busy: client, rpcward"},
	}
	for _, from := range []place{overVeth, overLoopback} {
		for _, version := range []int{2, 4} {
			at := fmt.Sprint(from.name, version)
			t.add(question(version)+", "+from.name, got.show("rpcbind"+at), got.show("rpcward"+at), got.show("echo"+at), got.show("Go echo"+at),
				percent(got.ratio("rpcward"+at, "echo"+at)), times(got.ratio("rpcward"+at, "rpcbind"+at)),
				percent(got.median("echo"+at, "client"))+", "+percent(got.median("echo"+at, "server")),
				percent(got.median("rpcward"+at, "client"))+", "+percent(got.median("rpcward"+at, "server")))
		}
	}
	t.add("version 2 GETPORT, veth, TCP, 32 calls under way", got.show("rpcbindtcp"), got.show("rpcwardtcp"), "", "", "", times(got.ratio("rpcwardtcp", "rpcbindtcp")), "", "")
	return t
}

func latency(got samples) table {
	t := table{
		text: "Latency of one call at a time, median and 99th percentile.",
		head: []string{"", "rpcbind", "rpcward", "echo"},
	}
	for _, from := range []place{overVeth, overLoopback} {
		for _, version := range []int{2, 4} {
			row := []string{question(version) + ", " + from.name}
			for _, name := range []string{"rpcbind", "rpcward", "echo"} {
				at := fmt.Sprint(name, from.name, version)
				row = append(row, got.micros(at, "p50")+", "+got.micros(at, "p99"))
			}
			t.add(row...)
		}
	}
	return t
}
