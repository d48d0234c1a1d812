package bench

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"rpcward/rpcbind"
	"rpcward/test/lab"
	"rpcward/test/load"
)

// firstIdle is the first of the addresses that idle connections come from: no
// address may have all of them.
var firstIdle = netip.MustParseAddr("10.99.0.101")

// measureConnections asks servers that hold many connections.
func measureConnections(t testing.TB, s scale) report {
	s.idle = min(s.idle, manyDescriptors()/2-2*s.slow-200)
	tab := table{
		text: fmt.Sprintf("Look-ups beside %s idle TCP connections from %d addresses, %d that ask for the list and do not read it, and %[3]d that send a byte a second; then beside %[4]s with 256 descriptors for all. Memory is VmRSS. rpcward lets the network have half of its descriptors, of which there are %[5]s unless the table says otherwise.", number(float64(s.idle)), s.idleSources, s.slow, number(float64(s.idle)/20), number(float64(manyDescriptors()))),
		head: []string{"server", "descriptors", "connections that stood", "closed by it", "UDP look-ups per second: alone", "beside", "TCP: alone", "beside", "memory: alone", "beside", "SET per second beside"},
	}
	for _, b := range []*bed{rpcbindBed(t), rpcwardBed(t)} {
		for i := range s.idleSources {
			addr := firstIdle
			for range i {
				addr = addr.Next()
			}
			b.Inside.AddAddr("eth0", netip.PrefixFrom(addr, 24))
		}
		tab.rows = append(tab.rows, measureCrowd(b, s, setting{registrations: s.registrations[len(s.registrations)-1]}, s.idle))
		tab.rows = append(tab.rows, measureCrowd(b, s, setting{registrations: s.registrations[0], descriptors: 256}, s.idle/20))
	}
	return report{tables: []table{tab}}
}

// measureCrowd measures a server alone and beside idle connections.
func measureCrowd(b *bed, s scale, at setting, idle int) []string {
	b.t.Helper()
	if b.name == "rpcbind" {
		at.registrations = min(at.registrations, s.stockRegistered)
	}
	b.start(at)
	udp := lookups{from: overVeth, version: 2, window: s.window, registrations: at.registrations, warmup: s.warmup, time: s.time}
	tcp := udp
	tcp.tcp, tcp.window = true, 32
	alone := samples{}
	for range s.runs {
		alone.add(b.look(udp).PerSecond, "udp")
		alone.add(b.tryTCP(tcp), "tcp")
	}
	memory := b.status("VmRSS")

	stay := time.Duration(2*s.runs+1) * (s.time + 250*time.Millisecond)
	p := b.begin(b.Inside, "crowd", "-addr", netip.AddrPortFrom(lab.ServerIP, rpcbind.Port).String(),
		"-idle", fmt.Sprint(idle), "-readers", fmt.Sprint(s.slow), "-writers", fmt.Sprint(s.slow),
		"-from", fmt.Sprintf("%v+%d", firstIdle, s.idleSources), "-time", stay.String(), "-hurry", "10s")
	b.await(p, "ready")
	beside := samples{}
	for range s.runs {
		beside.add(b.look(udp).PerSecond, "udp")
		beside.add(b.tryTCP(tcp), "tcp")
	}
	crowded := b.status("VmRSS")
	registered := b.set(1, at.registrations+at.registrations%2, 0, s.time)
	var r load.CrowdResult
	b.read(p, &r)
	descriptors := ""
	if at.descriptors > 0 {
		descriptors = number(float64(at.descriptors))
	}
	return []string{
		b.name, descriptors, fmt.Sprintf("%s of %s", number(float64(r.Connected)), number(float64(r.Connected+r.Failed))), number(float64(r.Closed)),
		alone.show("udp"), beside.show("udp"), alone.show("tcp"), beside.show("tcp"),
		megabytes(float64(memory)), megabytes(float64(crowded)), number(registered.PerSecond),
	}
}

// tryTCP is the rate over TCP, 0 where the server takes no more connections.
func (b *bed) tryTCP(l lookups) float64 {
	r, err := b.tryLook(l)
	if err != nil {
		return 0
	}
	return r.PerSecond
}

// await waits until rpcload has written text. It may take longer than a test is
// patient: rpcbind accepts slowly.
func (b *bed) await(p *client, text string) {
	b.t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if strings.Contains(p.log.String(), text) {
			return
		}
	}
	b.t.Fatalf("rpcload did not write %q:\n%s", text, p.log.String())
}
