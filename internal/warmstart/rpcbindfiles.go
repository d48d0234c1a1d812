package warmstart

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"rpcward/internal/registry"
	"rpcward/rpcbind"
	"rpcward/xdr"
)

// rpcbind's files are the bodies of its answers to DUMP, its own registrations
// included, without header or checksum.

// appendRpcbind writes rpcbind.xdr: version 3's list, RFC 1833, Section 2.1 (rpcblist).
func appendRpcbind(b []byte, s *registry.Snapshot) []byte {
	for r := range s.All() {
		b = appendRegistration(rpcbind.AppendMore(b, true), r)
	}
	return rpcbind.AppendMore(b, false)
}

func appendRegistration(b []byte, r *registry.Registration) []byte {
	return rpcbind.AppendRPCB(b, &rpcbind.RPCB[string]{
		Program: r.Program, Version: r.Version, NetID: r.NetID.String(), Addr: r.Addr, Owner: r.Owner,
	})
}

// appendPortmap writes portmap.xdr: version 2's list, RFC 1833, Section 3.1 (pmaplist).
func appendPortmap(b []byte, s *registry.Snapshot) []byte {
	for r := range s.All() {
		if prot := r.NetID.Transport().IP; prot != 0 {
			b = rpcbind.AppendMapping(rpcbind.AppendMore(b, true), rpcbind.Mapping{
				Program: r.Program, Version: r.Version, Prot: prot, Port: uint32(r.IP.Port()),
			})
		}
	}
	return rpcbind.AppendMore(b, false)
}

// decodeRpcbind reads rpcbind.xdr.
func decodeRpcbind(data []byte) (registrations, error) { return decode(data, readRegistrations) }

// decodePortmap reads portmap.xdr.
func decodePortmap(data []byte) (registrations, error) { return decode(data, readMappings) }

// decode reads a list that must end where the data does.
func decode(data []byte, read func(*xdr.Reader) registrations) (registrations, error) {
	r := xdr.NewReader(data)
	list := read(&r)
	if err := r.Err(); err != nil {
		return registrations{}, err
	}
	if n := len(r.Rest()); n > 0 {
		return registrations{}, fmt.Errorf("%d bytes follow the end of the list", n)
	}
	return list, nil
}

// registrations is what was read from a list, the port mapper's own left out:
// rpcbind drops those too, and registers its own again.
type registrations struct {
	fit   []registry.Registration
	unfit int      // how many we can't have registered
	why   []string // of the first of those
}

// maxWhy bounds what is said about a file that makes no sense.
const maxWhy = 10

var errTooMany = fmt.Errorf("there are more than %d", registry.MaxRegistrations)

func (l *registrations) add(reg registry.Registration, err error) {
	if err == nil && len(l.fit) >= registry.MaxRegistrations {
		err = errTooMany
	}
	if err != nil {
		l.reject(reg.Key, err)
		return
	}
	l.fit = append(l.fit, reg)
}

// reject notes that k can't be registered.
func (l *registrations) reject(k registry.Key, err error) {
	if l.unfit++; l.unfit <= maxWhy {
		l.why = append(l.why, fmt.Sprintf("program %d version %d: %v", k.Program, k.Version, err))
	}
}

// readRegistrations reads an rpcblist. The list grows with the bytes that are
// there.
func readRegistrations(r *xdr.Reader) registrations {
	var list registrations
	for r.Bool() {
		reg, err := readRegistration(r)
		if r.Err() != nil {
			break
		}
		if reg.Program != rpcbind.Program {
			list.add(reg, err)
		}
	}
	return list
}

// readRegistration reads an rpcb. An error says why it can't be registered.
func readRegistration(r *xdr.Reader) (registry.Registration, error) {
	m := rpcbind.ReadRPCB(r)
	reg := registry.Registration{
		Key:   registry.Key{Program: m.Program, Version: m.Version, NetID: rpcbind.ParseNetIDBytes(m.NetID)},
		Addr:  string(m.Addr),
		Owner: owner(string(m.Owner)),
	}
	if reg.NetID == rpcbind.NoNetID {
		return reg, fmt.Errorf("no netid is called %.40q", m.NetID)
	}
	return reg, checkAddr(&reg)
}

// readMappings reads a pmaplist, which is all that is left when rpcbind.xdr is
// not there or corrupt. It does not tell the owners. Taking the superuser for
// them locks nobody out that unknown would not, and lets nobody else in.
func readMappings(r *xdr.Reader) registrations {
	var list registrations
	for r.Bool() {
		m := rpcbind.ReadMapping(r)
		if r.Err() != nil {
			break
		}
		if m.Program == rpcbind.Program {
			continue
		}
		reg := registry.Registration{
			Key:   registry.Key{Program: m.Program, Version: m.Version, NetID: rpcbind.FromProt(m.Prot)},
			Addr:  rpcbind.UAddr(netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(m.Port))),
			Owner: registry.Superuser,
		}
		err := checkAddr(&reg)
		if reg.NetID == rpcbind.NoNetID || m.Port > 0xffff {
			err = fmt.Errorf("protocol %d port %d is neither UDP nor TCP", m.Prot, m.Port)
		}
		list.add(reg, err)
	}
	return list
}

// maxPath is the longest path of a unix socket in bytes, sockaddr_un in unix(7).
const maxPath = 107

// checkAddr fills in reg.IP, or says why an address can't be kept.
func checkAddr(reg *registry.Registration) error {
	if reg.NetID.IsLocal() {
		control := func(c rune) bool { return c < ' ' || c == 0x7f }
		if len(reg.Addr) > maxPath || !strings.HasPrefix(reg.Addr, "/") || strings.ContainsFunc(reg.Addr, control) {
			return fmt.Errorf("%.120q is not the path of a socket", reg.Addr)
		}
		return nil
	}
	ap, ok := rpcbind.ParseUAddr([]byte(reg.Addr))
	if !ok || ap.Port() == 0 || !reg.NetID.Accepts(ap.Addr()) {
		return fmt.Errorf("%.120q is not an address of %v", reg.Addr, reg.NetID)
	}
	reg.IP = ap
	return nil
}

// owner is the name of an owner as it may stand in a file. Who is none of
// those is nobody in particular.
func owner(s string) string {
	n, err := strconv.ParseUint(s, 10, 32)
	if s == registry.Superuser || err == nil && strconv.FormatUint(n, 10) == s {
		return s
	}
	return registry.Unknown
}
