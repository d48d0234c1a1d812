package libwrap

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"rpcward/hostsaccess"
	"rpcward/test/ruleset"
)

// BenchmarkDecide asks about a client that no rule is about: libwrap, with the
// files on disk, as a program that links it does, and hostsaccess in both modes.
func BenchmarkDecide(b *testing.B) {
	path := buildDriver(b)
	for _, kind := range ruleset.Kinds {
		for _, n := range ruleset.Sizes {
			data := kind.File(n)
			q := &query{daemon: "portmap", user: "unknown"}
			q.client = end{addr: netip.AddrPortFrom(netip.MustParseAddr(kind.Addr), 1023), name: kind.Host}
			q.server = end{addr: address("10.0.0.1:111")}
			b.Run(fmt.Sprintf("libwrap/%s/%d", kind.Name, n), func(b *testing.B) { benchLibwrap(b, path, data, q) })
			for _, m := range []hostsaccess.Mode{hostsaccess.Strict, hostsaccess.Compat} {
				b.Run(fmt.Sprintf("%v/%s/%d", m, kind.Name, n), func(b *testing.B) { benchTables(b, m, data, q) })
			}
		}
	}
}

func benchLibwrap(b *testing.B, path string, data []byte, q *query) {
	deny := filepath.Join(b.TempDir(), "hosts.deny")
	if err := os.WriteFile(deny, data, 0o644); err != nil {
		b.Fatal(err)
	}
	d := startDriver(b, path, filepath.Join(filepath.Dir(deny), "hosts.allow"), deny)
	ask := func(times int) (nanoseconds float64) {
		c := *q
		c.times = times
		d.request('B', &c)
		d.out.Flush()
		_, text := d.event()
		nanoseconds, err := strconv.ParseFloat(text, 64)
		if err != nil {
			b.Fatal(err)
		}
		if _, granted := d.event(); granted != strconv.Itoa(times) {
			b.Fatalf("%s of %d granted", granted, times)
		}
		return nanoseconds
	}
	ask(1)
	b.ResetTimer()
	nanoseconds := ask(b.N)
	b.StopTimer()
	b.ReportMetric(float64(b.N)/nanoseconds*1e9, "decisions/s")
}

func benchTables(b *testing.B, m hostsaccess.Mode, data []byte, q *query) {
	t := hostsaccess.NewTables(m, hostsaccess.Source{State: hostsaccess.TableMissing}, hostsaccess.Source{Name: "hosts.deny", Data: data}, hostsaccess.Environment{})
	r := &hostsaccess.Request{Daemon: q.daemon, Client: q.client.endpoint(), Server: q.server.endpoint(), User: q.user}
	t.Decide(r)
	if d := t.Decide(r); d.Verdict != hostsaccess.NoRule {
		b.Fatalf("%v decides", d.Rule)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		t.Decide(r)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "decisions/s")
}
