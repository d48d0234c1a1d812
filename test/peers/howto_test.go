package peers

import (
	"net/netip"
	"testing"

	"rpcward/test/lab"
)

// The files of the NFS howto, to the letter: spaces around the colon, a mask
// instead of a prefix length, another daemon's line, nothing in hosts.deny.
// There is no control: rpcbind does not know the name and answers everybody.
func TestHowtoFiles(t *testing.T) {
	t.Parallel()
	lab.NeedCommand(t, "rpcinfo")
	pm := lab.Rpcward(t)
	n := lab.NewNet(t)
	server, member := netip.MustParseAddr("192.168.1.1"), netip.MustParseAddr("192.168.1.2")
	n.Server.AddAddr("lan", netip.PrefixFrom(server, 24))
	n.Inside.AddAddr("eth0", netip.PrefixFrom(member, 24))
	n.Server.Allow("portmap : 192.168.1.0/255.255.255.0", "sshd : ALL")
	lab.StartPortMapper(t, n.Server, pm)

	for _, netid := range []string{"udp", "tcp"} {
		n.Inside.MustRun("rpcinfo", "-T", netid, server.String(), "100000")
	}
	n.Inside.MustRun("rpcinfo", "-p", server.String())
	// The same host by its other address is a stranger, as is the real one.
	checkRefused(t, pm, n.Inside, lab.ServerIP, lab.ServerIP6)
	checkRefused(t, pm, n.Stranger, lab.ServerWAN, lab.ServerWAN6, server)
}
