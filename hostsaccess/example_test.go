package hostsaccess_test

import (
	"fmt"
	"net/netip"

	"rpcward/hostsaccess"
)

func Example() {
	allow := hostsaccess.Parse("/etc/hosts.allow", []byte("portmap: 192.168.1.0/24, 10.1.2.3/24\nsshd: ALL\nrpcbind: 172.16.\n"))
	for _, d := range allow.Diagnostics {
		fmt.Println(d)
		fmt.Println("hint:", d.Hint)
	}
	m, _ := hostsaccess.Compile(allow, nil, hostsaccess.Options{Names: []string{"portmap", "rpcbind"}, Port: 111})
	for _, from := range []string{"172.16.0.9", "192.168.1.9"} {
		d := m.Decide(netip.MustParseAddr(from), netip.Addr{})
		fmt.Println(from, d.Verdict, d.Rule, d.Why)
	}
	// Output:
	// /etc/hosts.allow:1:26: error: "10.1.2.3/24" has bits set behind the network
	// hint: write 10.1.2.0/24 for the network, or the address alone
	// 172.16.0.9 allow hosts.allow:3 matched hosts.allow
	// 192.168.1.9 no rule <nil> no rule matched
}
