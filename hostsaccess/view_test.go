package hostsaccess

import (
	"io/fs"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// drawTables draws two files, and a pattern file, for any daemon.
func drawTables(t *rapid.T, m Mode) (tables *Tables, allow, deny string) {
	text := func(name string) string {
		f := drawFile(t, name)
		var b strings.Builder
		for line := range strings.Lines(f.Source) {
			if rapid.IntRange(0, 3).Draw(t, "replace?") == 0 {
				line = rapid.SampledFrom(namedRules).Draw(t, "rule") + "\n"
			}
			b.WriteString(line)
		}
		return b.String()
	}
	allow, deny = text("hosts.allow"), text("hosts.deny")
	pattern := rapid.SampledFrom([]string{"10.1. .example.com\n", "www* @ng", "/etc/y [fd00::1]", "# 10."}).Draw(t, "pattern file")
	e := Environment{
		ReadFile: func(name string) ([]byte, error) {
			if name != "/etc/x" {
				return nil, fs.ErrNotExist
			}
			return []byte(pattern), nil
		},
		InNetgroup: func(group, host string) bool { return host == "www.example.com" },
	}
	return NewTables(m, source("hosts.allow", allow), source("hosts.deny", deny), e), allow, deny
}

var namedRules = []string{"portmap: www.example.com", "portmap: .example.com: deny", "ALL: www*", "ALL: *.com EXCEPT www.example.com", "portmap: w?w.*.org", "ALL: www.: allow",
	"portmap: KNOWN", "portmap: UNKNOWN", "ALL: PARANOID", "portmap: LOCAL EXCEPT gateway", "portmap: @ng", "portmap: /etc/x", "portmap: ALL EXCEPT /etc/x", "root@10.0.0.1 portmap: ALL",
	"portmap: u@ALL EXCEPT 10.1.", "portmap: u@.com", "portmap: *", "portmap: ?*.*", "portmap@www.example.com: ALL", "ALL EXCEPT portmap: .com", "111: .com", "portmap: 10.: aclexec x: severity info", "portmap: ALL: aclexec x: deny"}

// TestViewAgreesWithScan compares what the view finds with what trying the
// rules in order does, which is the readable twin of it.
func TestViewAgreesWithScan(t *testing.T) {
	names := []string{"", "www.example.com", "WWW.example.com", "w.x.org", "gateway", "unknown", "paranoid", "10.1.2.3"}
	for _, m := range []Mode{Strict, Compat} {
		t.Run(m.String(), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				tables, allow, deny := drawTables(t, m)
				tables.view("portmap")
				if tables.view("portmap") == nil {
					t.Fatal("no view after two requests")
				}
				for _, from := range someCallers {
					r := Request{Daemon: "portmap", Client: endpoint(addPort(from)), User: rapid.SampledFrom([]string{"", "u", "unknown"}).Draw(t, "user")}
					r.Client.Name = rapid.SampledFrom(names).Draw(t, "name")
					r.AclExec = func(string) bool { return len(from)%2 == 0 }
					if rapid.Bool().Draw(t, "local") {
						r.Server = endpoint("10.0.0.1:111")
					}
					fast := tables.Decide(&r)
					scan := *tables.scanOnly()
					slow := scan.Decide(&r)
					if diff := cmp.Diff(slow, fast, sameDecision); diff != "" {
						t.Fatalf("%v (%q): -scan +view\n%s\nhosts.allow:\n%s\nhosts.deny:\n%s", from, r.Client.Name, diff, allow, deny)
					}
				}
			})
		})
	}
}

func addPort(a string) string {
	if strings.Contains(a, ":") {
		a = "[" + a + "]"
	}
	return a + ":1023"
}

// scanOnly returns the same tables without views.
func (t *Tables) scanOnly() *Tables {
	return &Tables{mode: t.mode, environment: t.environment, compat: t.compat, compatFiles: t.compatFiles, compatLoops: t.compatLoops, strict: t.strict}
}

// sameDecision compares rules by identity.
var sameDecision = cmp.Comparer(func(a, b *Rule) bool { return a == b })

// decideTables decides as Tables do in Strict mode, rule by rule, pattern by
// pattern, bit by bit. Ended says whether an aclexec ends well.
func (w *twin) decideTables(client, local netip.Addr, ended bool) (Verdict, *Rule) {
	for _, f := range []*File{w.allow, w.deny} {
		for _, r := range f.Rules {
			verdict, aclexec, twist, deny, wrong := Allow, false, false, false, false
			if f == w.deny {
				verdict = Deny
			}
			for i, o := range r.Options {
				last := i == len(r.Options)-1
				wrong = wrong || !last && (o.Name == "allow" || o.Name == "deny" || o.Name == "twist")
				switch o.Name {
				case "allow":
					verdict = Allow
				case "deny":
					verdict, deny = Deny, last
				case "nonsense":
					wrong = true
				case "aclexec":
					aclexec = true
				case "twist":
					twist = true
				}
			}
			c := w.rule(r, client, local)
			switch {
			case c.sure && aclexec && !ended && f == w.deny && !deny:
			case c.sure && aclexec && !ended:
				return Deny, r
			case c.sure:
				return verdict, r
			case c.possible && (verdict == Deny || aclexec || twist || wrong):
				return Deny, r
			}
		}
	}
	return NoRule, nil
}

// knownName settles patterns for names by the name of the client; the name of
// this host stays in doubt, as do netgroups and files.
func knownName(name string) func(h *Host) (chance, bool) {
	low := strings.ToLower(name)
	none, liar := low == "unknown", low == "paranoid"
	return func(h *Host) (chance, bool) {
		pattern := strings.ToLower(h.Text)
		real := !none && !liar
		switch h.Kind {
		case HostKnown:
			return certain(real), name != ""
		case HostUnknown:
			return certain(none), name != ""
		case HostParanoid:
			return certain(liar), name != ""
		case HostLocal:
			return certain(real && !strings.Contains(low, ".")), name != ""
		case HostName:
			return certain(real && low == pattern), name != ""
		case HostSuffix:
			return certain(real && strings.HasSuffix(low, pattern) && low != pattern), name != ""
		case HostPrefix:
			return certain(real && strings.HasPrefix(low, pattern)), name != ""
		case HostGlob:
			return certain(real && slowGlob(pattern, low)), name != ""
		case HostNetgroup:
			return certain(false), name != "" && !real
		}
		return chance{}, false
	}
}

func knownUser(name string) func(string) (chance, bool) {
	return func(pattern string) (chance, bool) {
		return certain(strings.EqualFold(pattern, name)), name != ""
	}
}

// TestStrictAgreesWithTwin compares Strict with its twin, with all it may know.
func TestStrictAgreesWithTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var texts [2]string
		for i := range texts {
			for line := range strings.Lines(drawFile(t, "hosts").Source) {
				if rapid.IntRange(0, 3).Draw(t, "replace?") == 0 {
					line = rapid.SampledFrom(namedRules).Draw(t, "rule") + "\n"
				}
				// The twin does not read files, nor look up the name of this host.
				if !strings.Contains(line, "portmap@www") {
					texts[i] += line
				}
			}
		}
		tables := NewTables(Strict, source("hosts.allow", texts[0]), source("hosts.deny", texts[1]), Environment{})
		slow := &twin{allow: tables.strict.files[0], deny: tables.strict.files[1], options: Options{Names: []string{"portmap"}}}
		for _, from := range someCallers {
			slow.options.Port = rapid.SampledFrom([]uint16{0, 22, 111}).Draw(t, "port")
			r := Request{Daemon: "portmap", Client: endpoint(addPort(from)), User: rapid.SampledFrom([]string{"", "u", "v"}).Draw(t, "user")}
			r.Client.Name = rapid.SampledFrom([]string{"", "www.example.com", "W.x.org", "gateway", "unknown", "paranoid"}).Draw(t, "name")
			local, _ := netip.ParseAddr(rapid.SampledFrom(someLocals).Draw(t, "local"))
			r.Server.Addr = netip.AddrPortFrom(local, slow.options.Port)
			ended := rapid.Bool().Draw(t, "aclexec")
			r.AclExec = func(string) bool { return ended }
			slow.names, slow.users = knownName(r.Client.Name), knownUser(r.User)
			got := tables.Decide(&r)
			verdict, rule := slow.decideTables(r.Client.Addr.Addr(), local, ended)
			if got.Verdict != verdict || got.Rule != rule {
				t.Fatalf("%v (%q) to %v: %v by %v, the twin says %v by %v\nhosts.allow:\n%s\nhosts.deny:\n%s",
					from, r.Client.Name, local, got.Verdict, got.Rule, verdict, rule, texts[0], texts[1])
			}
		}
	})
}
