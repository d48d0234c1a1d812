package explain

import (
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// least is how many comparisons there must be.
const least = 200

// client is an address that a host calls from, and one of the server's.
type client struct {
	host     func(*lab.Net) *lab.Host
	from, to string
}

func inside(n *lab.Net) *lab.Host   { return n.Inside }
func stranger(n *lab.Net) *lab.Host { return n.Stranger }
func server(n *lab.Net) *lab.Host   { return n.Server }

var clients = []client{
	{inside, "10.99.0.2", "10.99.0.1"},
	{inside, "10.99.0.7", "10.99.0.1"},
	{inside, "10.99.0.130", "10.99.0.1"},
	{inside, "172.16.5.2", "172.16.5.1"},
	{inside, "10.99.0.2", "10.98.0.1"}, // the server's other address
	{inside, "fd99::2", "fd99::1"},
	{inside, "fd99::77", "fd99::1"},
	{stranger, "10.98.0.2", "10.98.0.1"},
	{stranger, "10.98.0.77", "10.98.0.1"},
	{stranger, "fd98::2", "fd98::1"},
	{server, "127.0.0.1", "127.0.0.1"},
	{server, "::1", "::1"},
	{server, "10.99.0.1", "10.99.0.1"},
}

// daemons are the names under which explain is asked for the port mapper.
var daemons = []string{"portmap", "rpcbind", "rpcward"}

// seen is what becomes of a client, in explain's words.
type seen struct {
	UDP string `json:"udp"`
	TCP string `json:"tcp"`
}

// TestExplainIsRight asks for each pair of files and each client what explain
// says, and calls the port mapper.
func TestExplainIsRight(t *testing.T) {
	pm := lab.Rpcward(t)
	n := lab.NewNet(t)
	n.Server.AddAddr("lan", netip.MustParsePrefix("172.16.5.1/24"))
	n.Inside.AddAddr("eth0", netip.MustParsePrefix("172.16.5.2/24"), netip.MustParsePrefix("10.99.0.7/24"),
		netip.MustParsePrefix("10.99.0.130/24"), netip.MustParsePrefix("fd99::77/64"))
	n.Stranger.AddAddr("eth0", netip.MustParsePrefix("10.98.0.77/24"))

	compared, verdicts := 0, map[string]int{}
	for _, p := range pairs(t) {
		n.Server.Allow(p.allow)
		n.Server.Deny(p.deny)
		def := "closed"
		if p.name == "allowed by default" {
			def = "allow"
		}
		serve := n.Server.Start(pm.Toolbox(), "serve", "--default", def)
		serve.WaitServing()
		got := make([]seen, len(clients))
		var wait sync.WaitGroup
		for i, c := range clients {
			wait.Go(func() { got[i] = c.call(t, n) })
		}
		wait.Wait()
		serve.Stop(syscall.SIGTERM)
		for i, c := range clients {
			compared++
			verdicts[got[i].UDP]++
			daemon := daemons[compared%len(daemons)]
			out := n.Server.MustRun(pm.Toolbox(), "explain", "--from", c.from, "--to", c.to, "--daemon", daemon, "--default", def, "--json")
			var said seen
			if err := json.Unmarshal([]byte(out), &said); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(got[i], said); diff != "" {
				t.Errorf("%s: %s from %s to %s (-serve +explain):\n%s%s", p.name, daemon, c.from, c.to, diff, out)
			}
		}
	}
	t.Logf("%d comparisons: %v", compared, verdicts)
	if compared < least || verdicts["answer"] < least/4 || verdicts["silence"] < least/4 {
		t.Errorf("%d comparisons, want %d, of both kinds: %v", compared, least, verdicts)
	}
}

// pair is the text of two files.
type pair struct{ name, allow, deny string }

func pairs(t *testing.T) (list []pair) {
	archive, err := txtar.ParseFile("testdata/pairs.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(archive.Files); i += 2 {
		name, _ := strings.CutSuffix(archive.Files[i].Name, "/allow")
		if archive.Files[i+1].Name != name+"/deny" {
			t.Fatalf("%s is not followed by its other file", archive.Files[i].Name)
		}
		list = append(list, pair{name, string(archive.Files[i].Data), string(archive.Files[i+1].Data)})
	}
	return list
}

// silent is how long no answer counts as silence.
const silent = time.Second

// call asks the port mapper over both transports.
func (c client) call(t *testing.T, n *lab.Net) (s seen) {
	for network, result := range map[string]*string{"udp": &s.UDP, "tcp": &s.TCP} {
		to := net.JoinHostPort(c.to, "111")
		conn, err := c.host(n).DialFrom(network, netip.AddrPortFrom(netip.MustParseAddr(c.from), 0), to)
		if err != nil {
			t.Errorf("%s from %s to %s: %v", network, c.from, to, err)
			continue
		}
		*result = answer(conn)
		conn.Close()
	}
	return s
}

// answer calls procedure NULL, and says what comes back.
func answer(conn net.Conn) string {
	reply, err := lab.Call(conn, oncrpc.Call{Program: rpcbind.Program, Version: rpcbind.Version2}, silent)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "silence"
	case err != nil:
		return err.Error()
	case reply.Stat == oncrpc.MsgDenied:
		return "auth-error"
	}
	return "answer"
}
