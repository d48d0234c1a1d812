package libwrap

import (
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"

	"rpcward/hostsaccess"
)

// dice makes worlds and queries that have something to do with each other.
type dice struct{ *rand.Rand }

func (d dice) pick(from []string) string { return from[d.IntN(len(from))] }
func (d dice) one(in int) bool           { return d.IntN(in) == 0 }

var (
	daemons = []string{"ALL", "sshd", "SSHD", "rpcbind", "rpc*", "?shd", "s?*d", "*", "**", "sshd**", "rpc.", ".d", ".bind", "KNOWN", "UNKNOWN", "LOCAL",
		"22", "+22", "022", "22-23", "4294967318", "65536", "-4294967274", "111", "0x16", "@trusted", "/etc/list", "[::1]", "un*", "a b", "$(x)", "my;d", "sshd[", "]", "::ffff:10.1.2.3"}
	hosts = []string{"ALL", "all", "LOCAL", "KNOWN", "UNKNOWN", "PARANOID", "EXCEPT", "10.", "10.1.", "10.1.2.", "10.1.2.3", "10.1.2.4", "10.1.2", "010.1.2.3", "10.1.2.3.",
		"10.0.0.0/8", "10.1.0.0/16", "10.1.0.0/255.255.0.0", "10.1.2.0/24", "10.1.2.3/24", "10.1.2.3/32", "10.1.2.3/255.255.255.255", "0.0.0.0/0", "0.0.0.0/0.0.0.0",
		"10.1.2.0/33", "10.1.2.0/-1", "10/8", "10.1/16", "10.0.0.3/255.0.0.255", "10.1.2.0/24junk", "10.1.2.0/+24", "10.1.2.0/24/8", "012.0.0.0/8", "0xa.0.0.0/8", "0xA.0X1.0.0/16",
		"10.1.2.0/4294967320", "10.1.2.2/31", "255.255.255.255/1", "10.0.0.0/0xff.0.0.0", "10.1.2.0/\v24", "10.\v.1.2.3/8",
		"[::1]", "[2001:db8::1]", "[2001:DB8:0::1]", "[2001:db8::]/32", "[2001:db8::99]/32", "[2001:db8::]/33", "[2001:db8::]/64", "[2001:db8::]/127", "[::]/0", "[::]/129", "[::]/-1", "[3fff::]/junk", "[3fff::]/",
		"[3fff::]/4294967296", "[2001:db8::/32]", "[10.1.2.3]", "[::ffff:10.1.2.3]", "[::ffff:10.0.0.0]/104", "[::ffff:a01:203]", "[fe80::1]", "[fe80::1%lo]", "[fe80::1%1]", "[fe80::1%nosuchif]", "[fe80::]/10", "[fe80::%lo]/10", "[2001:db8::1%3]",
		"[2001:db8::1", "2001:db8::1]", "[[2001:db8::1]]", "[]", "[*]", "[]/0", "::1", "2001:db8::1", "2001*", "fe80*", "::*",
		"good.example.com", "GOOD.example.com", ".example.com", ".com", "good.", "good*", "*.example.com", "*.com", "?ood.*", "10.*", "10.1.?.3", "*3", "*.3", ".3", ".2.3", "gateway", "unk*", "unknown", "paranoid", "par*",
		"@trusted", "@other", "@@trusted", "/etc/list", "/etc/none", "/24", "#", "#comment", "not", "(safe_finger", "\\", "$x", "a/b", "/", "@", "x@", "<", "ümlaut", "\v10.", "\f10.1.2.3"}
	users   = []string{"root", "ROOT", "ro*", "ALL", "KNOWN", "UNKNOWN", "unknown", ".oot", "ro.", "@root", "[", "22"}
	options = []string{"allow", "deny", "ALLOW", "allow=", "allow x", "deny = ", "severity info", "severity auth.notice", "severity local7.debug", "severity authpriv.info", "severity auth.warn", "severity", "severity mail[.]info", "severity DAEMON.ERR",
		"spawn echo %a %h %c", "spawn (x %d-%h | y) &", "spawn %z", "spawn echo 100%", "spawn %%%p%r%R", "spawn a\\:b\\\\:c", "spawn = x", "spawn == x", "spawn\tx", "spawn\v x", "twist echo %s %u %n %N %H %A", "twist x", "aclexec check %a", "aclexec check %c %s",
		"keepalive", "keepalive 1", "linger 5", "linger -1", "linger 99999999999", "linger 4294967295", "linger 0x5", "linger 5 x", "linger", "rfc931", "rfc931 7", "rfc931 0", "rfc931 x", "nice", "nice 5", "nice -5", "nice x", "umask 022", "umask 0777", "umask 1000", "umask 8", "umask -1", "umask",
		"setenv A b", "setenv A", "setenv A=b c", "setenv A %u@%h b", "setenv %z", "setenv", "setenv A\vb c\f", "user nobody", "user nobody.root", "user nosuch", "user nobody.nosuch", "user nosuch.nosuch", "user 0", "group root", "group nosuch", "banners /etc/ban", "banners /none",
		"", " ", "nonsense", "(/usr/sbin/safe_finger -l @%h)", "=", "= x", "user=root", "nice=3", "nice\r", "\\", "[", "]"}
	texts = []string{"10.1.2.3", "10.1.2.4", "10.9.9.9", "192.0.2.1", "::1", "2001:db8::1", "fe80::1%lo", "fe80::1%1", "fe80::1%nosuchif", "fe80::1", "::ffff:10.1.2.3", "::FFFF:10.1.2.3", "::ffff:a01:203", "::ffff:255.255.255.255",
		"255.255.255.255", "0.0.0.0", "unknown", "paranoid", "10.1.2", "010.1.2.3", "0xa.1.2.3", "10.1.2.3 x", "good.example.com", "::10.1.2.3", "a;b", strings.Repeat("1", 140)}
	sockets   = []string{"10.1.2.3:1023", "10.1.2.4:22", "10.9.9.9:111", "255.255.255.255:1", "[::1]:22", "[2001:db8::1]:22", "[fe80::1%lo]:22", "[::ffff:10.1.2.3]:22", "[::10.1.2.3]:22", "[::ffff:255.255.255.255]:3", "[::]:22", "[::5]:22", "[2001:db8:0:1:0:0:0:1]:1", "[::ffff:0:0]:22", "[1:0:0:2:0:0:0:3]:22", "[1:0:2:3:4:5:6:7]:0", "[::1:2:3]:0"}
	hostNames = []string{"good.example.com", "GOOD.EXAMPLE.COM", "bad.example.net", "gateway", "10.evil.com", "unknown", "paranoid", "we$rd;name", "x.3", "10.1.2.3", strings.Repeat("a.", 70) + "example.com", "::ffff:10.1.2.3", "Unknown"}
	userNames = []string{"root", "user", "unknown", "a b", "ro`ot", "@root"}
	names_    = []string{"sshd", "rpcbind", "22", "my;d", "a b", "::ffff:10.1.2.3", "unknown", strings.Repeat("d", 130)}
	endings   = []string{"\n", "\n", "\n", "\n", "\n", "\n", "\n", "\r\n", "\\\n", "\n\n", "\n# comment\n", "\n# comment \\\n", "", "\x00\n", "\n\x00", "\n \n", "\n#" + strings.Repeat("x", 2040) + "\n"}
	spaces    = []string{" ", " ", " ", ", ", ",", "\t", "\r", "\\\n", "  ", "\v", "\f", " EXCEPT ", " except ", " EXCEPT EXCEPT "}
	colons    = []string{":", ":", ":", " : ", ": ", " :", "::", " ", "\\:", ":\\\n"}
)

func (d dice) list(word func() string) string {
	s := word()
	for d.one(3) {
		s += d.pick(spaces) + word()
	}
	return s
}

func (d dice) daemon() string {
	s := d.pick(daemons)
	if d.one(2) {
		s = d.pick(daemons[:2])
	}
	if d.one(6) {
		s += "@" + d.pick(hosts)
	}
	return s
}

func (d dice) host() string {
	s := d.pick(hosts)
	if d.one(4) {
		s = "ALL"
	}
	if d.one(6) {
		s = d.pick(users) + "@" + s
	}
	return s
}

func (d dice) line() string {
	s := d.list(d.daemon) + d.pick(colons) + d.list(d.host)
	for d.one(3) {
		s += d.pick(colons) + d.pick(options)
	}
	if d.one(200) {
		s += strings.Repeat("x ", d.IntN(1100))
	}
	if d.one(300) {
		s += ": spawn " + strings.Repeat("%h", d.IntN(300))
	}
	return s + d.pick(endings)
}

// noise changes a few bytes.
func (d dice) noise(s string) string {
	b := []byte(s)
	for d.one(2) && len(b) > 0 {
		i := d.IntN(len(b))
		switch d.IntN(3) {
		case 0:
			b = append(b[:i], b[i+1:]...)
		case 1:
			b[i] = "\x00\\\r\n:[]@/.# ,x0%"[d.IntN(16)]
		case 2:
			b = append(b[:i], append([]byte{"\x00\\\r\n:[]@/.# ,x0%"[d.IntN(16)]}, b[i:]...)...)
		}
	}
	return string(b)
}

func (d dice) table(name string) file {
	f := file{name: name, state: 'r'}
	if d.one(20) {
		f.state = "rmdu"[d.IntN(4)]
	}
	for range d.IntN(6) {
		f.text += d.line()
	}
	if d.one(4) {
		f.text = d.noise(f.text)
	}
	return f
}

// word is a pattern that can stand in a file. A file that includes itself
// crashes libwrap.
func (d dice) word() string {
	for {
		if s := d.pick(hosts); !strings.HasPrefix(s, "/etc/") {
			return s
		}
	}
}

func (d dice) world() *world {
	w := &world{files: []file{d.table("hosts.allow"), d.table("hosts.deny")}}
	w.files = append(w.files,
		file{"/etc/list", 'r', strings.Join([]string{d.word(), "# " + d.word(), "/etc/more\v" + d.word(), "EXCEPT root@10.1.2.3"}, "\n")},
		file{"/etc/more", 'r', d.word() + " @trusted\n"},
		file{"/etc/ban/sshd", 'r', "\x00hello %h\nfrom [ %a\nbye] %c %z\n" + d.noise("last line %d\n")})
	return w
}

func (d dice) end() (e end) {
	if d.one(3) {
		e.text = d.pick(texts)
	}
	if e.text == "" || d.one(2) {
		e.addr = address(d.pick(sockets))
	}
	if d.one(2) {
		e.name = d.pick(hostNames)
	}
	if d.one(2) {
		e.lookup = d.pick(hostNames[:10])
	}
	return e
}

func (d dice) query() *query {
	q := &query{daemon: d.pick(names_), client: d.end(), server: d.end(), pid: d.IntN(100000)}
	if d.one(2) {
		q.daemon = "sshd"
	}
	if d.one(2) {
		q.user = d.pick(userNames)
	}
	if d.one(2) {
		q.ident = d.pick(userNames)
	}
	if d.one(2) {
		q.client.lookup, q.server.lookup, q.ident = "", "", ""
	}
	q.datagram, q.aclexecFails, q.resident, q.leak = d.one(8), d.one(2), d.one(4), d.one(20)
	if q.client.addr.Addr() == q.server.addr.Addr() {
		q.server.lookup = q.client.lookup
	}
	return q
}

// cases is how many random cases a test run compares.
func cases(t *testing.T) int {
	n := 200_000
	if testing.Short() {
		n = 20_000
	}
	if s := os.Getenv("RPCWARD_LIBWRAP_CASES"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatalf("RPCWARD_LIBWRAP_CASES: %v", err)
		}
	}
	return n
}

func seed(t *testing.T) uint64 {
	if s := os.Getenv("RPCWARD_LIBWRAP_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("RPCWARD_LIBWRAP_SEED: %v", err)
		}
		return n
	}
	return 1 // a plain run compares the same cases each time
}

// TestAgreesWithLibwrap asks both about random requests and random files.
func TestAgreesWithLibwrap(t *testing.T) {
	const perWorld = 20
	d := startDriver(t, buildDriver(t))
	s := seed(t)
	t.Logf("seed %d", s)
	r := dice{rand.New(rand.NewPCG(s, 0))}
	seen := map[string]int{}
	for done := 0; done < cases(t); done += perWorld {
		w := r.world()
		queries := make([]*query, perWorld)
		d.load(w)
		for i := range queries {
			queries[i] = r.query()
			d.request('Q', queries[i])
		}
		d.out.Flush()
		tables := w.tables(hostsaccess.Compat)
		wrong := -1
		for i, q := range queries {
			want := d.answer()
			got := q.decide(tables)
			seen[strings.TrimSuffix(strings.Fields(want)[0], ";")]++
			if got != want && wrong < 0 {
				wrong = i
			}
		}
		if wrong >= 0 {
			w, q := shrink(d, w, queries[wrong])
			t.Fatalf("seed %d, smallest case:\n%s\nlibwrap:     %s\nhostsaccess: %s", s, vector{"", w, q, ""}, d.ask(w, q), q.decide(w.tables(hostsaccess.Compat)))
		}
	}
	t.Logf("verdicts: %v", seen)
	for _, verdict := range []string{"granted", "denied", "delegated"} {
		if seen[verdict] == 0 {
			t.Errorf("no case was %s: nothing was compared", verdict)
		}
	}
}

// shrink looks for a smaller case on which the two still differ.
func shrink(d *driver, w *world, q *query) (*world, *query) {
	differs := func(w *world, q *query) bool { return d.ask(w, q) != q.decide(w.tables(hostsaccess.Compat)) }
	for again := true; again; {
		again = false
		for _, smaller := range smallerQueries(q) {
			if differs(w, smaller) {
				q, again = smaller, true
			}
		}
		for i := range w.files {
			for size := len(w.files[i].text); size > 0; size /= 2 {
				for at := 0; at+size <= len(w.files[i].text); {
					smaller := &world{files: append([]file(nil), w.files...)}
					text := w.files[i].text
					smaller.files[i].text = text[:at] + text[at+size:]
					if differs(smaller, q) {
						w, again = smaller, true
					} else {
						at += size
					}
				}
			}
		}
	}
	return w, q
}

func smallerQueries(q *query) (all []*query) {
	try := func(change func(*query)) {
		smaller := *q
		change(&smaller)
		if smaller != *q {
			all = append(all, &smaller)
		}
	}
	for _, change := range []func(*query){
		func(q *query) { q.user = "" }, func(q *query) { q.ident = "" }, func(q *query) { q.pid = 1 }, func(q *query) { q.datagram = false },
		func(q *query) { q.resident = false }, func(q *query) { q.leak = false }, func(q *query) { q.aclexecFails = false },
		func(q *query) { q.client.name = "" }, func(q *query) { q.client.lookup = "" }, func(q *query) { q.server.name = "" }, func(q *query) { q.server.lookup = "" },
		func(q *query) { q.server = end{} }, func(q *query) { q.client.text = "" }, func(q *query) { q.client.addr = netip.AddrPort{} }, func(q *query) { q.daemon = "sshd" },
	} {
		try(change)
	}
	return all
}
