package hostsaccess

import (
	"net/netip"
	"testing"
)

func source(name, data string) Source { return Source{Name: name, Data: []byte(data)} }

func endpoint(s string) Endpoint {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		a = netip.AddrPortFrom(netip.MustParseAddr(s), 0)
	}
	return Endpoint{Addr: a}
}

// TestTablesDoNotAllocate covers decisions by rules without options.
func TestTablesDoNotAllocate(t *testing.T) {
	const allow = "sshd: 10.0.0.0/8 EXCEPT 10.9.\nALL: .example.com, www.*, LOCAL\n22@10.0.0.1: u@[2001:db8::]/32\n"
	const deny = "ALL: UNKNOWN, [fe80::1], 192.0.2.1\nALL: 10.0.0.3/255.0.0.255\n"
	for _, mode := range []Mode{Strict, Compat} {
		tables := NewTables(mode, source("hosts.allow", allow), source("hosts.deny", deny), Environment{})
		for _, from := range []string{"10.1.2.3", "10.9.0.1", "2001:db8::1", "fe80::1%eth0", "192.0.2.1", "::ffff:10.0.0.3"} {
			r := Request{Daemon: "sshd", Client: endpoint(from), Server: endpoint("10.0.0.1:22"), User: "u"}
			r.Client.Name = "host.example.org"
			if n := testing.AllocsPerRun(100, func() { tables.Decide(&r) }); n != 0 {
				t.Errorf("%v: %v allocations for %v", mode, n, from)
			}
		}
	}
}
