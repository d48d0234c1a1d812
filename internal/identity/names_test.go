package identity

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"rpcward/hostsaccess"
)

// zone is what the test's name server knows: names by reversed address, and
// addresses or the true name by name. What it doesn't know does not exist;
// names in ".broken" can't be looked up.
var zone = struct {
	names   map[string]string
	hosts   map[string]string
	aliases map[string]string
}{
	names: map[string]string{
		"1.0.0.10.in-addr.arpa.": "good.test.",
		"2.0.0.10.in-addr.arpa.": "spoof.test.",
		"3.0.0.10.in-addr.arpa.": "nofwd.test.",
		"4.0.0.10.in-addr.arpa.": "10.9.9.9.",
		"5.0.0.10.in-addr.arpa.": "alias.test.",
		"6.0.0.10.in-addr.arpa.": "host.broken.",
		"7.0.0.10.in-addr.arpa.": "a b.test.",
	},
	hosts:   map[string]string{"good.test.": "10.0.0.1", "spoof.test.": "10.0.0.99", "real.test.": "10.0.0.5"},
	aliases: map[string]string{"alias.test.": "real.test."},
}

// nameServer answers questions by zone until the test ends.
func nameServer(t *testing.T) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { conn.Close(); <-done })
	go func() {
		defer close(done)
		b := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(b[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			reply(&m)
			if b, err := m.Pack(); err == nil {
				conn.WriteTo(b, from)
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

func reply(m *dnsmessage.Message) {
	q := m.Questions[0]
	name := q.Name.String()
	m.Response, m.Authoritative, m.Additionals = true, true, nil
	add := func(name string, body dnsmessage.ResourceBody) {
		h := dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(name), Class: dnsmessage.ClassINET, TTL: 60}
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: body})
	}
	if real := zone.aliases[name]; real != "" {
		add(name, &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(real)})
		name = real
	}
	address, known := zone.hosts[name]
	switch pointer := zone.names[name]; {
	case pointer != "":
		add(name, &dnsmessage.PTRResource{PTR: dnsmessage.MustNewName(pointer)})
	case known && q.Type == dnsmessage.TypeA:
		add(name, &dnsmessage.AResource{A: netip.MustParseAddr(address).As4()})
	case strings.HasSuffix(name, ".broken."):
		m.RCode = dnsmessage.RCodeServerFailure
	case !known:
		m.RCode = dnsmessage.RCodeNameError
	}
}

// A name counts only if it leads back to the address.
func TestHostName(t *testing.T) {
	var warned string
	r := &Resolver{Names: nameServer(t), Warn: func(text string) { warned += text }}
	for _, tt := range []struct {
		addr, name string
		state      hostsaccess.NameState
		warning    string
	}{
		{"10.0.0.1", "good.test", hostsaccess.NameKnown, ""},
		{"::ffff:10.0.0.1", "good.test", hostsaccess.NameKnown, ""},
		{"10.0.0.2", "", hostsaccess.NameParanoid, "host name/address mismatch: 10.0.0.2 != spoof.test"},
		{"10.0.0.3", "", hostsaccess.NameParanoid, "can't verify hostname: getaddrinfo(nofwd.test, AF_INET) failed"},
		{"10.0.0.4", "", hostsaccess.NameParanoid, "host name/name mismatch: reverse lookup of 10.0.0.4 results in no host name"},
		{"10.0.0.5", "", hostsaccess.NameParanoid, "host name/name mismatch: alias.test != real.test"},
		{"10.0.0.6", "", hostsaccess.NameFailed, "can't verify hostname: getaddrinfo(host.broken, AF_INET) failed"},
		{"10.0.0.7", "", hostsaccess.NameParanoid, "host name/name mismatch: reverse lookup of 10.0.0.7 results in no host name"},
		{"10.0.0.8", "", hostsaccess.NameNone, ""},
	} {
		warned = ""
		name, state := r.HostName(netip.MustParseAddr(tt.addr))
		if name != tt.name || state != tt.state || warned != tt.warning {
			t.Errorf("%s: %q, state %d, %q, want %q, %d, %q", tt.addr, name, state, warned, tt.name, tt.state, tt.warning)
		}
	}
}

// What was found is kept: the second question is not asked.
func TestHostNameIsKept(t *testing.T) {
	r := &Resolver{Names: nameServer(t)}
	addr := netip.MustParseAddr("10.0.0.1")
	if name, ok := r.Known(addr); ok {
		t.Errorf("Known before anybody asked: %q", name)
	}
	r.HostName(addr)
	r.Names = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		t.Error("asked again")
		return nil, net.ErrClosed
	}}
	if name, state := r.HostName(addr); name != "good.test" || state != hostsaccess.NameKnown {
		t.Errorf("%q, %d", name, state)
	}
	if name, ok := r.Known(addr); !ok || name != "good.test" {
		t.Errorf("Known: %q, %v", name, ok)
	}
}
