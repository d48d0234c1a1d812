package hostsaccess

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// dump writes the rules of a file in one fixed form, one a line.
func dump(f *File) string {
	var b strings.Builder
	for _, r := range f.Rules {
		fmt.Fprintf(&b, "%d:%d", r.Pos.Line, r.Pos.Column)
		if r.LastLine != r.Pos.Line {
			fmt.Fprintf(&b, "-%d", r.LastLine)
		}
		if r.Broken {
			b.WriteString(" broken")
		}
		dumpList(&b, " daemons", r.Daemons, dumpDaemon)
		dumpList(&b, " clients", r.Clients, dumpClient)
		for _, o := range r.Options {
			fmt.Fprintf(&b, " %s=%q", o.Name, o.Value)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func dumpList[P any](b *strings.Builder, what string, l List[P], pattern func(P) string) {
	b.WriteString(what)
	b.WriteByte('{')
	for i, t := range l.Terms {
		if i > 0 {
			b.WriteString(" EXCEPT ")
		}
		for j, p := range t.Patterns {
			if j > 0 {
				b.WriteByte(' ')
			}
			b.WriteString(pattern(p))
		}
	}
	b.WriteByte('}')
}

var daemonKinds = [...]string{"invalid", "ALL", "KNOWN", "name", "glob", "suffix", "prefix", "port"}

func dumpDaemon(d Daemon) string {
	s := daemonKinds[d.Kind] + ":" + d.Name
	if d.At != nil {
		s += "@" + dumpHost(*d.At)
	}
	return s
}

func dumpClient(c Client) string {
	if c.User != nil {
		return "user:" + c.User.Text + "@" + dumpHost(c.Host)
	}
	return dumpHost(c.Host)
}

func dumpHost(h Host) string {
	switch h.Kind {
	case HostAll, HostLocal, HostKnown, HostUnknown, HostParanoid:
		return strings.TrimPrefix(h.Kind.String(), "wildcard ")
	case HostAddr, HostNetPrefix, HostNetwork:
		s := h.Prefix.String()
		if h.Zone != "" {
			s += "%" + h.Zone
		}
		return s
	case HostMask:
		return fmt.Sprintf("%v&%v", netip.AddrFrom4(h.Addr), netip.AddrFrom4(h.Mask))
	}
	return fmt.Sprintf("<%v %s>", h.Kind, h.Text)
}

func TestParse(t *testing.T) {
	tests := []struct{ name, input, want string }{
		{"empty", "", ""},
		{"blank and comment", "\n  \t\n# portmap: ALL\n", ""},
		{"howto", "portmap : 192.168.1.0/255.255.255.0\nsshd : ALL\n",
			"1:1 daemons{name:portmap} clients{192.168.1.0/24}\n" +
				"2:1 daemons{name:sshd} clients{ALL}\n"},
		{"many daemons", "rpcbind mountd nfsd statd lockd rquotad : 10.0.0.0/8\n",
			"1:1 daemons{name:rpcbind name:mountd name:nfsd name:statd name:lockd name:rquotad} clients{10.0.0.0/8}\n"},
		{"net prefixes", "portmap: 192.168.1. 172.16. 10.\n",
			"1:1 daemons{name:portmap} clients{192.168.1.0/24 172.16.0.0/16 10.0.0.0/8}\n"},
		{"wildcards", "ALL, KNOWN: all local Known UNKNOWN PARANOID\n",
			"1:1 daemons{ALL:ALL KNOWN:KNOWN} clients{ALL LOCAL KNOWN UNKNOWN PARANOID}\n"},
		{"commas and tabs", "a,b\t,c:10.0.0.1,,\t10.0.0.2\n",
			"1:1 daemons{name:a name:b name:c} clients{10.0.0.1/32 10.0.0.2/32}\n"},
		{"except nested", "ALL EXCEPT a b except c : 10. EXCEPT 10.1. EXCEPT 10.1.2.\n",
			"1:1 daemons{ALL:ALL EXCEPT name:a name:b EXCEPT name:c} clients{10.0.0.0/8 EXCEPT 10.1.0.0/16 EXCEPT 10.1.2.0/24}\n"},
		{"daemon forms", "111 022 rpc* .d rpc. /usr/sbin/x @n rpcbind@10.0.0.1 rpcbind@[::1] a@ALL: ALL\n",
			"1:1 daemons{port:111 port:022 glob:rpc* suffix:.d prefix:rpc. name:/usr/sbin/x name:@n name:rpcbind@10.0.0.1/32 name:rpcbind@::1/128 name:a@ALL} clients{ALL}\n"},
		{"client forms", "a: www.example.com .example.com www. *.example.com /etc/trusted @ng u@10.0.0.1 root@@ng @ng@10. ALL@ALL\n",
			"1:1 daemons{name:a} clients{<host name www.example.com> <domain .example.com> <start of a host name www.> <host name with wildcards *.example.com> <pattern file /etc/trusted> <netgroup @ng> user:u@10.0.0.1/32 user:root@<netgroup @ng> user:@ng@10.0.0.0/8 user:ALL@ALL}\n"},
		{"networks as meant", "a: 0.0.0.0/0 0.0.0.0/0.0.0.0 10.1.2.3/32 10.1.2.3/255.255.255.255 10.128.0.0/255.128.0.0\n",
			"1:1 daemons{name:a} clients{0.0.0.0/0 0.0.0.0/0 10.1.2.3/32 10.1.2.3/32 10.128.0.0/9}\n"},
		{"masks with holes", "a: 10.0.0.3/255.0.0.255 0.0.0.1/0.0.0.1\n",
			"1:1 daemons{name:a} clients{10.0.0.3&255.0.0.255 0.0.0.1&0.0.0.1}\n"},
		{"IPv6", "a: [2001:db8::1] [2001:DB8::]/32 [::]/0 [fe80::1%eth0] [fe80::%2]/10 [::ffff:10.1.2.3] [::ffff:10.0.0.0]/104\n",
			"1:1 daemons{name:a} clients{2001:db8::1/128 2001:db8::/32 ::/0 fe80::1/128%eth0 fe80::/10%2 10.1.2.3/32 10.0.0.0/8}\n"},
		{"options", `a: ALL: severity = local0.info : setenv X a\:b\:c :spawn (echo %a # x) & : deny` + "\n",
			`1:1 daemons{name:a} clients{ALL} severity="local0.info" setenv="X a:b:c" spawn="(echo %a # x) &" deny=""` + "\n"},
		{"continued", "a, \\\nb:\\\n 10.\\\n1.\n", "1:1-4 daemons{name:a name:b} clients{10.1.0.0/16}\n"},
		{"continued inside a word", "port\\\nmap: ALL\n", "1:1-2 daemons{name:portmap} clients{ALL}\n"},
		{"CRLF", "# c\r\na: 10.\r\n\r\nb: ALL: deny\r\n", "2:1 daemons{name:a} clients{10.0.0.0/8}\n4:1 daemons{name:b} clients{ALL} deny=\"\"\n"},
		{"no last newline", "a: ALL", "1:1 daemons{name:a} clients{ALL}\n"},
		{"indented rule", "\ta: ALL\n", "1:2 daemons{name:a} clients{ALL}\n"},
		// Mistakes: what can be read is there, and the rule is broken.
		{"no colon", "portmap 10.0.0.0/8\n", "1:1 broken daemons{name:portmap} clients{}\n"},
		{"no colon, several daemons", "a portmap ALL b\n", "1:1 broken daemons{name:a name:portmap} clients{}\n"},
		{"bare IPv6", "a: 2001:db8::1/64 ::1 : allow\n", "1:1 broken daemons{name:a} clients{<invalid pattern 2001:db8::1/64> <invalid pattern ::1>} allow=\"\"\n"},
		{"bare IPv6 then option", "a: 2001:db8::1: allow\n", "1:1 broken daemons{name:a} clients{<invalid pattern 2001:db8::1>} allow=\"\"\n"},
		{"trailing words", "a: 192.0.2.1 # not ALL of them: see x\nb: ALL\n", "1:1 broken daemons{name:a} clients{192.0.2.1/32}\n2:1 daemons{name:b} clients{ALL}\n"},
		{"open bracket", "a: [2001:db8::1 10.0.0.1: deny\n", "1:1 broken daemons{name:a} clients{<invalid pattern [2001:db8::1> 10.0.0.1/32} deny=\"\"\n"},
		{"stray bracket", "a: 2001] 10.0.0.1: deny\n", "1:1 broken daemons{name:a} clients{<invalid pattern 2001]> 10.0.0.1/32} deny=\"\"\n"},
		{"swallowed by a comment", "# note \\\nportmap: ALL\n", "2:1 broken daemons{name:portmap} clients{ALL}\n"},
		{"swallowed by a comment, not a rule", "# note \\\nof two lines\n", ""},
		{"swallowed comment stays one", "# note \\\n# portmap: ALL\n", ""},
		{"old Mac line ends", "# note\rportmap: ALL\rsshd: ALL\r", "1:8 broken daemons{name:portmap} clients{ALL}\n1:21 broken daemons{name:sshd} clients{ALL}\n"},
		{"indented comment with a rule", "  # portmap: ALL\n", "1:5 broken daemons{name:portmap} clients{ALL}\n"},
		{"indented comment", "  # all is well\n", ""},
		{"byte order mark", "\ufeffportmap: 10.0.0.1\n", "1:4 broken daemons{name:portmap} clients{10.0.0.1/32}\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := Parse("hosts.allow", []byte(tt.input))
			if diff := cmp.Diff(tt.want, dump(f)); diff != "" {
				t.Errorf("rules (-want +got):\n%s", diff)
			}
			checkTree(t, f)
		})
	}
}

func TestParseFindings(t *testing.T) {
	tests := []struct {
		name, input string
		want        []string // place, severity, code, hint
	}{
		{"nothing wrong", "portmap: 10.0.0.0/8\n", nil},
		{"missing colon", "portmap 10.0.0.0/8\n", []string{`1:1 error missing-separator: write "daemons : clients"`}},
		{"no clients", "portmap:\n", []string{"1:9 error empty-list: write ALL to mean every client"}},
		{"no daemons", ": ALL\n", []string{"1:1 error empty-list: write ALL to mean every daemon"}},
		{"except nothing", "a: ALL EXCEPT\n", []string{"1:8 error empty-list: remove the EXCEPT, or name what is excepted"}},
		{"except first", "a: EXCEPT 10.\n", []string{"1:4 error empty-list: write ALL EXCEPT ..."}},
		{"except twice", "a: ALL EXCEPT EXCEPT 10.\n", []string{"1:8 error empty-list: remove the EXCEPT, or name what is excepted"}},
		{"host bits", "a: 10.1.2.3/24\n", []string{"1:4 error host-bits: write 10.1.2.0/24 for the network, or the address alone"}},
		{"host bits of a mask", "a: 10.1.2.0/255.255.0.0\n", []string{"1:4 error host-bits: write 10.1.0.0/255.255.0.0 for the network, or the address alone"}},
		{"host bits of a mask with holes", "a: 10.1.0.3/255.0.0.255\n", []string{"1:4 error host-bits: write 10.0.0.3/255.0.0.255"}},
		{"host bits IPv6", "a: [2001:db8::99]/32\n", []string{"1:4 error host-bits: write [2001:db8::]/32 for the network, or the address alone"}},
		{"host bits scoped", "a: [fe80::1%eth0]/10\n", []string{"1:4 error host-bits: write [fe80::%eth0]/10 for the network, or the address alone"}},
		{"no last dot", "a: 10.1.2\n", []string{"1:4 error partial-address: write 10.1.2.0/24"}},
		{"one number", "a: 10\n", []string{"1:4 error partial-address: write 10.0.0.0/8"}},
		{"dot too many", "a: 10.1.2.3.\n", []string{"1:4 error bad-address: write 10.1.2.3"}},
		{"short network", "a: 10/8\n", []string{"1:4 error partial-address: write 10.0.0.0/8"}},
		{"short network with dot", "a: 10.1./16\n", []string{"1:4 error partial-address: write 10.1.0.0/16"}},
		{"short network, host bits", "a: 10.1/8\n", []string{"1:4 error partial-address: write 10.0.0.0/8"}},
		{"short network, mask", "a: 10.1/255.255.0.0\n", []string{"1:4 error partial-address: write all four numbers of the address"}},
		{"octal", "a: 010.1.2.3\n", []string{"1:4 error bad-address: numbers from 0 to 255, without leading zeros"}},
		{"octal network", "a: 012.0.0.0/8\n", []string{"1:4 error bad-address: write 192.0.2.0/24 or [2001:db8::]/32, numbers without leading zeros"}},
		{"hexadecimal network", "a: 0xa.0.0.0/8\n", []string{"1:4 error bad-address: write 192.0.2.0/24 or [2001:db8::]/32, numbers without leading zeros"}},
		{"too big", "a: 256.1.\n", []string{"1:4 error bad-address: numbers from 0 to 255, without leading zeros"}},
		{"suffix of an address", "a: .3\n", []string{"1:4 error bad-address: numbers from 0 to 255, without leading zeros"}},
		{"/33", "a: 10.0.0.0/33\n", []string{"1:4 error bad-mask: write a number from 0 to 32 or a mask such as 255.255.255.0"}},
		{"/24junk", "a: 10.0.0.0/24junk\n", []string{"1:4 error bad-mask: write a number from 0 to 32 or a mask such as 255.255.255.0"}},
		{"/024", "a: 10.0.0.0/024\n", []string{"1:4 error bad-mask: write a number from 0 to 32 or a mask such as 255.255.255.0"}},
		{"/+24", "a: 10.0.0.0/+24\n", []string{"1:4 error bad-mask: write a number from 0 to 32 or a mask such as 255.255.255.0"}},
		{"/ nothing", "a: 10.0.0.0/\n", []string{"1:4 error bad-mask: write a number from 0 to 32 or a mask such as 255.255.255.0"}},
		{"IPv6 /junk", "a: [3fff::]/junk\n", []string{"1:4 error bad-mask: write a number from 0 to 128"}},
		{"IPv6 /129", "a: [3fff::]/129\n", []string{"1:4 error bad-mask: write a number from 0 to 128"}},
		{"length in brackets", "a: [2001:db8::/32]\n", []string{`1:4 error bad-address: write "[2001:db8::]/32"`}},
		{"IPv4 in brackets", "a: [10.1.2.3]\n", []string{`1:4 error bad-address: write "10.1.2.3", without brackets`}},
		{"text behind brackets", "a: [::1]x\n", []string{"1:4 error bad-pattern: write [2001:db8::1] or [2001:db8::]/32"}},
		{"bare IPv6", "a: 10. 2001:db8::1\n", []string{"1:8 error unbracketed-ipv6: write [2001:db8::1]"}},
		{"bare IPv6 network", "a: 2001:db8::/32\n", []string{"1:4 error unbracketed-ipv6: write [2001:db8::]/32"}},
		{"bare IPv6 loopback", "a: ::1\n", []string{"1:4 error unbracketed-ipv6: write [::1]"}},
		{"bare IPv6 of ours", "a@::1: ALL\n", []string{"1:3 error unbracketed-ipv6: write [::1]"}},
		{"scope of no interface", "a: [fe80::1%\x1b]\n", []string{"1:4 error bad-address: write [2001:db8::1] or [2001:db8::]/32"}},
		{"unbalanced", "a: [::1\n", []string{"1:4 error unbalanced-bracket: IPv6 addresses are written [2001:db8::1]"}},
		{"brackets twice", "a: [[::1]]\n", []string{"1:4 error unbalanced-bracket: IPv6 addresses are written [2001:db8::1]"}},
		{"bracket and blanks", "a: [ ::1 ]\n", []string{
			"1:4 error unbalanced-bracket: IPv6 addresses are written [2001:db8::1]",
			"1:6 error unbracketed-ipv6: write [::1]",
			"1:10 error unbalanced-bracket: IPv6 addresses are written [2001:db8::1]"}},
		{"every IPv6", "a: [::]/0\n", []string{"1:4 warning only-ipv6: write ALL, or add 0.0.0.0/0"}},
		{"mapped", "a: [::ffff:10.1.2.3]\n", []string{"1:4 warning mapped-address: write 10.1.2.3/32"}},
		{"trailing words", "a: 10. # all of it\n", []string{"1:8 error comment-in-rule: put the comment on a line of its own"}},
		{"indented comment", " # hello\n", []string{`1:2 warning comment-in-rule: move the "#" to the start of the line`}},
		{"indented comment with a rule", " # a: ALL\n", []string{`1:4 error comment-in-rule: move the "#" to the start of the line`}},
		{"continued comment", "# x \\\na: ALL\n", []string{`2:1 error comment-continued: remove the "\" at the end of the comment`}},
		{"blank behind backslash", "a: 10. \\ \n", []string{`1:8 error bad-pattern: a "\" continues a line only as its very last byte`}},
		{"backslash CRLF", "a: 10. \\\r\n", []string{"1:8 error carriage-return: save the file with plain newlines"}},
		{"carriage return inside", "a: 10.\r b\n", []string{"1:7 error carriage-return: end lines with a newline"}},
		{"byte order mark", "\ufeffa: ALL\n", []string{"1:1 error byte-order-mark: save the file as UTF-8 without byte order mark"}},
		{"byte order mark in front of a comment", "\ufeff# x\n", []string{"1:1 warning byte-order-mark: save the file as UTF-8 without byte order mark"}},
		{"NUL", "a: ALL\x00\n", []string{"1:7 error nul-byte: remove it"}},
		{"no-break space", "a: 10.\u00a010.2.\n", []string{"1:4 error bad-pattern: host names have letters, digits, hyphens and dots"}},
		{"no last newline", "a: ALL\nb: ALL", []string{"2:1 warning missing-newline: end the file with a newline"}},
		{"ends in a continuation", "a: ALL\\\n", []string{"1:1 warning missing-newline: end the file with a newline"}},
		{"long line", "a: " + strings.Repeat("10. ", 600) + "\n", []string{"1:1 warning long-line: use several rules"}},
		{"fields swapped", "10.0.0.0/8 192.168.1. : portmap\n", []string{
			`1:1 error swapped-fields: write "daemons : clients"`,
			`1:12 error swapped-fields: write "daemons : clients"`}},
		{"port too big", "65536: ALL\n", []string{"1:1 error bad-pattern: write the name of the program, its RPC program number, or a port number up to 65535"}},
		{"no program number either", "099999: ALL\n4294967295: ALL\n", []string{
			"1:1 error bad-pattern: write the name of the program, its RPC program number, or a port number up to 65535",
			"2:1 error bad-pattern: write the name of the program, its RPC program number, or a port number up to 65535"}},
		{"program number", "100005: ALL\n", nil},
		{"nothing behind at", "a: root@\n", []string{"1:9 error bad-pattern: name a host, or ALL"}},
		{"trailing colon", "a: ALL :\n", []string{`1:9 error empty-option: remove the ":"`}},
		{"empty option", "a: ALL : : deny\n", []string{`1:10 error empty-option: remove the ":"`}},
		{"unknown option", "a: ALL: frobnicate\n", []string{`1:9 error unknown-option: options are described in hosts_options(5); write "\:" for a colon in a value`}},
		{"shell command", "a: ALL: (safe_finger -l @%h) &\n", []string{"1:9 error unknown-option: write spawn in front of it, or better in a rule for other services alone"}},
		{"option value missing", "a: ALL: severity\n", []string{"1:9 error option-value: write severity VALUE"}},
		{"option value superfluous", "a: ALL: keepalive 3\n", []string{"1:9 error option-value: write keepalive"}},
		{"bad severity", "a: ALL: severity authpriv.info\n", []string{"1:9 error option-value: write level or facility.level as in syslog.conf(5)"}},
		{"bad linger", "a: ALL: linger -1\n", []string{"1:9 error option-value: write a number of seconds"}},
		{"bad rfc931", "a: ALL: rfc931 0\n", []string{"1:9 error option-value: write a number of seconds above 0"}},
		{"bad umask", "a: ALL: umask 1777\n", []string{"1:9 error option-value: write an octal number up to 0777"}},
		{"bad nice", "a: ALL: nice x\n", []string{"1:9 error option-value: write a number"}},
		{"good options", "a: ALL: ALLOW=\nb: ALL: rfc931 : nice : nice -5 : umask 022 : linger 0 : banners /x : rfc931 5\n", nil},
		{"deny not last", "a: ALL: deny : keepalive\n", []string{"1:9 error option-place: move it to the end of the rule"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := Parse("hosts.allow", []byte(tt.input))
			var got []string
			broken := false
			for _, d := range f.Diagnostics {
				got = append(got, fmt.Sprintf("%d:%d %v %s: %s", d.Pos.Line, d.Pos.Column, d.Severity, d.Code, d.Hint))
				if d.Message == "" || d.Consequence == "" {
					t.Errorf("%v: no message or no consequence", d)
				}
				broken = broken || d.Severity == Error
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
			for _, r := range f.Rules {
				broken = broken && !r.Broken
			}
			if broken {
				t.Error("an error broke no rule")
			}
		})
	}
}

func TestParseBoundsFindings(t *testing.T) {
	f := Parse("hosts.deny", []byte(strings.Repeat("portmap\n", 5000)))
	if n := len(f.Diagnostics); n != maxFindings+1 {
		t.Errorf("%d findings, want %d", n, maxFindings+1)
	}
	if last := f.Diagnostics[len(f.Diagnostics)-1]; last.Code != Omitted || last.Message != "4000 more findings" {
		t.Errorf("last finding is %v", last)
	}
	for _, r := range f.Rules {
		if !r.Broken {
			t.Fatalf("%v is not broken", r)
		}
	}
}

// TestParseDeepExcept would overflow a stack if lists were worked out recursively.
func TestParseDeepExcept(t *testing.T) {
	const depth = 200_000
	f := Parse("hosts.allow", []byte("portmap: ALL"+strings.Repeat(" EXCEPT ALL", depth)+"\n"))
	m, _ := Compile(f, nil, testService)
	got := m.Decide(client("10.0.0.1"), client(""))
	if got.Verdict != Allow { // an even number of exceptions cancels out
		t.Errorf("decided %v", got)
	}
}

// checkTree checks what holds for every tree, whatever was read.
func checkTree(t *testing.T, f *File) {
	t.Helper()
	end := 0
	rules := 0
	for _, l := range f.Lines {
		if l.Offset != end || l.End <= l.Offset {
			t.Fatalf("line at %d-%d follows one that ends at %d", l.Offset, l.End, end)
		}
		end = l.End
		rules += len(l.Rules)
		if l.Kind == RuleLine && len(l.Rules) != 1 {
			t.Errorf("rule line at %d has %d rules", l.Offset, len(l.Rules))
		}
		for _, r := range l.Rules {
			checkRule(t, f, l, r)
		}
	}
	if end != len(f.Source) {
		t.Errorf("lines end at %d of %d", end, len(f.Source))
	}
	if rules != len(f.Rules) {
		t.Errorf("%d rules in lines, %d in all", rules, len(f.Rules))
	}
}

func checkRule(t *testing.T, f *File, l Line, r *Rule) {
	t.Helper()
	at := l.Offset
	check := func(tok Token) {
		t.Helper()
		text := f.Source[tok.Offset:tok.End]
		if strings.ReplaceAll(text, "\\\n", "") != tok.Text {
			t.Errorf("token %q stands at %d-%d, where there is %q", tok.Text, tok.Offset, tok.End, text)
		}
		if tok.Offset < at || tok.End > l.End {
			t.Errorf("token %q at %d-%d, after %d, in a line to %d", tok.Text, tok.Offset, tok.End, at, l.End)
		}
		line := 1 + strings.Count(f.Source[:tok.Offset], "\n")
		column := tok.Offset - strings.LastIndexByte(f.Source[:tok.Offset], '\n')
		if tok.Text != "" && (int(tok.Pos.Line) != line || int(tok.Pos.Column) != column) {
			t.Errorf("token %q is said to stand at %v, but is at %d:%d", tok.Text, tok.Pos, line, column)
		}
		at = tok.End
	}
	check(r.Token)
	at = r.Offset
	for _, term := range r.Daemons.Terms {
		checkExcept(t, f, term.Except)
		for _, d := range term.Patterns {
			check(d.Token)
		}
	}
	for _, term := range r.Clients.Terms {
		checkExcept(t, f, term.Except)
		for _, c := range term.Patterns {
			check(c.Token())
		}
	}
	for _, o := range r.Options {
		check(o.Token)
	}
}

// checkExcept looks for the word EXCEPT where it is said to stand.
func checkExcept(t *testing.T, f *File, at Pos) {
	t.Helper()
	if at == (Pos{}) {
		return
	}
	lines := strings.SplitAfter(f.Source, "\n")
	rest := strings.ReplaceAll(strings.Join(lines[at.Line-1:], "")[at.Column-1:], "\\\n", "")
	if len(rest) < len("EXCEPT") || !strings.EqualFold(rest[:len("EXCEPT")], "EXCEPT") {
		t.Errorf("EXCEPT is said to stand at %v, where there is %.20q", at, rest)
	}
}
