// Package identity finds out who a client is: the name of its host, which must
// lead back to its address, and its user, as the client's own host tells
// (RFC 1413). Both wait for others, so both have a deadline, and neither is
// ever asked by the port mapper.
package identity

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"rpcward/hostsaccess"
)

// Limits of what a Resolver takes upon itself.
const (
	namePatience  = 10 * time.Second // for all of one name's look-ups
	nameLifetime  = time.Minute
	mostNames     = 4096
	identPatience = 10 * time.Second // libwrap's RFC931_TIMEOUT
)

// Resolver is a hostsaccess.Resolver that asks the hosts file, DNS and the
// client. The zero Resolver works. It is safe for concurrent use.
type Resolver struct {
	// Names looks names up; nil for the usual way.
	Names *net.Resolver
	// Warn is called with what speaks against a name, in libwrap's words. nil
	// for nobody.
	Warn func(text string)

	mu    sync.Mutex // guards known
	known map[netip.Addr]answer
}

// answer is what is known of a host.
type answer struct {
	name  string
	state hostsaccess.NameState
	until time.Time
}

var _ hostsaccess.Resolver = (*Resolver)(nil)

func (r *Resolver) names() *net.Resolver {
	if r.Names == nil {
		return net.DefaultResolver
	}
	return r.Names
}

// HostName returns the name of the host at addr if looking it up gives addr.
// What was found is kept for a minute.
func (r *Resolver) HostName(addr netip.Addr) (string, hostsaccess.NameState) {
	if a, ok := r.kept(addr); ok {
		return a.name, a.state
	}
	ctx, cancel := context.WithTimeout(context.Background(), namePatience)
	defer cancel()
	name, state := r.lookUp(ctx, addr)
	r.keep(addr, answer{name, state, time.Now().Add(nameLifetime)})
	return name, state
}

// Known returns the confirmed name of a host if it was looked up lately.
func (r *Resolver) Known(addr netip.Addr) (name string, ok bool) {
	a, ok := r.kept(addr)
	return a.name, ok && a.state == hostsaccess.NameKnown
}

func (r *Resolver) kept(addr netip.Addr) (answer, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a, ok := r.known[addr]
	return a, ok && time.Now().Before(a.until)
}

func (r *Resolver) keep(addr netip.Addr, a answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known == nil || len(r.known) >= mostNames {
		r.known = map[netip.Addr]answer{}
	}
	r.known[addr] = a
}

func (r *Resolver) warnf(format string, args ...any) {
	if r.Warn != nil {
		r.Warn(fmt.Sprintf(format, args...))
	}
}

// lookUp asks for the name of addr and confirms it. libwrap also wants the
// name to be the official one: an alias is not believed.
func (r *Resolver) lookUp(ctx context.Context, addr netip.Addr) (string, hostsaccess.NameState) {
	names, err := r.names().LookupAddr(ctx, addr.Unmap().WithZone("").String())
	switch {
	case isNotFound(err):
		return "", hostsaccess.NameNone
	case len(names) == 0 && isTemporary(err):
		return "", hostsaccess.NameFailed
	case len(names) == 0: // names that are none: the resolver keeps them back
		r.warnf("host name/name mismatch: reverse lookup of %s results in no host name", addr)
		return "", hostsaccess.NameParanoid
	}
	return r.confirm(ctx, addr, strings.TrimSuffix(names[0], "."))
}

func (r *Resolver) confirm(ctx context.Context, addr netip.Addr, name string) (string, hostsaccess.NameState) {
	network, family := "ip6", "AF_INET6"
	if addr.Unmap().Is4() {
		network, family = "ip4", "AF_INET"
	}
	host, err := r.Host(ctx, name, network)
	if err != nil {
		r.warnf("can't verify hostname: getaddrinfo(%s, %s) failed", name, family)
		if isNotFound(err) {
			return "", hostsaccess.NameParanoid
		}
		return "", hostsaccess.NameFailed
	}
	if !strings.EqualFold(name, host.Official) && !strings.EqualFold(name, "localhost") {
		r.warnf("host name/name mismatch: %s != %s", name, host.Official)
		return "", hostsaccess.NameParanoid
	}
	for _, a := range host.Addrs {
		if a.Unmap() == addr.Unmap().WithZone("") {
			return name, hostsaccess.NameKnown
		}
	}
	r.warnf("host name/address mismatch: %s != %s", addr, host.Official)
	return "", hostsaccess.NameParanoid
}

// Host is what is known of a name.
type Host struct {
	Official string // the canonical name
	Addrs    []netip.Addr
}

// Host looks up a name in a network: "ip4", "ip6", or "ip" for both.
func (r *Resolver) Host(ctx context.Context, name, network string) (Host, error) {
	addrs, err := r.names().LookupNetIP(ctx, network, name)
	if err != nil {
		return Host{}, err
	}
	h := Host{Official: name}
	for _, a := range addrs {
		h.Addrs = append(h.Addrs, a.Unmap())
	}
	if official, err := r.names().LookupCNAME(ctx, name); err == nil {
		h.Official = strings.TrimSuffix(official, ".")
	}
	return h, nil
}

func isTemporary(err error) bool {
	var dns *net.DNSError
	return !errors.As(err, &dns) || dns.IsTimeout || dns.IsTemporary
}

func isNotFound(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns) && dns.IsNotFound
}
