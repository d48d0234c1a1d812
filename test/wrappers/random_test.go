package wrappers

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rpcward/test/lab"
)

// The test's size and seed.
const (
	casesEnv = "RPCWARD_ORACLE_CASES"
	seedEnv  = "RPCWARD_ORACLE_SEED"
)

// The words of random tables. What ours and Debian's tools say differently on
// purpose is not among them: testdata/oracles/better.txtar.
var (
	randomDaemons = strings.Fields("ALL sshd foo in.ftpd foo@10.5.5.1 foo@real.test foo@multi.test EXCEPT LOCAL UNKNOWN FAIL .x x. @y 22 * f?o portmap")
	randomClients = strings.Fields(`ALL 10.1.2.3 10. 10.1.2. .test real.test alias.test multi.test nosuch KNOWN UNKNOWN PARANOID LOCAL EXCEPT
		10.1.2.0/24 10.0.0.0/255.0.0.0 0.0.0.0/0 10.1.2.0/33 10.1.2.0/-1 10.1.2.0/x 10.1.2.3/255.255.255.255
		10.1/16 10.1.2 010.1.2.3 [::1] [fd00::]/16 [fd00::5 ::1 FAIL root@10.1.2.3 KNOWN@real.test .x@y.test @nosuch a*.test * ?0.1.2.3 .3 2001 0.0.0.0`)
	randomOptions = strings.Fields(`allow deny ALLOW severity_mail.info severity_auth spawn_x%aY twist_%c%% twist_y aclexec_z%d keepalive keepalive_x linger_3 linger_x
		rfc931 rfc931_5 nice nice_5 umask_022 umask_x setenv_A_%h%q setenv_B nosuch banners_/nosuch user_nosuch group_nosuch allow=`)
	randomAsked = strings.Fields("sshd foo in.ftpd foo@10.5.5.1 foo@unknown")
	randomAsker = strings.Fields("10.1.2.3 root@10.1.2.3 real.test u@alias.test multi.test unknown paranoid dual.test 10.1.2 fd00::6 ::1")
)

func pick(r *rand.Rand, from []string) string { return from[r.IntN(len(from))] }

func randomList(r *rand.Rand, from []string) string {
	words := make([]string, 1+r.IntN(4))
	for i := range words {
		words[i] = pick(r, from)
	}
	return strings.Join(words, []string{" ", ", ", ",", "\t"}[r.IntN(4)])
}

// randomTable writes a few lines; most are rules.
func randomTable(r *rand.Rand) string {
	var b strings.Builder
	open := false // a bracket, in the present line
	for range r.IntN(5) {
		clients := randomList(r, randomClients)
		fmt.Fprintf(&b, "%s : %s", randomList(r, randomDaemons), clients)
		for range r.IntN(3) {
			b.WriteString(" : " + strings.ReplaceAll(pick(r, randomOptions), "_", " "))
		}
		end := []string{"\n", "\n", "\n", "\n", " \\\n", " ", "\r\n", ":\n"}[r.IntN(8)]
		open = open || strings.Count(clients, "[") != strings.Count(clients, "]")
		if open && end[0] == ':' {
			b.WriteByte(' ') // ":" is part of the word there, and ours warns of a mask with something behind it
		}
		open = open && end[0] == ' '
		b.WriteString(end)
	}
	return b.String()
}

// TestOraclesAgree compares ours and Debian's tools over random tables.
func TestOraclesAgree(t *testing.T) {
	t.Parallel()
	cases := number(t, casesEnv, 60)
	seed := number(t, seedEnv, 1)
	t.Logf("%s=%d %s=%d", seedEnv, seed, casesEnv, cases)
	r := rand.New(rand.NewPCG(uint64(seed), 0))
	h := newOracleHost(t)
	ours, stock := ourTools(t), stockTools(t)
	for range cases {
		allow, deny := randomTable(r), randomTable(r)
		h.WriteFile("/run/random/hosts.allow", allow)
		h.WriteFile("/run/random/hosts.deny", deny)
		for _, words := range [][]string{
			{"tcpdmatch", "-d", pick(r, randomAsked), pick(r, randomAsker)},
			{"tcpdchk", "-d", "-v", "-a"},
		} {
			want, got := stock.transcript(t, h, "/run/random", words), ours.transcript(t, h, "/run/random", words)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("hosts.allow:\n%s\nhosts.deny:\n%s\nDebian's (-) and ours (+):\n%s", allow, deny, diff)
			}
		}
		if t.Failed() {
			return
		}
	}
}

func number(t *testing.T, env string, otherwise int) int {
	t.Helper()
	s := os.Getenv(env)
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("%s: %v", env, err)
	}
	return n
}

// newOracleHost is a host with the lab's names, and no inetd.
func newOracleHost(t *testing.T) *lab.Host {
	t.Helper()
	h := lab.NewHost(t, "oracle")
	h.WriteFile("/etc/hosts", hosts)
	h.MustRun("rm", "-rf", "/etc/inetd.conf", "/etc/xinetd.conf", "/etc/xinetd.d")
	return h
}
