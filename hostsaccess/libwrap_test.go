package hostsaccess

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// needTcpdmatch skips unless Debian's tcpdmatch can run in a network namespace
// of its own, where it can ask no name server.
func needTcpdmatch(t *testing.T) {
	t.Helper()
	missing := ""
	if os.Geteuid() != 0 {
		missing = "root, to make a network namespace"
	} else if _, err := exec.LookPath("tcpdmatch"); err != nil {
		missing = "tcpdmatch (Debian package tcpd)"
	}
	switch {
	case missing == "":
	case os.Getenv("RPCWARD_TEST_REQUIRED") != "":
		t.Fatal("needs " + missing)
	default:
		t.Skip("needs " + missing)
	}
}

// askLibwrap says what the real libwrap decides by the files in dir.
func askLibwrap(t *testing.T, dir, daemon, client string) (granted bool) {
	t.Helper()
	cmd := exec.Command("tcpdmatch", "-d", daemon, client)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("tcpdmatch %s %s: %v\n%s", daemon, client, err, out)
	}
	switch {
	case strings.Contains(string(out), "access:   granted"):
		return true
	case strings.Contains(string(out), "access:   denied"):
		return false
	}
	t.Fatalf("tcpdmatch %s %s: no verdict in\n%s", daemon, client, out)
	return false
}

// Patterns that mean the same in libwrap as here. Those that don't are in
// TestDiffersFromLibwrap.
var (
	agreedDaemons = []string{"ALL", "rpcbind", "RpcBind", "portmap", "sshd", "rpc*", "?pcbind", "rpc.", ".bind", "KNOWN",
		"rpcbind@10.0.0.1", "rpcbind@10.9.", "rpcbind@[fd00::1]"}
	agreedClients = []string{"ALL", "10.0.0.1", "10.0.0.2", "10.", "10.1.", "10.1.2.", "10.0.0.0/8", "10.128.0.0/9", "10.1.0.0/255.255.0.0",
		"0.0.0.0/0.0.0.0", "10.0.0.1/255.0.0.255", "0.0.0.1/0.0.0.1", "10.1.2.3/32", "[fd00::1]", "[fd00::]/16", "[::]/0", "[fe80::]/10", "ALL@10.1."}
	agreedOptions = []string{": allow", ": deny", ": severity local0.info", `: setenv X a\:b : deny`, ": nice 0:allow"}
	agreedCallers = []string{"10.0.0.1", "10.0.0.2", "10.1.2.3", "10.128.0.1", "11.0.0.1", "fd00::1", "fd00::2", "2001:db8::1", "::ffff:10.1.2.3"}
	agreedServers = []string{"10.0.0.1", "10.9.9.9", "fd00::1"}
)

func agreedFile(r *rand.Rand) string {
	pick := func(from []string) string { return from[r.IntN(len(from))] }
	list := func(from []string) string {
		s := pick(from)
		for r.IntN(2) == 0 {
			s += []string{" ", ", ", "\t", ",\\\n", " EXCEPT "}[r.IntN(5)] + pick(from)
		}
		return s
	}
	var b strings.Builder
	for range r.IntN(5) {
		b.WriteString(list(agreedDaemons) + []string{":", " : "}[r.IntN(2)] + list(agreedClients))
		if r.IntN(4) == 0 {
			b.WriteString(pick(agreedOptions))
		}
		b.WriteString([]string{"\n", "\n# portmap: ALL\n", "\n\n"}[r.IntN(3)])
	}
	return b.String()
}

// TestAgreesWithLibwrap writes random files without mistakes and compares each
// decision with that of the real library.
func TestAgreesWithLibwrap(t *testing.T) {
	needTcpdmatch(t)
	rounds := 300
	if testing.Short() {
		rounds = 50
	}
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	granted := 0
	for range rounds {
		allow, deny := agreedFile(r), agreedFile(r)
		write(t, dir, "hosts.allow", allow)
		write(t, dir, "hosts.deny", deny)
		m, _ := Compile(Parse("hosts.allow", []byte(allow)), Parse("hosts.deny", []byte(deny)), Options{Names: []string{"rpcbind"}})
		from := agreedCallers[r.IntN(len(agreedCallers))]
		local := agreedServers[r.IntN(len(agreedServers))]
		d := m.Decide(client(from), client(local))
		want := askLibwrap(t, dir, "rpcbind@"+local, from)
		if want {
			granted++
		}
		if got := d.Verdict != Deny; got != want {
			t.Fatalf("%s to %s: %v by %v, libwrap grants: %v (seed %d)\nhosts.allow:\n%s\nhosts.deny:\n%s",
				from, local, d.Verdict, d.Rule, want, seed, allow, deny)
		}
	}
	if granted == 0 || granted == rounds {
		t.Errorf("%d of %d granted: nothing was compared", granted, rounds)
	}
}

// TestDiffersFromLibwrap holds each place where libwrap does not do what the
// file says, together with what libwrap does.
func TestDiffersFromLibwrap(t *testing.T) {
	needTcpdmatch(t)
	tests := []struct {
		name, allow, deny, client string
		want                      Verdict
		libwrapGrants             bool
	}{
		{"every IPv4 address", "", "ALL: 0.0.0.0/0\n", "10.1.2.3", Deny, true},
		{"mask of one address", "", "ALL: 10.1.2.3/255.255.255.255\n", "10.1.2.3", Deny, true},
		{"host bits", "", "ALL: 10.1.2.3/24\n", "10.1.2.3", Deny, true},
		{"no last dot", "", "ALL: 10.1.2\n", "10.1.2.3", Deny, true},
		{"short network", "", "ALL: 10/8\n", "10.1.2.3", Deny, true},
		{"no colon", "", "ALL ALL\n", "10.1.2.3", Deny, true},
		{"bare IPv6", "", "ALL: fd00::1: deny\n", "fd00::1", Deny, true},
		{"open bracket", "", "ALL: [fd00::1\n", "fd00::1", Deny, true},
		{"byte order mark", "", "\ufeffrpcbind: ALL\n", "10.1.2.3", Deny, true},
		{"continued comment", "", "# all of them: \\\nALL: ALL\n", "10.1.2.3", Deny, true},
		{"old name", "", "portmap: ALL\n", "10.1.2.3", Deny, true},
		{"mapped pattern", "", "ALL: [::ffff:10.1.2.3]\n", "10.1.2.3", Deny, true},
		{"trailing words", "ALL: 192.0.2.1 # not ALL of them\n", "ALL: ALL\n", "10.1.2.3", Deny, true},
		{"mask junk", "ALL: [3fff::]/junk\n", "ALL: ALL\n", "fd00::1", Deny, true},
		{"indented comment", " # rpcbind: ALL\n", "ALL: ALL\n", "10.1.2.3", Deny, true},
		{"no last newline", "ALL: 10.1.2.3", "ALL: ALL\n", "10.1.2.3", Allow, false},
		{"address of the other family", "ALL: [::ffff:10.1.2.3]\n", "ALL: ALL\n", "10.1.2.3", Allow, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "hosts.allow", tt.allow)
			write(t, dir, "hosts.deny", tt.deny)
			m, _ := Compile(Parse("hosts.allow", []byte(tt.allow)), Parse("hosts.deny", []byte(tt.deny)), testService)
			if d := m.Decide(client(tt.client), client("10.0.0.1")); d.Verdict != tt.want {
				t.Errorf("decided %v by %v, want %v", d.Verdict, d.Rule, tt.want)
			}
			if got := askLibwrap(t, dir, "rpcbind", tt.client); got != tt.libwrapGrants {
				t.Errorf("libwrap grants: %v, want %v", got, tt.libwrapGrants)
			}
		})
	}
}

func write(t *testing.T, dir, name, data string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}
