package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rpcward/internal/firewall"
	"rpcward/internal/rollback"
	"rpcward/test/lab"
)

const (
	lanOnly  = "portmap: 10.99.0.0/24 [fd99::]/64"
	everyone = "portmap: ALL"
	nfsPort  = 2049
)

// protected is a net whose server has a port mapper and a service, registered as
// nfs, that sends back what it gets.
type protected struct {
	*lab.Net
	t      *testing.T
	tool   string
	mapper *lab.Process
}

func newProtected(t *testing.T, allow string) *protected {
	t.Helper()
	lab.NeedCommand(t, "nft", "iptables-nft", "iptables-legacy")
	pm := lab.Rpcward(t)
	s := &protected{Net: lab.NewNet(t), t: t, tool: pm.Toolbox()}
	s.Server.Allow(allow)
	s.mapper = lab.StartPortMapper(t, s.Server, pm)
	s.serve()
	cmd := s.Server.Command(t.Context(), s.tool, "pmap", "set")
	cmd.Stdin = strings.NewReader("100003 3 udp 2049 nfs\n100003 3 tcp 2049 nfs\n")
	if _, err := s.Server.RunCommand(cmd); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *protected) serve() {
	s.t.Helper()
	c, err := s.Server.ListenPacket("udp", fmt.Sprintf("[::]:%d", nfsPort))
	if err != nil {
		s.t.Fatal(err)
	}
	l, err := s.Server.Listen("tcp", fmt.Sprintf("[::]:%d", nfsPort))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close(); l.Close() })
	go func() {
		buf := make([]byte, 100)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			c.WriteTo(buf[:n], from)
		}
	}()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go io.Copy(c, c)
		}
	}()
}

// said is what a command said.
type said struct {
	out, all string // standard output; and with errors
	code     int
}

func (s *protected) run(args ...string) said {
	s.t.Helper()
	return s.runCommand(s.Server.Command(s.t.Context(), s.tool, args...))
}

func (s *protected) runCommand(cmd *exec.Cmd) said {
	s.t.Helper()
	out, err := s.Server.RunCommand(cmd)
	r := said{out: out, all: out}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		r.code, r.all = exit.ExitCode(), err.Error()
	case err != nil:
		s.t.Error(err)
	}
	return r
}

// want runs a command and wants an exit code and words in what it says.
func (s *protected) want(code int, words []string, args ...string) said {
	s.t.Helper()
	r := s.run(args...)
	if r.code != code {
		s.t.Errorf("rpcward %s: exit code %d, want %d\n%s", strings.Join(args, " "), r.code, code, r.all)
	}
	for _, w := range words {
		if !strings.Contains(r.all, w) {
			s.t.Errorf("rpcward %s: want %q in\n%s", strings.Join(args, " "), w, r.all)
		}
	}
	return r
}

// How long an answer may take to come, and how long one is waited for that
// should not come.
const (
	comes      = 10 * time.Second
	comesNever = 250 * time.Millisecond
)

// answered reports whether the service answers a host's datagrams, over IPv4
// and IPv6; they must be the same. If it should, they have time.
func (s *protected) answered(from *lab.Host, should bool) bool {
	s.t.Helper()
	servers := map[*lab.Host][2]netip.Addr{s.Inside: {lab.ServerIP, lab.ServerIP6}, s.Stranger: {lab.ServerWAN, lab.ServerWAN6}}[from]
	var got [2]bool
	var conns [2]net.Conn
	for i, server := range servers {
		c, err := from.Dial("udp", netip.AddrPortFrom(server, nfsPort).String())
		if err != nil {
			s.t.Fatal(err)
		}
		defer c.Close()
		c.Write([]byte("x"))
		conns[i] = c
	}
	wait := comesNever
	if should {
		wait = comes
	}
	deadline := time.Now().Add(wait)
	for i, c := range conns {
		c.SetReadDeadline(deadline)
		n, err := c.Read(make([]byte, 10))
		got[i] = err == nil && n == 1
	}
	if got[0] != got[1] {
		s.t.Errorf("%s is answered over one family only: %v", from.Name, got)
	}
	return got[0]
}

// wantReach wants the inside to be answered, and the stranger or not.
func (s *protected) wantReach(stranger bool) {
	s.t.Helper()
	if !s.answered(s.Inside, true) {
		s.t.Error("the inside is not answered")
	}
	if s.answered(s.Stranger, stranger) != stranger {
		s.t.Errorf("the stranger is answered: %v", !stranger)
	}
}

// What is not a rule in what nft and iptables-save print: comments, counters,
// and the empty tables that looking makes.
var noRules = []*regexp.Regexp{
	regexp.MustCompile(`(?m)^#.*\n`), regexp.MustCompile(`\[\d+:\d+\]`), regexp.MustCompile(` packets \d+ bytes \d+`),
	regexp.MustCompile(`(?m)^table ip6? \w+ \{\n(\tchain (INPUT|OUTPUT|FORWARD) \{\n\t\ttype .* policy accept;\n\t\}\n\n?)*\}\n`),
	regexp.MustCompile(`\*filter\n(:\w+ ACCEPT \n)*COMMIT\n`),
}

// objects of nftables are listed in the order in which they were made, which
// means nothing.
var objects = regexp.MustCompile(`(?m)^\t(set|map|chain) [\s\S]*?^\t\}\n`)

// rules is all of the kernel's firewall.
func (s *protected) rules() string {
	s.t.Helper()
	text := s.Server.MustRun("sh", "-c", "nft -s list ruleset; for p in iptables ip6tables; do $p-legacy-save; done")
	for _, r := range noRules {
		text = r.ReplaceAllString(text, "")
	}
	list := objects.FindAllString(text, -1)
	for i, o := range list {
		if strings.HasPrefix(o, "\tmap") {
			lines := strings.FieldsFunc(o, func(r rune) bool { return strings.ContainsRune("\n\t,{}=", r) })
			for j := range lines {
				lines[j] = strings.TrimSpace(lines[j])
			}
			slices.Sort(lines)
			list[i] = strings.Join(lines, "\n") + "\n"
		}
	}
	slices.Sort(list)
	return strings.TrimSpace(objects.ReplaceAllString(text, "")) + "\n" + strings.Join(list, "")
}

func (s *protected) show() (v showJSON) {
	s.t.Helper()
	r := s.want(0, nil, "firewall", "show", "--json")
	if err := json.Unmarshal([]byte(r.out), &v); err != nil {
		s.t.Fatalf("%v in\n%s", err, r.out)
	}
	return v
}

// waitTrial waits until the last change is in a state.
func (s *protected) waitTrial(state string) {
	s.t.Helper()
	lab.Eventually(s.t, "the change is "+state, func() error {
		if v := s.show(); v.Trial == nil || v.Trial.State != state {
			return fmt.Errorf("it is %+v", v.Trial)
		}
		return nil
	})
}

// notKept returns an error as long as a process waits for a change's end.
func (s *protected) notKept() error {
	if s.show().Trial.Kept {
		return errors.New("it is there")
	}
	return nil
}

var liveBackends = []string{firewall.BackendNFT, firewall.BackendIPTablesNFT, firewall.BackendIPTablesLegacy}

// killings are ways in which the one who applies goes away.
var killings = map[string]func(t *testing.T, s *protected, args ...string){
	"nothing is killed": func(t *testing.T, s *protected, args ...string) { s.want(0, []string{"on trial"}, args...) },
	"its process group is killed": func(t *testing.T, s *protected, args ...string) {
		// The shell stays, so that there is a group to kill.
		cmd := s.Server.Command(context.Background(), "sh", "-c", `"$@"; sleep 1000`, "sh", s.tool)
		cmd.Args = append(cmd.Args, args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		p := s.Server.StartCommand(cmd)
		p.WaitLog("on trial")
		if err := syscall.Kill(-p.PID(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-p.Done()
	},
	"its terminal is closed": func(t *testing.T, s *protected, args ...string) {
		// Under nohup(1) this process ignores SIGHUP, and its children would.
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		terminal, cmd := onTerminal(t, s.Server.Command(ctx, "env", "--default-signal=HUP", "sh", "-c", `"$@"; sleep 1000`, "sh", s.tool))
		cmd.Args = append(cmd.Args, args...)
		if err := s.Server.Do(cmd.Start); err != nil {
			t.Fatal(err)
		}
		cmd.Stdin.(*os.File).Close()
		var said strings.Builder
		buf := make([]byte, 1000)
		for !strings.Contains(said.String(), "on trial") {
			n, err := terminal.Read(buf)
			if err != nil {
				t.Fatalf("%v after %s", err, &said)
			}
			said.Write(buf[:n])
		}
		terminal.Close() // SIGHUP to the session's leader and its group
		if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "hangup") {
			t.Errorf("the shell ended with %v", err)
		}
	},
}

// onTerminal gives a command a terminal of its own, and returns the other end.
func onTerminal(t *testing.T, cmd *exec.Cmd) (*os.File, *exec.Cmd) {
	t.Helper()
	m, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	var number int
	raw, err := m.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			number, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	return m, cmd
}

// TestApplyIsTakenBack applies on trial, lets whoever applied be killed, and
// wants all as it was before.
func TestApplyIsTakenBack(t *testing.T) {
	t.Parallel()
	for i, backend := range liveBackends {
		for how, kill := range killings {
			if i > 0 && !strings.HasPrefix(how, "its process") {
				continue // how it dies has nothing to do with the backend
			}
			t.Run(backend+" "+how, func(t *testing.T) {
				t.Parallel()
				s := newProtected(t, everyone)
				if i != 1 { // what is there before: nothing, or rules for everyone
					s.want(0, []string{"Applied."}, "firewall", "apply", "--backend", backend)
				}
				before := s.rules()
				s.wantReach(true)

				s.Server.Allow(lanOnly)
				kill(t, s, "firewall", "apply", "--backend", backend, "--confirm", "3s")
				stranger := s.answered(s.Stranger, false)
				if v := s.show(); v.Trial == nil || v.Trial.State == rollback.Pending && (stranger || !v.Trial.Kept) {
					t.Errorf("on trial: the stranger is answered: %v, %+v", stranger, v.Trial)
				}

				s.waitTrial(rollback.RolledBack)
				if outcome := s.show().Trial.Outcome; !strings.Contains(outcome, "verified") {
					t.Error(outcome)
				}
				if after := s.rules(); after != before {
					t.Errorf("before:\n%s\nafter:\n%s", before, after)
				}
				s.wantReach(true)
				s.want(1, []string{"too late: the change of", "more time"}, "firewall", "confirm")
			})
		}
	}
}

// TestApplyConfirmed wants a change that is confirmed to stay, and what is said
// to those who come at the wrong time.
func TestApplyConfirmed(t *testing.T) {
	t.Parallel()
	s := newProtected(t, lanOnly)
	s.want(1, []string{"no change is on trial", "hint: `rpcward firewall apply --confirm 60s`"}, "firewall", "confirm")
	s.want(1, []string{"no change is on trial"}, "firewall", "rollback")
	s.want(0, []string{"on trial"}, "firewall", "apply", "--confirm", "10m")
	s.want(1, []string{"is still on trial, until", "firewall rollback` takes it back"}, "firewall", "apply", "--confirm", "10m")
	s.want(1, []string{"is still on trial"}, "protect", "--allow", "192.0.2.1")
	s.wantReach(false)
	s.want(0, []string{"stays."}, "firewall", "confirm")
	s.want(1, []string{"was confirmed at"}, "firewall", "confirm")
	lab.Eventually(t, "the keeper's end", s.notKept)
	s.wantReach(false)
	s.want(0, []string{"Nothing is to be changed."}, "firewall", "plan")

	s.Server.Allow(everyone)
	s.want(0, []string{"on trial"}, "firewall", "apply", "--confirm", "10m")
	s.wantReach(true)
	s.want(0, []string{"which was verified"}, "firewall", "rollback")
	s.wantReach(false)
	s.want(1, []string{"too late"}, "firewall", "confirm")

	// What others have put there could not be brought back.
	s.Server.MustRun("nft", "add", "chain", "inet", "rpcward", "stray")
	s.want(1, []string{"somebody else changed", "firewall remove"}, "firewall", "apply", "--confirm", "10m")
	s.want(0, []string{"not ours: chain stray"}, "firewall", "show")
	s.want(0, []string{"Applied."}, "firewall", "apply")
	s.wantReach(true)
}

// TestAppliesAtOnce wants one of many to be carried out, and the others to be
// told so.
func TestAppliesAtOnce(t *testing.T) {
	t.Parallel()
	s := newProtected(t, lanOnly)
	const many = 6
	results := make(chan said, many)
	for range many {
		go func() { results <- s.run("firewall", "apply", "--confirm", "10m") }()
	}
	made := 0
	for range many {
		switch r := <-results; {
		case r.code == 0 && strings.Contains(r.out, "Applied, on trial"):
			made++
		case r.code != 1 || !strings.Contains(r.all, "is still on trial, until"):
			t.Errorf("exit code %d\n%s", r.code, r.all)
		}
	}
	if made != 1 {
		t.Errorf("%d were carried out", made)
	}
	s.wantReach(false)
	s.want(0, []string{"verified"}, "firewall", "rollback")
	s.wantReach(true)
}

// TestKeeperIsKilled wants to hear that nobody takes a change back.
func TestKeeperIsKilled(t *testing.T) {
	t.Parallel()
	s := newProtected(t, lanOnly)
	s.want(0, []string{"on trial"}, "firewall", "apply", "--confirm", "10m")
	s.Server.MustRun("sh", "-c", `for p in /proc/[0-9]*; do tr '\0' ' ' <$p/cmdline | grep -q '^rpcward firewall keep' && kill -9 ${p#/proc/}; done; true`)
	lab.Eventually(t, "the keeper's end", s.notKept)
	s.want(0, []string{"the process that waits for its end is gone"}, "firewall", "show")
	s.want(0, []string{"which was verified"}, "firewall", "rollback")
	s.wantReach(true)

	// A host that shuts down takes it back.
	s.want(0, []string{"on trial"}, "firewall", "apply", "--confirm", "10m")
	s.Server.MustRun("sh", "-c", `for p in /proc/[0-9]*; do tr '\0' ' ' <$p/cmdline | grep -q '^rpcward firewall keep' && kill ${p#/proc/}; done; true`)
	s.waitTrial(rollback.RolledBack)
	s.wantReach(true)
}

// TestPlanNamesClients wants those who would be cut off by name.
func TestPlanNamesClients(t *testing.T) {
	t.Parallel()
	s := newProtected(t, everyone)
	dial := func(h *lab.Host, network string, server netip.Addr) {
		c, err := h.Dial(network, netip.AddrPortFrom(server, nfsPort).String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.Write([]byte("x"))
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	dial(s.Inside, "tcp", lab.ServerIP)
	dial(s.Stranger, "tcp", lab.ServerWAN)
	dial(s.Stranger, "tcp", lab.ServerWAN)
	s.Server.Allow(lanOnly)
	s.want(1, []string{
		"nfs (tcp 2049, udp 2049)", "now:  everybody (not guarded)", "then: 10.99.0.0/24 and fd99::/64",
		"why:  no rule names nfs: as the port mapper, by hosts.allow:1", "CUT OFF",
		"10.98.0.2 at nfs (tcp 2049), 2 connections, last heard", "tracks no connections",
	}, "firewall", "plan")

	// Where connections are tracked, those who send datagrams are known too.
	s.Server.WriteFile("/run/track.nft", "table inet site { chain in { type filter hook input priority 0; ct state invalid drop; }; }\n")
	s.Server.MustRun("nft", "-f", "/run/track.nft")
	dial(s.Inside, "udp", lab.ServerIP)
	dial(s.Stranger, "udp", lab.ServerWAN)
	dial(s.Stranger, "udp", lab.ServerWAN6)
	var plan planJSON
	r := s.want(1, nil, "firewall", "plan", "--json")
	if err := json.Unmarshal([]byte(r.out), &plan); err != nil {
		t.Fatal(err)
	}
	var cut []string
	for _, c := range plan.CutOff {
		cut = append(cut, c.Address+" "+c.Port)
		if c.SilentSeconds == nil {
			t.Errorf("when %s was last heard is not known", c.Address)
		}
	}
	if want := []string{"10.98.0.2 tcp 2049", "10.98.0.2 udp 2049", "fd98::2 udp 2049"}; !slices.Equal(cut, want) || !plan.UDPClientsKnown || !plan.Changes {
		t.Errorf("cut off: %q, want %q", cut, want)
	}
	if !strings.Contains(plan.Text["nft"], "table inet rpcward") {
		t.Errorf("text: %v", plan.Text)
	}
	s.want(0, []string{"CUT OFF"}, "firewall", "apply")
	s.want(0, []string{"Nothing is to be changed", "stays: 10.99.0.0/24 and fd99::/64"}, "firewall", "plan")
	s.wantReach(false)
	services := s.show().Backends[0].Services
	i := slices.IndexFunc(services, func(s inForceJSON) bool { return s.Name == "nfs" })
	if i < 0 || fmt.Sprint(services[i].Allowed) != "[10.99.0.0/24 fd99::/64]" || services[i].DroppedPackets == 0 || services[i].AllowedPackets == 0 {
		t.Errorf("%+v", services)
	}
	s.want(0, []string{"nfs (tcp 2049, udp 2049)\n    open to: 10.99.0.0/24 and fd99::/64\n    packets: "}, "firewall", "show")
}

// TestUnregistered wants a port to stay closed that was given up and has a socket
// on it, and no change while nobody tells what is registered.
func TestUnregistered(t *testing.T) {
	t.Parallel()
	s := newProtected(t, lanOnly)
	s.want(0, nil, "firewall", "apply")
	s.want(0, nil, "rpcinfo", "-d", "100003", "3")
	s.want(1, []string{"nfs (tcp 2049, udp 2049)", "then: nobody", "not registered any more, but a socket is still on it"}, "firewall", "plan")
	s.want(0, nil, "firewall", "apply")
	if s.answered(s.Inside, false) || s.answered(s.Stranger, false) {
		t.Error("a port that nobody has registered is open")
	}
	s.mapper.Stop(syscall.SIGTERM)
	s.want(0, []string{"no port mapper answers"}, "firewall", "plan")
	s.want(1, []string{"no port mapper answers, so that it is not known whose ports are guarded", "start the port mapper first"}, "firewall", "apply")
}

// TestRemove wants nothing to be left behind.
func TestRemove(t *testing.T) {
	t.Parallel()
	for _, backend := range liveBackends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			s := newProtected(t, lanOnly)
			before := s.rules()
			s.want(0, nil, "firewall", "apply", "--backend", backend)
			s.wantReach(false)
			s.want(0, []string{"removed (" + backend + ")", "udp 2049 (nfs): was open to 10.99.0.0/24 and fd99::/64, now not guarded"}, "firewall", "remove")
			s.wantReach(true)
			if after := s.rules(); after != before {
				t.Errorf("before:\n%s\nafter:\n%s", before, after)
			}
			s.want(0, []string{"No rules of rpcward"}, "firewall", "remove")
			// A change on trial is void then: nothing comes back.
			s.want(0, nil, "firewall", "apply", "--backend", backend, "--confirm", "10m")
			s.want(0, nil, "firewall", "remove")
			s.want(1, []string{"void, since all rules were removed"}, "firewall", "confirm")
		})
	}
}

// TestExportedFiles loads what is exported, and wants it to be what would be applied.
func TestExportedFiles(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"nft", "iptables-nft", "iptables-legacy"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			s := newProtected(t, lanOnly)
			formats := []string{"nft"}
			if backend != "nft" {
				formats = []string{"iptables", "ip6tables"}
			}
			for _, format := range formats {
				s.want(0, nil, "firewall", "export", "--format", format, "-o", "/run/rules")
				text, err := s.Server.ReadFile("/run/rules")
				if err != nil || !strings.Contains(text, "nfs: tcp 2049, udp 2049") {
					t.Errorf("%v\n%s", err, text)
				}
				if format == "nft" {
					s.Server.MustRun("nft", "-c", "-f", "/run/rules")
					s.Server.MustRun("nft", "-f", "/run/rules")
					continue
				}
				program := strings.Replace(backend, "iptables", format, 1) + "-restore"
				s.Server.MustRun(program, "--test", "--noflush", "/run/rules")
				s.Server.MustRun(program, "--noflush", "/run/rules")
			}
			s.wantReach(false)
			s.want(0, []string{"(" + backend + ")"}, "firewall", "remove")
			s.wantReach(true)
		})
	}
}

// TestHook wants an allowed client to get through a firewall that drops by
// default, with the line that hook prints and not without; a stranger never.
func TestHook(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, setup string }{
		{firewall.BackendNFT, "nft add table inet site; nft 'add chain inet site in { type filter hook input priority 0 ; policy drop ; }'; nft add rule inet site in iif lo accept; nft add rule inet site in icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept"},
		{firewall.BackendIPTablesNFT, dropByDefault("-nft")},
		{firewall.BackendIPTablesLegacy, dropByDefault("-legacy")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newProtected(t, lanOnly)
			s.Server.MustRun("sh", "-ec", tt.setup)
			s.want(2, []string{"have no mark", "--mark 0x100"}, "firewall", "hook")
			s.want(0, []string{"backend: " + tt.name}, "firewall", "apply", "--mark", "0x100/0xf00")
			if s.answered(s.Inside, false) {
				t.Error("the inside is answered without the line")
			}
			lines := s.want(0, []string{"drops what no rule accepts"}, "firewall", "hook", "--mark", "0x100/0xf00").out
			s.Server.MustRun("sh", "-ec", lines)
			s.wantReach(false)
			s.want(0, []string{"in place"}, "firewall", "show")
		})
	}
}

func dropByDefault(variant string) string {
	return fmt.Sprintf("for p in iptables%[1]s ip6tables%[1]s; do $p -P INPUT DROP; $p -A INPUT -i lo -j ACCEPT; done; ip6tables%[1]s -A INPUT -p icmpv6 -j ACCEPT", variant)
}

// TestProtect wants the file and the rules to change together, and to go back
// together.
func TestProtect(t *testing.T) {
	t.Parallel()
	s := newProtected(t, "# who gets in\nsshd: ALL")
	before := s.rules()
	files := func() string { return s.Server.MustRun("sh", "-c", "ls /etc/hosts.*; cat /etc/hosts.allow") }
	old := files()
	protect := []string{"protect", "--allow", "10.99.0.0/24", "fd99::/64"}
	wantBefore := func() {
		t.Helper()
		if now := files(); now != old {
			t.Errorf("files before:\n%s\nnow:\n%s", old, now)
		}
		if now := s.rules(); now != before {
			t.Errorf("rules before:\n%s\nnow:\n%s", before, now)
		}
	}
	s.want(0, []string{"+portmap : 10.99.0.0/24 [fd99::]/64", "nfs (tcp 2049, udp 2049)", "Nothing was changed"}, append(protect, "--dry-run")...)
	s.want(2, []string{"has bits set behind the network"}, "protect", "--allow", "10.99.0.1/24")
	s.want(2, []string{"is not an address"}, "protect", "--allow", "nfs.example.org")
	s.want(2, []string{"--allow says who is let in"}, "protect")
	wantBefore()

	s.want(0, []string{"on trial", "rpcward firewall confirm"}, append(protect, "--confirm", "2s")...)
	s.waitTrial(rollback.RolledBack)
	wantBefore()

	s.want(0, []string{"on trial"}, protect...)
	s.wantReach(false)
	s.want(0, nil, "firewall", "confirm")
	now, _ := s.Server.ReadFile("/etc/hosts.allow")
	if want := "# who gets in\nsshd: ALL\nportmap : 10.99.0.0/24 [fd99::]/64\n"; now != want {
		t.Errorf("hosts.allow:\n%s", now)
	}
	if kept, err := s.Server.ReadFile("/etc/hosts.allow.bak"); err != nil || kept != "# who gets in\nsshd: ALL\n" {
		t.Errorf("backup: %v\n%s", err, kept)
	}
	s.want(0, []string{"already answered", "Nothing is to be changed."}, protect...)
}

// TestProtectFails wants nothing half done when a part of it can't be.
func TestProtectFails(t *testing.T) {
	t.Parallel()
	s := newProtected(t, "sshd: ALL")
	before, old := s.rules(), s.Server.MustRun("sh", "-c", "ls /etc/hosts.*; cat /etc/hosts.allow")
	wantBefore := func() {
		t.Helper()
		if now := s.rules(); now != before {
			t.Errorf("rules before:\n%s\nnow:\n%s", before, now)
		}
		if now := s.Server.MustRun("sh", "-c", "ls /etc/hosts.*; cat /etc/hosts.allow"); now != old {
			t.Errorf("files before:\n%s\nnow:\n%s", old, now)
		}
	}
	// The second of the two tables can't be changed.
	s.Server.WriteFile("/run/bin/ip6tables-nft-restore", "#!/bin/sh\necho no >&2\nexit 1\n")
	s.Server.MustRun("chmod", "+x", "/run/bin/ip6tables-nft-restore")
	for _, confirm := range []string{"10m", "0"} {
		cmd := s.Server.Command(t.Context(), s.tool, "protect", "--allow", "10.99.0.0/24", "--backend", "iptables-nft", "--confirm", confirm)
		cmd.Env = append(os.Environ(), "PATH=/run/bin:"+os.Getenv("PATH"))
		if r := s.runCommand(cmd); r.code != 1 || !strings.Contains(r.all, "ip6tables-nft-restore: exit status 1: no") {
			t.Errorf("exit code %d\n%s", r.code, r.all)
		}
		wantBefore()
	}
	// The file can't be replaced, for something is mounted there.
	s.Server.MustRun("mount", "--bind", "/etc/hosts.allow", "/etc/hosts.allow")
	s.want(1, []string{"writing /etc/hosts.allow"}, "protect", "--allow", "10.99.0.0/24")
	wantBefore()
	// The one who asks may not.
	for command, code := range map[string]int{
		"protect --allow 10.99.0.0/24": 1, "firewall plan": 2, "firewall apply": 1, "firewall show": 1,
		"firewall confirm": 1, "firewall rollback": 1, "firewall remove": 1, "firewall hook --mark 1": 1,
	} {
		cmd := s.Server.Command(t.Context(), s.tool, strings.Fields(command)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if r := s.runCommand(cmd); r.code != code || !strings.Contains(r.all, "hint: run this as root") {
			t.Errorf("%s: exit code %d\n%s", command, r.code, r.all)
		}
	}
	wantBefore()
}

// TestBesideGuard wants these commands to leave a guard's rules to it.
func TestBesideGuard(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{firewall.BackendNFT, firewall.BackendIPTablesNFT} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			s := newProtected(t, lanOnly)
			s.Server.Start(s.tool, "guard", "--backend", backend).WaitLog("guarding the registered services")
			s.want(0, []string{"kept by a running guard", "nfs (tcp 2049, udp 2049)"}, "firewall", "show")
			s.want(0, []string{"Nothing is to be changed."}, "firewall", "plan")
			for _, args := range [][]string{{"apply"}, {"apply", "--confirm", "10m"}, {"remove"}} {
				s.want(1, []string{"a guard is running", "hint: it follows hosts.allow"}, append([]string{"firewall"}, args...)...)
			}
			s.want(1, []string{"rpcward access allow portmap"}, "protect", "--allow", "192.0.2.0/24")
			s.wantReach(false)
		})
	}
}
