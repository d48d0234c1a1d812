package hostsaccess_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"

	"rpcward/hostsaccess"
)

// guarded is a listener for greetd that lets in whom the two files let in.
type guarded struct {
	net.Listener
	*hostsaccess.Tables
}

func (g guarded) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil || g.Decide(&hostsaccess.Request{Daemon: "greetd", Client: hostsaccess.EndpointOf(c.RemoteAddr())}).Granted() {
			return c, err
		}
		c.Close()
	}
}

// A listener of one's own, guarded as tcpd(8) would. A daemon reads
// /etc/hosts.allow and /etc/hosts.deny.
func ExampleTables() {
	etc, _ := os.MkdirTemp("", "etc")
	defer os.RemoveAll(etc)
	os.WriteFile(etc+"/hosts.allow", []byte("greetd: 127.0.0.1\n"), 0o644)
	os.WriteFile(etc+"/hosts.deny", []byte("ALL: ALL\n"), 0o644)

	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer l.Close()
	l = guarded{l, hostsaccess.ReadTables(hostsaccess.Strict, etc+"/hosts.allow", etc+"/hosts.deny", hostsaccess.Environment{ReadFile: os.ReadFile})}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(c, "hello")
			c.Close()
		}
	}()

	for _, from := range []string{"127.0.0.1", "127.0.0.2"} {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		c, err := dialer.Dial("tcp", l.Addr().String())
		if err != nil {
			panic(err)
		}
		heard, _ := io.ReadAll(c)
		fmt.Printf("%s hears %q\n", from, heard)
	}
	// Output:
	// 127.0.0.1 hears "hello"
	// 127.0.0.2 hears ""
}

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
