package accessfile

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"rpcward/hostsaccess"
)

// pairOf makes a pair of the texts of two files.
func pairOf(allow, deny string) Pair {
	return Pair{
		Allow: &File{File: hostsaccess.Parse("hosts.allow", []byte(allow))},
		Deny:  &File{File: hostsaccess.Parse("hosts.deny", []byte(deny))},
	}
}

// after returns the texts of the files as planned.
func (p *Plan) after(pair Pair) [2]string {
	texts := [2]string{pair.Allow.File.Source, pair.Deny.File.Source}
	for _, r := range p.Replacements {
		if r.Path == pair.Deny.Name {
			texts[1] = r.New
		} else {
			texts[0] = r.New
		}
	}
	return texts
}

func plan(pair Pair, command string) (*Plan, error) {
	words := strings.Fields(command)
	s, err := ParseService(words[1])
	if err != nil {
		return nil, err
	}
	verdict := hostsaccess.Allow
	if words[0] == "deny" {
		verdict = hostsaccess.Deny
	}
	var targets []Target
	for _, w := range words[2:] {
		t, err := ParseTarget(w)
		if err != nil {
			return nil, err
		}
		targets = append(targets, t)
	}
	return pair.Plan(s, verdict, targets)
}

func TestPlan(t *testing.T) {
	tests := []struct{ name, allow, deny, command, wantAllow, wantDeny string }{
		{"first line", "", "", "allow portmap 192.168.1.0/24 2001:db8::/32", "portmap : 192.168.1.0/24 [2001:db8::]/32\n", ""},
		{"behind comments", "# mine\n\n# end", "", "allow sshd 10.1.2.3", "# mine\n\n# end\nsshd : 10.1.2.3\n", ""},
		{"to the line", "portmap: 10., 11. # see\nportmap: 10., 11.\nsshd: ALL\n", "", "allow portmap 12.0.0.1", "", ""},
		{"to the line, with its comma", "portmap: 10., 11.\nsshd: ALL\n", "", "allow portmap 12.0.0.1", "portmap: 10., 11., 12.0.0.1\nsshd: ALL\n", ""},
		{"not to a line with options", "portmap: 10. : severity info\n", "", "allow portmap 12.0.0.1", "portmap: 10. : severity info\nportmap : 12.0.0.1\n", ""},
		{"not to a line for others", "portmap mountd: 10.\n", "", "allow portmap 12.0.0.1", "portmap mountd: 10.\nportmap : 12.0.0.1\n", ""},
		{"not to a line with EXCEPT", "portmap: 10. EXCEPT 10.1.\n", "", "allow portmap 12.0.0.1", "portmap: 10. EXCEPT 10.1.\nportmap : 12.0.0.1\n", ""},
		{"already", "rpcbind: 10.\n", "", "allow portmap 10.1.2.3", "rpcbind: 10.\n", ""},
		{"already, as a whole", "portmap: 10.1.2.3 : deny\nportmap: 10.\n", "", "allow portmap 10.0.0.0/8", "portmap: 10.1.2.3 : deny\nportmap: 10.\n", ""},
		{"out of the refusals", "", "# no\nportmap: 10.1.2.3 10.1.2.4\nALL: 10.1.2.3\n", "allow portmap 10.1.2.3", "portmap : 10.1.2.3\n", "# no\nportmap: 10.1.2.4\nALL: 10.1.2.3\n"},
		{"above a refusal", "# a\nALL: 10. : deny\nportmap: 11.\n", "", "allow portmap 10.1.2.3", "# a\nportmap : 10.1.2.3\nALL: 10. : deny\nportmap: 11.\n", ""},
		{"refuse", "", "", "deny sshd 10.0.0.0/8", "", "sshd : 10.0.0.0/8\n"},
		{"refuse one of a network", "portmap: 10.\n", "", "deny portmap 10.1.2.3", "portmap : 10.1.2.3 : deny\nportmap: 10.\n", ""},
		{"refuse what is let in", "# a\nportmap: 10.1.2.3\n# b\nportmap: 11.\n", "ALL: ALL\n", "deny portmap 10.1.2.3", "# a\n# b\nportmap: 11.\n", "ALL: ALL\n"},
		{"refuse a network, and parts of it", "portmap: 10.1.2.3 11. 10.2.\n", "", "deny portmap 10.0.0.0/8", "portmap: 11.\n", "portmap : 10.0.0.0/8\n"},
		{"refuse one of a shared line", "portmap mountd: 10.1.2.3\n", "", "deny portmap 10.1.2.3", "portmap : 10.1.2.3 : deny\nportmap mountd: 10.1.2.3\n", ""},
		{"refuse what hosts.deny lets in", "", "ALL: 10. : allow\n", "deny sshd 10.1.2.3", "", "sshd : 10.1.2.3\nALL: 10. : allow\n"},
		{"already refused", "", "ALL: ALL EXCEPT 127.0.0.1 [::1]\n", "deny portmap 10.1.2.3", "", "ALL: ALL EXCEPT 127.0.0.1 [::1]\n"},
		{"refuse all", "portmap: 127. 10. [::1]\n", "", "deny portmap ALL", "portmap: 127. [::1]\n", "portmap : ALL EXCEPT 127.0.0.0/8 [::1]\n"},
		{"refuse all of a shared line", "ALL: 127. 10. [2001:db8::1]\n", "", "deny portmap ALL", "portmap : ALL EXCEPT 127.0.0.0/8 [::1] : deny\nALL: 127. 10. [2001:db8::1]\n", ""},
		{"refuse all, all let in", "portmap: ALL\n", "", "deny portmap ALL", "", "portmap : ALL EXCEPT 127.0.0.0/8 [::1]\n"},
		{"let all in", "", "portmap: ALL\n", "allow portmap ALL", "portmap : ALL\n", ""},
		{"all of IPv4", "", "", "allow portmap 0.0.0.0/0", "portmap : 0.0.0.0/0.0.0.0\n", ""},
		{"mask", "", "", "allow portmap 192.168.1.0/255.255.255.0", "portmap : 192.168.1.0/255.255.255.0\n", ""},
		{"mapped", "", "", "allow portmap ::ffff:10.1.2.3", "portmap : 10.1.2.3\n", ""},
		{"CR LF", "a: 10.\r\n", "", "allow b 10.1.2.3", "a: 10.\r\nb : 10.1.2.3\r\n", ""},
		{"scoped", "portmap: [fe80::%eth0]/10\n", "", "deny portmap fe80::/10", "portmap : [fe80::]/10 : deny\nportmap: [fe80::%eth0]/10\n", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pair := pairOf(tt.allow, tt.deny)
			p, err := plan(pair, tt.command)
			if tt.name == "to the line" {
				if err == nil || !strings.HasPrefix(err.Error(), "hosts.allow:1:") {
					t.Errorf("a broken rule of the service: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := p.after(pair)
			if diff := cmp.Diff([2]string{tt.wantAllow, tt.wantDeny}, got); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
			again, err := plan(pairOf(got[0], got[1]), tt.command)
			if err != nil || len(again.Replacements) > 0 {
				t.Errorf("the second time: %v, %+v", err, again)
			}
		})
	}
}

func TestPlanRefuses(t *testing.T) {
	tests := []struct{ name, allow, deny, command, want string }{
		{"loopback", "", "", "deny portmap 127.0.0.1", "this would lock out this host itself: 127.0.0.1 would be refused by hosts.deny:1"},
		{"another loopback address", "", "", "deny mountd 127.0.0.53", "this would lock out this host itself: 127.0.0.53 would be refused by hosts.deny:1"},
		{"loopback of the port mapper", "", "ALL: ALL\n", "deny rpcbind ::1", "the port mapper answers this host whatever the files say: [::1]"},
		{"loopback6", "", "", "deny sshd ::1", "this would lock out this host itself: ::1 would be refused by hosts.deny:1"},
		{"all of IPv4", "", "", "deny sshd 0.0.0.0/0", "this would lock out this host itself: 127.0.0.1 would be refused by hosts.deny:1"},
		{"the line that lets this host in", "sshd: 127.0.0.1\n", "ALL: ALL\n", "deny sshd 127.0.0.1", "this would lock out this host itself: 127.0.0.1 would be refused by hosts.deny:1"},
		{"host bits", "", "", "allow portmap 10.1.2.3/24", `"10.1.2.3/24" has bits set behind the network`},
		{"name", "", "", "allow portmap www.example.com", `"www.example.com" is not an address`},
		{"netgroup", "", "", "allow portmap @friends", `"@friends" is not an address`},
		{"user", "", "", "allow portmap root@10.1.2.3", `"root@10.1.2.3" is not an address`},
		{"option", "", "", "allow portmap 10.1.2.3:spawn", `"10.1.2.3:spawn" is not an address`},
		{"EXCEPT", "", "", "allow portmap EXCEPT", `nothing stands in front of EXCEPT`},
		{"multicast", "", "", "allow portmap 224.0.0.1", "224.0.0.1 is a multicast address: nothing comes from there"},
		{"unspecified", "", "", "allow portmap ::", ":: is the address of no host"},
		{"broadcast", "", "", "allow portmap 255.255.255.255", "255.255.255.255 is the broadcast address: nothing comes from there"},
		{"scope", "", "", "allow portmap fe80::1%eth0", `"fe80::1%eth0" is an address of one interface`},
		{"swapped", "", "", "allow 10.1.2.3 portmap", `"10.1.2.3" is not the name of a daemon`},
		{"wildcard", "", "", "allow rpc.* 10.1.2.3", `"rpc.*" is not the name of one daemon`},
		{"lookalike", "", "", "allow sunrpc 10.1.2.3", `nothing asks these files for "sunrpc"`},
		{"line", "", "", "allow a:b 10.1.2.3", `"a:b" is not the name of a daemon`},
		{"a mistake", "", "ALL: 10\n", "allow portmap 10.1.2.3", `hosts.deny:1:6: "10" is not a whole IPv4 address`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := plan(pairOf(tt.allow, tt.deny), tt.command)
			if err == nil {
				t.Fatalf("planned %+v", p)
			}
			var hint *HintError
			if !errors.As(err, &hint) || hint.Hint == "" {
				t.Errorf("no hint: %v", err)
			}
			if diff := cmp.Diff(tt.want, err.Error()); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

// TestPlanDoesIt makes files of random rules and edits them: the files then say
// what was asked for, about nobody else anything else, and the other lines are
// still there.
func TestPlanDoesIt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pair := pairOf(drawRules(t, "allow"), drawRules(t, "deny"))
		n := drawNetwork(t)
		verdict := rapid.SampledFrom([]hostsaccess.Verdict{hostsaccess.Allow, hostsaccess.Deny}).Draw(t, "verdict")
		s, _ := ParseService("portmap")
		p, err := pair.Plan(s, verdict, []Target{{Text: write(n), Networks: []netip.Prefix{n}}})
		if err != nil {
			t.Fatalf("%v\n%s---\n%s%v %v", err, pair.Allow.File.Source, pair.Deny.File.Source, verdict, n)
		}
		after := p.after(pair)
		for _, name := range []string{"portmap", "sshd"} {
			old, _ := hostsaccess.Compile(pair.Allow.File, pair.Deny.File, hostsaccess.Options{Names: []string{name}})
			m, _ := hostsaccess.Compile(hostsaccess.Parse("hosts.allow", []byte(after[0])), hostsaccess.Parse("hosts.deny", []byte(after[1])), hostsaccess.Options{Names: []string{name}})
			for last := range 16 {
				a := netip.AddrFrom4([4]byte{10, 0, 0, byte(last)})
				was, is := old.Decide(a, netip.Addr{}).Verdict, m.Decide(a, netip.Addr{}).Verdict
				switch {
				case (name != "portmap" || !n.Contains(a)) && was != is:
					t.Errorf("%s from %v: was %v, is %v", name, a, was, is)
				case name == "portmap" && n.Contains(a) && verdict == hostsaccess.Deny && is != hostsaccess.Deny:
					t.Errorf("%v is not refused but %v", a, is)
				}
			}
			if name == "portmap" && m.Within(n)[0].Verdict != verdict {
				t.Errorf("%v as a whole: %v", n, m.Within(n)[0].Verdict)
			}
		}
		if t.Failed() {
			t.Fatalf("%v %v\n%s---\n%s-> \n%s---\n%s", verdict, n, pair.Allow.File.Source, pair.Deny.File.Source, after[0], after[1])
		}
	})
}

func drawNetwork(t *rapid.T) netip.Prefix {
	a := netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(0, 15).Draw(t, "octet"))})
	return netip.PrefixFrom(a, rapid.SampledFrom([]int{28, 29, 30, 31, 32, 32}).Draw(t, "bits")).Masked()
}

func drawRules(t *rapid.T, file string) string {
	var text strings.Builder
	for range rapid.IntRange(0, 4).Draw(t, file) {
		fmt.Fprintf(&text, "%s: %s %s%s\n", rapid.SampledFrom([]string{"portmap", "sshd", "ALL", "portmap sshd", "ALL EXCEPT sshd"}).Draw(t, "daemon"),
			write(drawNetwork(t)), write(drawNetwork(t)), rapid.SampledFrom([]string{"", "", " : deny", " : allow", " EXCEPT 10.0.0.3"}).Draw(t, "rest"))
	}
	return text.String()
}
