package hostsaccess

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"strings"
	"testing"
	"unicode"

	"pgregory.net/rapid"
)

// twin decides as Matcher does, slowly and plainly: rule by rule, pattern by
// pattern, bit by bit. It shares the tree with Compile and nothing else.
type twin struct {
	allow, deny *File
	options     Options
	// guess makes a world: it says what is true of what nobody here can know.
	// nil keeps such things in doubt.
	guess func(what string) bool
	// names and users settle what Tables are told; nil leaves it in doubt.
	names func(h *Host) (c chance, known bool)
	users func(pattern string) (c chance, known bool)
}

// chance is what is known of a statement: whether it is surely true, and
// whether it can be true.
type chance struct{ sure, possible bool }

func certain(b bool) chance { return chance{b, b} }

func (w *twin) doubt(what ...any) chance {
	if w.guess != nil {
		return certain(w.guess(fmt.Sprint(what...)))
	}
	return chance{false, true}
}

func (w *twin) decide(client, local netip.Addr) (Verdict, *Rule) {
	for _, f := range []*File{w.allow, w.deny} {
		for _, r := range f.Rules {
			verdict := Allow
			if f == w.deny {
				verdict = Deny
			}
			verdict = effect(r, verdict)
			c := w.rule(r, client, local)
			if c.sure || c.possible && verdict == Deny {
				return verdict, r
			}
		}
	}
	return NoRule, nil
}

func effect(r *Rule, v Verdict) Verdict {
	for _, o := range r.Options {
		switch o.Name {
		case "allow":
			v = Allow
		case "deny":
			v = Deny
		}
	}
	for _, o := range r.Options {
		switch o.Name {
		case "spawn", "twist", "aclexec", "user", "group":
			return Deny
		}
	}
	return v
}

func (w *twin) rule(r *Rule, client, local netip.Addr) chance {
	if r.Broken {
		for _, t := range r.Daemons.Terms {
			for _, d := range t.Patterns {
				if w.process(&d).possible {
					return w.doubt("rule", r.Offset)
				}
			}
		}
		return certain(false)
	}
	daemon := slowList(r.Daemons.Terms, func(d *Daemon) chance {
		c := w.process(d)
		if d.At == nil || !c.possible || d.At.Kind == HostAll {
			return c
		}
		if !local.IsValid() {
			return both(c, w.doubt("local", d.Offset))
		}
		return both(c, w.host(d.At, local))
	})
	if !daemon.possible {
		return daemon
	}
	return both(daemon, slowList(r.Clients.Terms, func(p *Client) chance {
		c := w.host(&p.Host, client)
		if p.User != nil && !strings.EqualFold(p.User.Text, "all") {
			user := w.doubt("user", p.User.Text)
			if w.users != nil {
				if u, known := w.users(p.User.Text); known {
					user = u
				}
			}
			c = both(c, user)
		}
		return c
	}))
}

func both(a, b chance) chance { return chance{a.sure && b.sure, a.possible && b.possible} }

func slowList[P any](terms []Term[P], worth func(*P) chance) chance {
	if len(terms) == 0 {
		return certain(false)
	}
	var c chance
	for i := range terms[0].Patterns {
		p := worth(&terms[0].Patterns[i])
		c.sure, c.possible = c.sure || p.sure, c.possible || p.possible
	}
	except := slowList(terms[1:], worth)
	return both(c, chance{!except.possible, !except.sure})
}

func (w *twin) process(d *Daemon) chance {
	switch d.Kind {
	case DaemonAll, DaemonKnown:
		return certain(true)
	case DaemonInvalid:
		return w.doubt("daemon", d.Offset)
	case DaemonPort:
		if w.options.Port == 0 {
			return w.doubt("port", d.Port)
		}
		return certain(d.Port == w.options.Port)
	}
	pattern := strings.ToLower(d.Name)
	for _, name := range w.options.Names {
		name = strings.ToLower(name)
		if d.Kind == DaemonName && pattern == name ||
			d.Kind == DaemonSuffix && strings.HasSuffix(name, pattern) && name != pattern ||
			d.Kind == DaemonPrefix && strings.HasPrefix(name, pattern) ||
			d.Kind == DaemonGlob && slowGlob(pattern, name) {
			return certain(true)
		}
	}
	return certain(false)
}

func slowGlob(pattern, s string) bool {
	switch {
	case pattern == "":
		return s == ""
	case pattern[0] == '*':
		return slowGlob(pattern[1:], s) || s != "" && slowGlob(pattern, s[1:])
	}
	return s != "" && (pattern[0] == '?' || pattern[0] == s[0]) && slowGlob(pattern[1:], s[1:])
}

func (w *twin) host(h *Host, addr netip.Addr) chance {
	addr = addr.Unmap()
	switch h.Kind {
	case HostAll:
		return certain(true)
	case HostAddr, HostNetPrefix, HostNetwork:
		if !sameBits(h.Prefix.Addr(), addr, h.Prefix.Bits()) {
			return certain(false)
		}
		return w.zone(h.Zone, addr.Zone())
	case HostMask:
		return certain(addr.Is4() && sameUnderMask(h.Addr, addr.As4(), h.Mask))
	}
	if w.names != nil {
		if c, known := w.names(h); known {
			return c
		}
	}
	return w.doubt(h.Kind, h.Text)
}

func sameBits(a, b netip.Addr, bits int) bool {
	x, y := a.AsSlice(), b.AsSlice()
	if len(x) != len(y) {
		return false
	}
	for i := range bits {
		if (x[i/8]^y[i/8])>>(7-i%8)&1 != 0 {
			return false
		}
	}
	return true
}

func sameUnderMask(a, b, mask [4]byte) bool {
	for i := range mask {
		if (a[i]^b[i])&mask[i] != 0 {
			return false
		}
	}
	return true
}

func (w *twin) zone(pattern, zone string) chance {
	number := func(s string) bool { return strings.Trim(s, "0123456789") == "" }
	switch {
	case pattern == "" || pattern == zone:
		return certain(true)
	case zone != "" && number(pattern) == number(zone):
		return certain(false)
	}
	return w.doubt("zone", pattern, zone)
}

// check compares the Matcher with its twin, and with worlds in which all that
// is in doubt is settled one way or the other: in none of them may the files
// say less than the Matcher grants.
func checkDecision(t interface{ Fatalf(string, ...any) }, allow, deny *File, o Options, client, local netip.Addr) {
	m, _ := Compile(allow, deny, o)
	got := m.Decide(client, local)
	if !client.IsValid() {
		if got.Verdict != Deny {
			t.Fatalf("%v for a client without address", got.Verdict)
		}
		return
	}
	slow := &twin{allow: allow, deny: deny, options: o}
	verdict, rule := slow.decide(client, local)
	if got.Verdict != verdict || got.Rule != rule {
		t.Fatalf("%v to %v: %v by %v, the twin says %v by %v\nhosts.allow:\n%s\nhosts.deny:\n%s",
			client, local, got.Verdict, got.Rule, verdict, rule, allow.Source, deny.Source)
	}
	if got.Verdict != NoRule && !m.Named() {
		t.Fatalf("%v decides, but no rule names the service", got.Rule)
	}
	openness := map[Verdict]int{Deny: 0, NoRule: 1, Allow: 2}
	for seed := range 8 {
		slow.guess = func(what string) bool {
			h := fnv.New32a()
			fmt.Fprint(h, seed, what)
			return h.Sum32()>>7&1 == 1
		}
		if world, by := slow.decide(client, local); openness[got.Verdict] > openness[world] {
			t.Fatalf("%v to %v: %v by %v, but there is a world where it is %v by %v\nhosts.allow:\n%s\nhosts.deny:\n%s",
				client, local, got.Verdict, got.Rule, world, by, allow.Source, deny.Source)
		}
	}
}

var (
	someDaemons = []string{"ALL", "portmap", "RPCBIND", "rpcward", "sshd", "rpc*", "?ortmap", "*", "111", "22", "rpc.", ".d", "KNOWN",
		"portmap@10.0.0.1", "rpcbind@[fd00::]/16", "ALL@10.0.0.0/8", "sshd@10.0.0.1", "portmap@www.example.com", "\\"}
	someClients = []string{"ALL", "10.0.0.1", "10.0.0.2", "10.", "10.1.", "10.1.2.", "10.0.0.0/8", "10.0.0.0/9", "10.128.0.0/9", "10.1.0.0/255.255.0.0",
		"0.0.0.0/0", "10.0.0.1/255.0.0.255", "0.0.0.0/0.0.0.1", "[fd00::1]", "[fd00::]/16", "[::]/0", "[fe80::1%eth0]", "[fe80::]/10", "[fe80::%2]/10",
		"[::ffff:10.1.0.0]/112", "www.example.com", ".example.com", "LOCAL", "UNKNOWN", "@ng", "/etc/x", "10.*", "u@10.0.0.1", "u@ALL", "ALL@10.1.", "10.1.2.3/8", "10.1"}
	someOptions = []string{"allow", "deny", "severity info", "spawn x", "twist x", "nonsense"}
	someCallers = []string{"10.0.0.1", "10.0.0.2", "10.1.2.3", "10.128.0.1", "10.200.3.1", "11.0.0.1", "192.168.1.9", "::ffff:10.1.2.3",
		"fd00::1", "fd00::2", "2001:db8::1", "fe80::1%eth0", "fe80::1%eth1", "fe80::1%2", "fe80::1", "fe80::2%2", "::"}
	someLocals = []string{"", "10.0.0.1", "10.9.9.9", "192.168.1.1", "fd00::1", "::ffff:10.0.0.1"}
)

// drawFile draws a file of a few rules that have to do with one another.
func drawFile(t *rapid.T, name string) *File {
	words := func(b *strings.Builder, from []string, what string) {
		for range rapid.IntRange(1, 4).Draw(t, what+"s") {
			b.WriteByte(' ')
			if rapid.IntRange(0, 3).Draw(t, "EXCEPT?") == 0 {
				b.WriteString("EXCEPT ")
			}
			b.WriteString(rapid.SampledFrom(from).Draw(t, what))
		}
	}
	var b strings.Builder
	for range rapid.IntRange(0, 6).Draw(t, "rules") {
		b.WriteString(rapid.SampledFrom([]string{"ALL ", "portmap", "rpcbind", "ALL EXCEPT sshd "}).Draw(t, "daemon"))
		if rapid.IntRange(0, 3).Draw(t, "more daemons?") == 0 {
			words(&b, someDaemons, "daemon")
		}
		b.WriteByte(':')
		words(&b, someClients, "client")
		for rapid.IntRange(0, 4).Draw(t, "option?") == 0 {
			b.WriteString(" : " + rapid.SampledFrom(someOptions).Draw(t, "option"))
		}
		b.WriteByte('\n')
	}
	return Parse(name, []byte(b.String()))
}

func TestMatcherAgreesWithTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		allow, deny := drawFile(t, "hosts.allow"), drawFile(t, "hosts.deny")
		o := testService
		o.Port = rapid.SampledFrom([]uint16{0, 22, 111}).Draw(t, "port")
		for _, from := range someCallers {
			local := rapid.SampledFrom(someLocals).Draw(t, "local")
			checkDecision(t, allow, deny, o, client(from), client(local))
		}
	})
}

// TestMatcherAgreesWithTwinOnEdges asks about the first and last address of
// every prefix and about their neighbours, where a wrong cell would show.
func TestMatcherAgreesWithTwinOnEdges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b strings.Builder
		var ask []netip.Addr
		for range rapid.IntRange(1, 30).Draw(t, "rules") {
			var text []string
			for range rapid.IntRange(1, 3).Draw(t, "prefixes") {
				p := drawPrefix(t)
				ask = append(ask, edges(p)...)
				if p.Addr().Is4() {
					text = append(text, p.String())
				} else {
					text = append(text, bracket(p, ""))
				}
			}
			b.WriteString("portmap: " + strings.Join(text, rapid.SampledFrom([]string{" ", " EXCEPT "}).Draw(t, "between")))
			b.WriteString(rapid.SampledFrom([]string{"\n", ": deny\n"}).Draw(t, "end"))
		}
		allow, deny := Parse("hosts.allow", []byte(b.String())), Parse("hosts.deny", nil)
		m, _ := Compile(allow, deny, testService)
		slow := &twin{allow: allow, deny: deny, options: testService}
		for _, a := range ask {
			got := m.Decide(a, a)
			if verdict, rule := slow.decide(a, a); got.Verdict != verdict || got.Rule != rule {
				t.Fatalf("%v: %v by %v, the twin says %v by %v\n%s", a, got.Verdict, got.Rule, verdict, rule, b.String())
			}
		}
	})
}

// drawPrefix draws prefixes that are often inside one another.
func drawPrefix(t *rapid.T) netip.Prefix {
	bytes := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 128, 255}), 4, 4).Draw(t, "bytes")
	if rapid.Bool().Draw(t, "IPv6") {
		a := netip.AddrFrom16([16]byte{0xfd, 14: bytes[0], 15: bytes[1]})
		return netip.PrefixFrom(a, rapid.IntRange(100, 128).Draw(t, "bits")).Masked()
	}
	return netip.PrefixFrom(netip.AddrFrom4([4]byte(bytes)), rapid.IntRange(0, 32).Draw(t, "bits")).Masked()
}

func edges(p netip.Prefix) []netip.Addr {
	first := p.Addr()
	last := first.AsSlice()
	for i := p.Bits(); i < first.BitLen(); i++ {
		last[i/8] |= 0x80 >> (i % 8)
	}
	end, _ := netip.AddrFromSlice(last)
	all := []netip.Addr{first, end}
	for _, a := range []netip.Addr{first.Prev(), end.Next()} {
		if a.IsValid() {
			all = append(all, a)
		}
	}
	return all
}

func TestGlobAgreesWithTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pattern := rapid.StringMatching(`[ab*?]{0,8}`).Draw(t, "pattern")
		s := rapid.StringMatching(`[ab]{0,8}`).Draw(t, "s")
		if got, want := matchGlob(pattern, s), slowGlob(pattern, s); got != want {
			t.Fatalf("%q on %q: %v, the twin says %v", pattern, s, got, want)
		}
	})
	if !matchGlob("RPC*", "rpcBIND") {
		t.Error("globs regard case")
	}
	// libwrap's recursion would not come back from this one.
	if matchGlob(strings.Repeat("*a", 30)+"b", strings.Repeat("a", 3000)) {
		t.Error("matched without a b")
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"portmap : 192.168.1.0/255.255.255.0\nsshd : ALL\n",
		"ALL EXCEPT a@[::1], b : 10. EXCEPT u@[fe80::%eth0]/10 : severity info : deny\n",
		"# a\\\nb: \\\nc\r\n \t# x : y\n\ufeff", "\ufeffa: b", "a: 2001:db8::1/64: x\\:y: allow", "a: [[", ":::", "a:b:\\", "\\\n", "\x00\r\r\n",
		"a: 10/8 10.1 010.1.2.3 1.2.3.4. .3 /f @g * ? 1.2.3.4/255.0.255.0",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file := Parse("hosts.allow", data)
		checkTree(t, file)
		for _, d := range file.Diagnostics {
			if d.Severity == Error && d.Rule != nil && !d.Rule.Broken {
				t.Errorf("%v, but the rule is not broken", d)
			}
			if text := d.String() + d.Consequence + d.Hint; strings.ContainsFunc(text, unicode.IsControl) {
				t.Errorf("%q would garble a terminal or a log", text)
			}
		}
	})
}

func FuzzDecide(f *testing.F) {
	f.Add("portmap : 192.168.1.0/255.255.255.0\nsshd : ALL\n", "ALL: ALL\n", "192.168.1.9", "10.0.0.1")
	f.Add("ALL: LOCAL, 10. EXCEPT x.example EXCEPT 10.1.\n", "rpc*@10.0.0.1 EXCEPT 111: u@10. EXCEPT ALL\n", "10.1.2.3", "10.0.0.1")
	f.Add("portmap: [fe80::%eth0]/10 1.2.3.4/0.0.0.255: deny\n", "portmap: [::]/0: spawn x\n", "fe80::1%2", "")
	f.Add("portmap: 10.1.2.3/8\n", "ALL 10.\n", "::ffff:10.1.2.3", "::1")
	f.Fuzz(func(t *testing.T, allow, deny, from, local string) {
		a, _ := netip.ParseAddr(from)
		l, _ := netip.ParseAddr(local)
		checkDecision(t, Parse("hosts.allow", []byte(allow)), Parse("hosts.deny", []byte(deny)), testService, a, l)
	})
}
