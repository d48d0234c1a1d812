package accessfile

import (
	"fmt"
	"net/netip"
	"strings"

	"rpcward/hostsaccess"
)

// Target is whom an edit is about.
type Target struct {
	Text     string         // as it is written in the files
	Networks []netip.Prefix // all of them are meant
	all      bool
}

// HintError is an error with advice.
type HintError struct {
	Err  error
	Hint string
}

func (e *HintError) Error() string { return e.Err.Error() }
func (e *HintError) Unwrap() error { return e.Err }

func hint(hint, format string, args ...any) error {
	return &HintError{fmt.Errorf(format, args...), hint}
}

// The networks of this host's loopback interface.
var (
	loopback4 = netip.MustParsePrefix("127.0.0.0/8")
	loopback6 = netip.MustParsePrefix("::1/128")
	loopback  = []netip.Addr{loopback4.Addr().Next(), loopback6.Addr()}
)

// The targets of ALL. Refusing all is meant for all others.
var (
	everybody  = Target{Text: "ALL", Networks: []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}, all: true}
	everyOther = Target{Text: "ALL EXCEPT 127.0.0.0/8 [::1]", Networks: append(allBut(loopback4), allBut(loopback6)...), all: true}
)

// onLoopback says whether the target is some of this host's loopback addresses.
func (t Target) onLoopback() bool {
	n := t.Networks[0]
	return loopback4.Overlaps(n) && n.Bits() >= loopback4.Bits() || n == loopback6
}

// allBut returns the networks of all addresses of n's family that n does not
// hold: for each of its bits the network with that bit turned over.
func allBut(n netip.Prefix) (list []netip.Prefix) {
	for i := range n.Bits() {
		b := n.Addr().AsSlice()
		b[i/8] ^= 0x80 >> (i % 8)
		a, _ := netip.AddrFromSlice(b)
		list = append(list, netip.PrefixFrom(a, i+1).Masked())
	}
	return list
}

// ParseTarget reads an address, a network or ALL, as a person writes it: IPv6
// with or without brackets. What it returns is written as hosts_access(5) has it.
func ParseTarget(s string) (Target, error) {
	if strings.EqualFold(s, "ALL") {
		return everybody, nil
	}
	text, err := bracketed(s)
	if err != nil {
		return Target{}, err
	}
	f := hostsaccess.Parse("", []byte("x : "+text+"\n"))
	for _, d := range f.Diagnostics {
		if d.Severity == hostsaccess.Error {
			return Target{}, hint(d.Hint, "%s", d.Message)
		}
	}
	patterns := f.Rules[0].Clients.Terms[0].Patterns
	if len(patterns) != 1 || len(f.Rules[0].Options) > 0 || len(f.Rules[0].Clients.Terms) > 1 {
		return Target{}, hint("name each address by itself: 192.0.2.1 198.51.100.0/24 2001:db8::/32", "%q is not an address", s)
	}
	h := patterns[0].Host
	if !h.Prefix.IsValid() || patterns[0].User != nil {
		return Target{}, hint("write addresses, networks or ALL: a name is what the owner of an address calls himself", "%q is not an address", s)
	}
	if h.Zone != "" {
		return Target{}, hint("write it without %"+h.Zone, "%q is an address of one interface", s)
	}
	if err := senseless(h.Prefix); err != nil {
		return Target{}, err
	}
	t := Target{Text: text, Networks: []netip.Prefix{h.Prefix}}
	if len(f.Diagnostics) > 0 { // the pattern works here, and not in libwrap
		t.Text = write(h.Prefix)
	}
	if h.Prefix.Bits() == 0 {
		t.Text = everyoneOf(h.Prefix)
	}
	return t, nil
}

// bracketed puts an IPv6 address into brackets, as the files have it.
func bracketed(s string) (string, error) {
	address, length, network := strings.Cut(s, "/")
	if a, err := netip.ParseAddr(address); err == nil && a.Is6() {
		s = "[" + address + "]"
		if network {
			s += "/" + length
		}
	} else if strings.ContainsAny(s, " \t\r\n,#:\\\x00") && !strings.HasPrefix(s, "[") {
		return "", hint("name each address by itself: 192.0.2.1 198.51.100.0/24 2001:db8::/32", "%q is not an address", s)
	}
	return s, nil
}

// write writes a network as the files do.
func write(n netip.Prefix) string {
	s := n.String()
	if n.IsSingleIP() {
		s = n.Addr().String()
	}
	if n.Addr().Is4() {
		return s
	}
	address, length, network := strings.Cut(s, "/")
	if !network {
		return "[" + address + "]"
	}
	return "[" + address + "]/" + length
}

// everyoneOf writes a network without bits in the one way that libwrap reads.
func everyoneOf(n netip.Prefix) string {
	if n.Addr().Is4() {
		return "0.0.0.0/0.0.0.0"
	}
	return "[::]/0"
}

// senseless says why no client comes from a network.
func senseless(n netip.Prefix) error {
	const advice = "name the addresses that clients have"
	switch a := n.Addr(); {
	case n.Bits() == 0:
		return nil
	case a.IsUnspecified():
		return hint(advice, "%v is the address of no host", a)
	case a.IsMulticast():
		return hint(advice, "%v is a multicast address: nothing comes from there", write(n))
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return hint(advice, "%v is the broadcast address: nothing comes from there", a)
	}
	return nil
}
