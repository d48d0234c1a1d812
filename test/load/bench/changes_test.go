package bench

import (
	"fmt"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/test/lab"
	"rpcward/test/load"
)

// measureChanges registers, in a registry that is as large as the server bears.
func measureChanges(t testing.TB, s scale) report {
	tab := table{
		text: fmt.Sprintf("Registering over the unix socket, one call under way per connection, in a registry of this size; medians of %d runs by turns. rpcward's answer means that the change is on disk, rpcbind keeps changes in memory. Filling is the rate at which an empty registry takes that many, from 8 connections, for %s at most. A start with so many registrations is from exec to the first answer, after kill -9 (rpcbind: after a clean end, which alone saves them).", s.runs, milliseconds(s.setBudget)),
		head: []string{"server", "registrations", "filling, per second", "SET: 1 connection, per second", "median, 99th percentile", "8 connections, per second", "median, 99th percentile", "start", "DUMP over TCP"},
	}
	stock, ward := rpcbindBed(t), rpcwardBed(t)
	most := s.registrations[len(s.registrations)-1]
	tab.rows = append(tab.rows, stock.measureChanges(s, s.stockRegistered, syscall.SIGTERM))
	tab.rows = append(tab.rows, ward.measureChanges(s, s.stockRegistered, syscall.SIGKILL))
	if most != s.stockRegistered {
		tab.rows = append(tab.rows, ward.measureChanges(s, most, syscall.SIGKILL))
	}
	return report{tables: []table{tab}}
}

func (b *bed) measureChanges(s scale, size int, end syscall.Signal) []string {
	b.t.Helper()
	b.start(setting{})
	filled := b.set(8, 0, size, s.setBudget)
	if filled.Answered < uint64(size/8*8) { // too slow: go on with a registry that was saved before
		b.start(setting{registrations: size})
	}
	got := samples{}
	next := size + size%2
	for range s.runs {
		for _, connections := range []int{1, 8} {
			r := b.set(connections, next, 0, s.time)
			next += int(r.Sent) + connections + 2
			got.add(r.PerSecond, connections)
			got.add(r.Micros.P50, connections, "p50")
			got.add(r.Micros.P99, connections, "p99")
		}
	}
	for range s.runs {
		got.add(float64(b.startTime(end)), "start")
		var l load.List
		b.run(b.Inside, &l, "dump", "-addr", netip.AddrPortFrom(lab.ServerIP, rpcbind.Port).String())
		if l.Entries < size/8*8 {
			b.t.Errorf("%s lists %d registrations of %d after its start", b.name, l.Entries, size)
		}
		got.add(l.Seconds*1e3, "dump")
	}
	return []string{
		b.name, number(float64(size)), number(filled.PerSecond),
		got.show(1), got.micros(1, "p50") + ", " + got.micros(1, "p99"),
		got.show(8), got.micros(8, "p50") + ", " + got.micros(8, "p99"),
		milliseconds(time.Duration(got.median("start"))), fmt.Sprintf("%.0f ms", got.median("dump")),
	}
}

// set registers count programs, or as many as there is time for.
func (b *bed) set(connections, first, count int, within time.Duration) load.Result {
	b.t.Helper()
	var r load.Result
	b.run(b.Server, &r, "set", "-unix", lab.Sock, "-connections", fmt.Sprint(connections),
		"-first", fmt.Sprint(first), "-count", fmt.Sprint(count), "-time", within.String())
	if r.Wrong > 0 {
		b.t.Fatalf("%s refused %d registrations", b.name, r.Wrong)
	}
	return r
}

// startTime ends the server and says how long it takes to answer again.
func (b *bed) startTime(end syscall.Signal) time.Duration {
	b.t.Helper()
	b.stop(end)
	conn, err := b.Server.Dial("udp", "127.0.0.1:111")
	if err != nil {
		b.t.Fatal(err)
	}
	defer conn.Close()
	begin := time.Now()
	b.proc = b.Server.Start("taskset", append([]string{"-c", serverCore}, b.command...)...)
	for time.Since(begin) < time.Minute {
		if _, err := lab.Call(conn, oncrpc.Call{Program: rpcbind.Program, Version: 2}, 5*time.Millisecond); err == nil {
			return time.Since(begin)
		}
		time.Sleep(100 * time.Microsecond) // refused: nobody has the port yet
	}
	b.t.Fatalf("%s does not start:\n%s", b.name, b.proc.Log())
	return 0
}
