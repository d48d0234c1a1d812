package peers

import (
	"strings"
	"testing"

	"rpcward/test/lab"
)

// The small daemons of old: each removes many versions and netids first, then
// registers, and leaves its entries behind.
func TestSmallDaemons(t *testing.T) {
	t.Parallel()
	lab.NeedCommand(t, "rpc.rusersd", "rpc.rstatd", "rpc.rwalld", "rpc.bootparamd", "rpc.rquotad", "rusers", "rup")
	onEach(t, func(t *testing.T, pm lab.PortMapper) {
		n, _ := serve(t, pm)
		n.Server.Start("rpc.rusersd")
		n.Server.Start("rpc.rstatd")
		n.Server.Start("rpc.rwalld", "-n")
		n.Server.Start("rpc.bootparamd", "-d")
		n.Server.Start("rpc.rquotad", "-F")
		for _, service := range []struct{ program, versions, netids string }{
			{"100002", "2,3", "udp"},
			{"100001", "1,2,3,5", "udp"},
			{"100008", "1", "udp"},
			{"100026", "1", "udp"},
			{"100011", "1,2", lab.AllIP},
		} {
			lab.WaitRegistered(t, n.Server, service.program, service.versions, service.netids)
		}
		if out := n.Inside.MustRun("rup", lab.ServerIP.String()); !strings.Contains(out, "up") {
			t.Errorf("rup: %q", out)
		}
		if out := n.Inside.MustRun("rusers", "-a", lab.ServerIP.String()); !strings.Contains(out, lab.ServerIP.String()) {
			t.Errorf("rusers: %q", out)
		}
		if out, err := n.Stranger.Run(t.Context(), "rpcinfo", "-t", lab.ServerWAN.String(), "100011"); err == nil {
			t.Errorf("the stranger found a service: %q", out)
		}
	})
}

// famService is FAM, which NFS howtos name, as xinetd starts it.
const famService = `
service sgi_fam
{
	type            = RPC UNLISTED
	rpc_number      = 391002
	rpc_version     = 1-2
	socket_type     = stream
	protocol        = tcp
	wait            = yes
	user            = root
	server          = /bin/true
	disable         = no
}
`

// xinetd registers for the servers that it starts, and clients on the same
// host look for them over loopback.
func TestXinetd(t *testing.T) {
	t.Parallel()
	lab.NeedCommand(t, "xinetd", "rpcinfo")
	onEach(t, func(t *testing.T, pm lab.PortMapper) {
		n, _ := serve(t, pm)
		n.Server.WriteFile("/etc/xinetd.conf", famService)
		n.Server.Start("xinetd", "-dontfork", "-f", "/etc/xinetd.conf")
		lab.WaitRegistered(t, n.Server, "391002", "1,2", "tcp")

		out := n.Server.MustRun("rpcinfo", "-p", "127.0.0.1")
		if !strings.Contains(out, "391002    1   tcp") || !strings.Contains(out, "391002    2   tcp") {
			t.Errorf("rpcinfo -p 127.0.0.1:\n%s", out)
		}
		pmap := compile(t, "pmap", "libtirpc")
		port := n.Server.MustRun(pmap, "getport", "127.0.0.1", "391002", "2", "6")
		if !strings.Contains(out, "tcp  "+port[:len(port)-1]) {
			t.Errorf("pmap_getport = %q, want a port of\n%s", port, out)
		}
	})
}
