package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"rpcward/rpcbind"
	"rpcward/rpcbind/client"
	"rpcward/test/lab"
)

// debianRPCInfo is not looked up: testscript puts our own in front.
const debianRPCInfo = "/usr/sbin/rpcinfo"

// outcome is what a command did.
type outcome struct {
	Stdout, Stderr string
	Code           int
}

// runAs runs a program on h under another name.
func runAs(t *testing.T, h *lab.Host, program, name string, args ...string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Second)
	defer cancel()
	cmd := h.Command(ctx, program, args...)
	cmd.Args[0] = name
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := h.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// A site is a network with one of the two rpcinfos. Both get the same traffic,
// so that rpcinfo -m tells at the end whether they made the same calls.
type site struct {
	net     *lab.Net
	rpcinfo string
}

func newSite(t *testing.T, rpcinfo string) *site {
	s := &site{lab.NewNet(t), rpcinfo}
	for _, h := range []*lab.Host{s.net.Server, s.net.Inside} {
		h.WriteFile("/etc/resolv.conf", "nameserver 127.0.0.1\n") // where nobody listens
		h.WriteFile("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n10.99.0.1 server both\nfd99::1 server6 both\n")
	}
	return s
}

func (s *site) run(t *testing.T, c liveCase) outcome {
	h := s.net.Server
	if c.inside {
		h = s.net.Inside
	}
	return runAs(t, h, s.rpcinfo, "/usr/sbin/rpcinfo", c.args...)
}

// register has the same registrations made everywhere.
func (s *site) register(t *testing.T) {
	t.Helper()
	var c *client.Client
	err := s.net.Server.Do(func() (err error) {
		c, err = client.Dial(t.Context(), "local", "")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, m := range []rpcbind.RPCB[string]{
		{Program: 100003, Version: 3, NetID: "tcp", Addr: "0.0.0.0.8.1"}, // nobody listens
		{Program: 100003, Version: 4, NetID: "udp", Addr: "0.0.0.0.8.1"},
		{Program: 100003, Version: 3, NetID: "tcp6", Addr: "::.8.1"},
		{Program: 300019, Version: 3, NetID: "bogus", Addr: "garbage"},
		{Program: 200, Version: 9, NetID: "", Addr: ""},
		{Program: 300099, Version: 1, NetID: "tcp", Addr: strings.Repeat("x", 100)},
		{Program: 100000000, Version: 99999, NetID: strings.Repeat("long", 6), Addr: "1.2.3.4.5.6"},
		{Program: 391002, Version: 1, NetID: "tcp", Addr: "0.0.0.0.0.111"}, // the port mapper listens
		{Program: 391002, Version: 2, NetID: "tcp", Addr: "0.0.0.0.0.111"},
		{Program: 391002, Version: 2, NetID: "udp", Addr: "0.0.0.0.0.111"},
	} {
		if ok, err := c.Set(t.Context(), rpcbind.Version3, &m); !ok || err != nil {
			t.Fatalf("registering %v: %v, %v", m, ok, err)
		}
	}
}

// liveCase is a run of both rpcinfos, which must do the same.
type liveCase struct {
	args   []string
	inside bool // run on the other host
	// What ours does where Debian's does something that it should not, and why.
	ours    *outcome
	because string
}

func run(args string) liveCase    { return liveCase{args: strings.Fields(args)} }
func remote(args string) liveCase { return liveCase{args: strings.Fields(args), inside: true} }

// instead names an exception.
func (c liveCase) instead(because string, ours outcome) liveCase {
	c.because, c.ours = because, &ours
	return c
}

const versions234 = "program 100000 version 2 ready and waiting\nprogram 100000 version 3 ready and waiting\nprogram 100000 version 4 ready and waiting\n"

// Cases without a port mapper.
var nobodyCases = []liveCase{
	run(""), run("-s"), run("-p"), run("-m"),
	run("127.0.0.1"), run("-s 127.0.0.1"), run("-p 127.0.0.1"), run("-p ::1"), run("-m 127.0.0.1"), run("-l 127.0.0.1 100000 4"),
	run("-T tcp 127.0.0.1"), run("-T udp 127.0.0.1"), run("-T tcp6 ::1"), run("-T udp -l 127.0.0.1 100000 4"), run("-T tcp -l 127.0.0.1 100000 4"),
	run("-T tcp 127.0.0.1 100000"), run("-T udp 127.0.0.1 100000"), run("-T tcp6 ::1 100000"),
	run("-t 127.0.0.1 100000"), run("-u 127.0.0.1 100000"),
	run("-d 100003 3"), run("-T local localhost 100000"),
	run("-a /run/nothing.sock -T local 100000"), run("-a 127.0.0.1.0.9 -T tcp 100000 3"), run("-a 127.0.0.1.0.9 -T udp 100000 3"),
	run("::1").instead("Debian's asks IPv6 over a socket of IPv4, so that it does not learn of the refusal and waits a minute",
		outcome{Stderr: "rpcinfo: can't contact rpcbind: : RPC: Unable to receive; errno = Connection refused\n", Code: 1}),
	run("-T udp6 ::1").instead("Debian's does not learn of refusals over udp6 and waits a minute",
		outcome{Stderr: "rpcinfo: can't contact rpcbind: : RPC: Unable to receive; errno = Connection refused\n", Code: 1}),
	remote("-p 10.99.0.77"), // nobody has this address
}

// Cases with rpcbind and the registrations above. Their calls are counted.
var servedCases = []liveCase{
	// Lists.
	run(""), run("-s"), run("-p"),
	run("127.0.0.1"), run("::1"), run("10.99.0.1"), run("server"), run("server6"), run("both"), run("localhost"),
	run("-s ::1"), run("-s 127.0.0.1"), run("-p 127.0.0.1"), run("-p ::1"), run("-p localhost"), run("-p both"), run("-p 10.99.0.1"),
	run("-s -T tcp6 ::1"), run("-T udp6 ::1"), run("-T local localhost"), run("-T bogus localhost"),
	run("-T udp 127.0.0.1 -s"), run("127.0.0.1 -s"), run("-- 127.0.0.1"),
	remote("server"), remote("-s server6"), remote("-p server"), remote("-p server6"),
	// Address lists.
	run("-l 127.0.0.1 100000 4"), run("-l ::1 100000 4"), run("-l 10.99.0.1 100003 3"), run("-l 127.0.0.1 100000 9"), run("-l 127.0.0.1 portmapper 4"),
	run("-l 127.0.0.1 foo 9"), run("-l 127.0.0.1 100000 9x"), run("-l nosuch.invalid 100000 9"), run("-l nosuch.invalid foo 9"),
	run("-T udp -l 127.0.0.1 100000 4"), run("-T tcp -l 127.0.0.1 391002 1"), run("-T tcp6 -l 127.0.0.1 100000 4"), run("-T udp -l ::1 100000 4"),
	run("-T bogus -l 127.0.0.1 100000 4"), run("-T local -l localhost 100000 4"), run("-l 127.0.0.1 300099 1"),
	remote("-l server 100000 4"), remote("-l server6 100000 4"), remote("-l server 100003 3"),
	// Calls to a service that the port mapper names.
	run("-T tcp 127.0.0.1 100000"), run("-T tcp 127.0.0.1 100000 9"), run("-T tcp 127.0.0.1 100003 3"), run("-T udp 127.0.0.1 100003"),
	run("-T udp 127.0.0.1 portmapper"), run("-T udp 127.0.0.1 100001"), run("-T udp6 ::1 portmapper 3"), run("-T udp6 127.0.0.1 portmapper 3"), run("-T udp ::1 portmapper 3"),
	run("-T local localhost 100000"), run("-T local localhost 100000 2"), run("-T local localhost 100003"), run("-T bogus localhost 100000"),
	run("-T tcp nosuch.invalid 100000"), run("-T tcp 127.0.0.1 300099"), run("-T tcp 127.0.0.1 391002"), run("-T tcp both 100000 4"), run("-T tcp6 both 100000 4"),
	run("-t 127.0.0.1 100000"), run("-t 127.0.0.1 100000 2"), run("-u 127.0.0.1 100000"), run("-u 127.0.0.1 100001"), run("-t 127.0.0.1 100001 3"),
	run("-t ::1 100000"), run("-u ::1 100000 4"), run("-t 127.0.0.1 100003"), run("-u 127.0.0.1 nfs 4"), run("-u 127.0.0.1 nfs"), run("-t ::1 nfs 3"),
	run("-t 127.0.0.1 391002"), run("-t 127.0.0.1 391002 1"), run("-u 127.0.0.1 391002 2"), run("-t 127.0.0.1 300099"), run("-t nosuch.invalid 100000"), run("-u nosuch.invalid 100000"),
	remote("-t server 100000"), remote("-u server 100000"), remote("-u server6 100000"), remote("-t server nfs"), remote("-u server nfs 4"),
	// Calls to an address.
	run("-a 127.0.0.1.0.111 -T udp 100000"), run("-a 127.0.0.1.0.111 -T tcp 100000 3"), run("-a 127.0.0.1.0.9 -T tcp 100000 3"), run("-a 127.0.0.1.0.9 -T udp 100000 3"),
	run("-a ::1.0.111 -T udp6 100000 9"), run("-a ::1.0.111 -T tcp6 100000"), run("-a garbage -T udp 100000 3"), run("-a ::1.0.111 -T udp 100000 3"),
	run("-a 127.0.0.1.0.111 -T bogus 100000 3"), run("-a /run/rpcbind.sock -T local 100000"), run("-a 127.0.0.1.0.111 -T udp 100003 3"), run("-a 127.0.0.1.0.111 -T udp foo"),
	remote("-a 10.99.0.1.0.111 -T tcp 100000"), remote("-a fd99::1.0.111 -T udp6 100000 3"),
	// Removing.
	run("-d 100003 3"), run("-d -T udp 100003 4"), run("-d -T bogus 100003 3"), run("-d foo 3"), run("-d 100003 x"), run("-d 391002 1"), run("-d 391002 1"), run("-d nfs 3"),
	run(""), run("-p"),
	// Mistakes.
	run("-p nosuch.invalid"), run("nosuch.invalid"), run("-m nosuch.invalid"), run("-m nosuch.invalid b c"),
	run("-x"), run("-a"), run("-ps -x"), run("--"), run("--help"), run("-h"), run("-p -s"), run("-ps"), run("-n"), run("-T"),
	run("a b"), run("a b c d e"), run("localhost 100000"), run("-T tcp a b c d"), run("-p a b"), run("-s a b"), run("-l"), run("-l a b"), run("-l a b c d"),
	run("-u"), run("-u a"), run("-u a b c d"), run("-t a"), run("-a 127.0.0.1.0.111 100000 3"), run("-a 127.0.0.1.0.111 -T udp"), run("-a 127.0.0.1.0.111 -T udp a b c"),
	run("-b"), run("-b 100000"), run("-b 1 2 3"), run("-b foo 2"), run("-b 100000 x"), run("-d"), run("-d 100003"), run("-d 1 2 3"),
	run("-p -n 3"), run("-p -n 0"), run("-n 111x -u 127.0.0.1 100000"), run("-n x -x"), run("-x -n x"), run("-s -p -n x"),
	run("-t 127.0.0.1 100a 2"), run("-t 127.0.0.1 nfs x"), run("-t 127.0.0.1 100000 -1"),
	{args: []string{"-t", "127.0.0.1", "", "2"}}, {args: []string{"-t", "127.0.0.1", "100000", ""}}, {args: []string{""}},
}

const shortList = `   program version(s) netid(s)                         service     owner
    100000  2,3,4     local,udp,tcp,udp6,tcp6          portmapper  superuser
    300019  3         bogus                            amd         superuser
       200  9                                          -           superuser
    300099  1         tcp                              -           superuser
 100000000  99999     longlonglonglonglonglong         -           superuser
    391002  2         udp,tcp                          sgi_fam     superuser
`

// Cases that stand apart because ours makes other calls, or none.
var servedExceptions = []liveCase{
	run("-u -n 9 127.0.0.1 100000 2").instead("Debian's has -n and ignores it, against its manual",
		outcome{"program 100000 version 2 is not available\n", "rpcinfo: RPC: Unable to receive; errno = Connection refused\n", 1}),
	run("-t -n 111 127.0.0.1 100001").instead("the same: with -n the port mapper is not asked",
		outcome{"program 100001 version 0 is not available\n", "rpcinfo: RPC: Program unavailable\n", 1}),
	run("-u -n 111 ::1 100000").instead("the same", outcome{versions234, "", 0}),
	run("-s -T tcp both").instead("Debian's gives up if the first address of a name is not of the transport's family",
		outcome{shortList, "", 0}),
	run("-s -T udp6 both").instead("the same, the other way round", outcome{shortList, "", 0}),
	run("-n 70000 -u 127.0.0.1 100000").instead("Debian's takes port numbers modulo 65536",
		outcome{"", "rpcinfo: 70000 is illegal port number\n", 1}),
	run("-t 127.0.0.1 99999999999 2").instead("Debian's takes program numbers modulo 2^32",
		outcome{"", "rpcinfo: 99999999999 is illegal program number\n", 1}),
	run("-t 127.0.0.1 100000 99999999999").instead("Debian's takes version numbers modulo 2^32",
		outcome{"", "rpcinfo: 99999999999 is illegal version number\n", 1}),
	run("-t 127.0.0.1 -- 100000 -1").instead("Debian's takes negative version numbers",
		outcome{"", "rpcinfo: -1 is illegal version number\n", 1}),
}

// Cases where hosts.deny denies everybody.
var deniedCases = []liveCase{
	run("127.0.0.1"), run("-p 127.0.0.1"), run("-m 127.0.0.1"), run("-l 127.0.0.1 100000 4"), run("-T tcp 127.0.0.1 100000"), run("-T udp 127.0.0.1 100003"),
	run("-t 127.0.0.1 100000"), run("-u ::1 100000"), run("-T local localhost 100003"), run("-d 100003 3"), run(""), run("-p"), run("-a 127.0.0.1.0.111 -T udp 100000"),
}

// TestRPCInfoLikeDebian runs Debian's rpcinfo and ours beside each other.
func TestRPCInfoLikeDebian(t *testing.T) {
	lab.NeedRoot(t)
	lab.NeedFeature(t, "Debian's rpcinfo", lab.HasFile(debianRPCInfo))
	theirs, ours := newSite(t, debianRPCInfo), newSite(t, lab.Rpcward(t).Toolbox())

	compare(t, "nobody", nobodyCases, theirs, ours)
	for _, s := range []*site{theirs, ours} {
		lab.StartPortMapper(t, s.net.Server, lab.Stock(t))
		s.register(t)
	}
	compare(t, "served", servedCases, theirs, ours)
	// These also tell whether the calls so far were the same.
	compare(t, "counted", []liveCase{run("-m"), run("-m 127.0.0.1"), remote("-m server"), remote("-m server6 x y")}, theirs, ours)
	compare(t, "apart", servedExceptions, theirs, ours)
	for _, s := range []*site{theirs, ours} {
		s.net.Server.Deny("rpcbind: ALL")
	}
	compare(t, "denied", deniedCases, theirs, ours)
}

func compare(t *testing.T, name string, cases []liveCase, theirs, ours *site) {
	for i, c := range cases {
		t.Run(fmt.Sprintf("%s/%d %s", name, i, strings.Join(c.args, " ")), func(t *testing.T) {
			got := ours.run(t, c)
			want := c.ours
			if want == nil {
				o := theirs.run(t, c)
				want = &o
			}
			if d := cmp.Diff(*want, got); d != "" {
				t.Errorf("Debian's -, ours +:\n%s", d)
			}
		})
	}
}

// The statistics of forwarded calls, which need rpcbind -r to be there.
func TestRPCInfoBroadcastLikeDebian(t *testing.T) {
	lab.NeedRoot(t)
	lab.NeedFeature(t, "Debian's rpcinfo", lab.HasFile(debianRPCInfo))
	s := newSite(t, debianRPCInfo)
	lab.StartPortMapper(t, s.net.Server, lab.Stock(t), "-r")
	ours := &site{s.net, lab.Rpcward(t).Toolbox()}

	// Debian's prints each answer again for each time that it has asked.
	unique := func(o outcome) []string {
		lines := strings.Split(o.Stdout, "\n")
		slices.Sort(lines)
		return slices.Compact(lines)
	}
	c := remote("-b 100000 2")
	want, got := s.run(t, c), ours.run(t, c)
	if d := cmp.Diff(unique(want), unique(got)); d != "" || got.Code != 0 || got.Stderr != want.Stderr {
		t.Errorf("Debian's -, ours +:\n%s\n%v", d, got)
	}
	if n := strings.Count(got.Stdout, "\n"); n != 1 {
		t.Errorf("%d answers of one server:\n%s", n, got.Stdout)
	}
	a, b := s.run(t, remote("-m server")), ours.run(t, remote("-m server"))
	hide := func(s string) string { i := strings.LastIndex(s, "GETSTAT"); return s[:i] }
	if !strings.Contains(a.Stdout, "PMAP_RMTCALL") || hide(a.Stdout) != hide(b.Stdout) {
		t.Errorf("statistics differ:\n%s", cmp.Diff(a, b))
	}
}

func TestRPCInfoBroadcastNowhere(t *testing.T) {
	h := lab.NewHost(t, "alone")
	got := runAs(t, h, lab.Rpcward(t).Toolbox(), "rpcinfo", "-b", "100000", "2")
	if d := cmp.Diff(outcome{"", "rpcinfo: broadcast failed: RPC: Unknown protocol\n", 1}, got); d != "" {
		t.Error(d)
	}
}
