package peers

import (
	"strings"
	"testing"

	"rpcward/test/lab"
)

// nisDomain is the NIS domain of the tests.
const nisDomain = "rpcward.example"

// passwdMap is the one map with an entry of the NIS server.
const passwdMap = "passwd.byname"

// startNIS starts a NIS server on h, with one user in its map.
func startNIS(t *testing.T, h *lab.Host) {
	t.Helper()
	lab.NeedCommand(t, "ypserv", "ypbind", "ypcat", "ypwhich", "domainname")
	const makedbm = "/usr/lib/yp/makedbm"
	lab.NeedFeature(t, makedbm, lab.HasFile(makedbm))
	h.MustRun("domainname", nisDomain)
	dir := "/var/yp/" + nisDomain
	h.WriteFile(dir+"/source", "ada ada:x:1815:1815:Ada:/home/ada:/bin/sh\n")
	h.MustRun(makedbm, dir+"/source", dir+"/"+passwdMap)
	h.MustRun(makedbm, dir+"/source", dir+"/ypservers")
	h.WriteFile("/etc/ypserv.conf", "files: 30\n* : * : * : none\n")
	h.WriteFile("/var/yp/securenets", "0.0.0.0 0.0.0.0\n::/0\n")
	h.Start("ypserv", "-f")
	lab.WaitRegistered(t, h, "100004", "1,2", "udp,tcp")
}

// bind starts ypbind on a client, which has a port mapper for ypbind to
// register with, and reads the map through it. server is how ypwhich names it.
func bind(t *testing.T, pm lab.PortMapper, client *lab.Host, server, conf string, options ...string) {
	t.Helper()
	client.MustRun("domainname", nisDomain)
	client.WriteFile("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n10.99.0.1 server\n10.99.0.2 inside\n")
	client.WriteFile("/etc/yp.conf", conf)
	lab.StartPortMapper(t, client, pm)
	client.Start("ypbind", append([]string{"-n", "-debug"}, options...)...)
	lab.WaitRegistered(t, client, "100007", "1,2", "udp,tcp")
	var out string
	lab.Eventually(t, "ypcat", func() (err error) {
		out, err = client.Run(t.Context(), "ypcat", passwdMap)
		return err
	})
	if !strings.HasPrefix(out, "ada:") {
		t.Errorf("ypcat %s: %q", passwdMap, out)
	}
	if out := client.MustRun("ypwhich"); out != server+"\n" {
		t.Errorf("ypwhich = %q", out)
	}
}

// NIS by the name of the server: the client asks for a port only.
func TestNISByName(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, pm lab.PortMapper) {
		n, _ := serve(t, pm)
		startNIS(t, n.Server)
		bind(t, pm, n.Inside, "server", "domain "+nisDomain+" server server\n")
		checkRefused(t, pm, n.Stranger, lab.ServerWAN)
	})
}

// NIS by broadcast: the client's call is forwarded by the port mapper, which
// does that with -r only.
func TestNISByBroadcast(t *testing.T) {
	t.Parallel()
	lab.NeedCommand(t, "rpcinfo")
	onEach(t, func(t *testing.T, pm lab.PortMapper) {
		n, _ := serve(t, pm, "-r")
		startNIS(t, n.Server)
		bind(t, pm, n.Inside, "10.99.0.1", "", "-broadcast")

		// rpcinfo waits for answers until it gives up, so both do at once.
		strangers := make(chan string)
		go func() { strangers <- broadcast(t, n.Stranger) }()
		if out := broadcast(t, n.Inside); !strings.Contains(out, "10.99.0.1.") {
			t.Errorf("rpcinfo -b on the inside: %q", out)
		}
		out := <-strangers
		if pm.Name == "rpcward" && out != "" { // rpcbind's policy does not cover forwarded calls
			t.Errorf("rpcinfo -b of the stranger: %q", out)
		}
		checkRefused(t, pm, n.Stranger, lab.ServerWAN)
	})
}

// broadcast looks for a NIS server on all links of h and returns a line for
// each answer. Without one, rpcinfo ends with an error.
func broadcast(t *testing.T, h *lab.Host) string {
	out, _ := h.Run(t.Context(), "rpcinfo", "-b", "100004", "2")
	return out
}
