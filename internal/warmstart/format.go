package warmstart

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"strconv"
	"strings"

	"rpcward/internal/registry"
	"rpcward/rpcbind"
	"rpcward/xdr"
)

// Our state is a line of text, a list as version 3's DUMP has it but for the
// port mapper's own registrations, and a CRC-32C of all before it:
//
//	rpcward registrations 1 BOOT-ID
//	rpcblist (RFC 1833, Section 2.1)
//	crc, 4 bytes, big endian
const stateMagic = "rpcward registrations 1 "

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var (
	errOtherBoot = errors.New("from another boot")
	errChecksum  = errors.New("the checksum is wrong")
	errFormat    = errors.New("the format is not known")
)

func appendState(b []byte, s *registry.Snapshot, boot string) []byte {
	b = append(b, stateMagic...)
	b = append(b, boot...)
	b = append(b, '\n')
	for r := range s.Services() {
		b = appendItem(b, r)
	}
	b = rpcbind.AppendMore(b, false)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func appendItem(b []byte, r *registry.Registration) []byte {
	return rpcbind.AppendRPCB(rpcbind.AppendMore(b, true), &rpcbind.RPCB[string]{
		Program: r.Program, Version: r.Version, NetID: r.NetID.String(), Addr: r.Addr, Owner: r.Owner,
	})
}

// decodeState returns a list that is not nil unless there is an error.
func decodeState(data []byte, boot string) ([]registry.Registration, error) {
	if len(data) < crc32.Size {
		return nil, errFormat
	}
	body, sum := data[:len(data)-crc32.Size], data[len(data)-crc32.Size:]
	if crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(sum) {
		return nil, errChecksum
	}
	line, list, ok := bytes.Cut(body, []byte("\n"))
	id, isOurs := strings.CutPrefix(string(line), stateMagic)
	switch {
	case !ok || !isOurs:
		return nil, errFormat
	case id != boot:
		return nil, errOtherBoot
	}
	regs, left, err := decodeRpcbind(list)
	if err == nil && len(left) > 0 {
		err = errFormat
	}
	return regs, err
}

// appendRpcbind writes rpcbind.xdr: the body of version 3's DUMP, rpcbind's own
// registrations included.
func appendRpcbind(b []byte, s *registry.Snapshot) []byte {
	for r := range s.All() {
		b = appendItem(b, r)
	}
	return rpcbind.AppendMore(b, false)
}

// appendPortmap writes portmap.xdr: the body of version 2's DUMP.
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

// decodeRpcbind reads rpcbind.xdr. It returns the services, and in words those
// that we can't have registered.
func decodeRpcbind(data []byte) (regs []registry.Registration, left []string, err error) {
	return decodeList(data, func(r *xdr.Reader) (registry.Registration, error) {
		m := rpcbind.ReadRPCB(r)
		reg := registry.Registration{
			Key:   registry.Key{Program: m.Program, Version: m.Version, NetID: rpcbind.ParseNetIDBytes(m.NetID)},
			Addr:  string(m.Addr),
			Owner: owner(string(m.Owner)),
		}
		return reg, parseAddr(&reg, string(m.NetID))
	})
}

// decodePortmap reads portmap.xdr. It does not tell the owners; root's services
// are the usual ones.
func decodePortmap(data []byte) (regs []registry.Registration, left []string, err error) {
	return decodeList(data, func(r *xdr.Reader) (registry.Registration, error) {
		m := rpcbind.ReadMapping(r)
		ap := netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(m.Port))
		reg := registry.Registration{
			Key:  registry.Key{Program: m.Program, Version: m.Version, NetID: rpcbind.FromProt(m.Prot)},
			Addr: rpcbind.UAddr(ap), Owner: registry.Superuser,
		}
		if m.Port > 0xffff {
			return reg, fmt.Errorf("port %d", m.Port)
		}
		return reg, parseAddr(&reg, strconv.FormatUint(uint64(m.Prot), 10))
	})
}

// decodeList reads a list to its end, which must be the end of the data.
func decodeList(data []byte, read func(*xdr.Reader) (registry.Registration, error)) (regs []registry.Registration, left []string, err error) {
	regs = []registry.Registration{}
	r := xdr.NewReader(data)
	for r.Bool() {
		reg, bad := read(&r)
		switch {
		case r.Err() != nil:
		case reg.Program == rpcbind.Program:
		case bad != nil:
			left = append(left, fmt.Sprintf("program %d version %d: %v", reg.Program, reg.Version, bad))
		default:
			regs = append(regs, reg)
		}
	}
	if err := r.Err(); err != nil {
		return nil, nil, err
	}
	if len(r.Rest()) > 0 {
		return nil, nil, fmt.Errorf("%d bytes behind the list", len(r.Rest()))
	}
	return regs, left, nil
}

// parseAddr fills in reg.IP, or says why reg can't be kept.
func parseAddr(reg *registry.Registration, netid string) error {
	if reg.NetID == rpcbind.NoNetID {
		return fmt.Errorf("netid %q is not known", netid)
	}
	if reg.NetID.IsLocal() {
		if !strings.HasPrefix(reg.Addr, "/") {
			return fmt.Errorf("%q is not a path", reg.Addr)
		}
		return nil
	}
	ap, ok := rpcbind.ParseUAddr([]byte(reg.Addr))
	if !ok || ap.Port() == 0 || !reg.NetID.Accepts(ap.Addr()) {
		return fmt.Errorf("%q is not an address of %v", reg.Addr, reg.NetID)
	}
	reg.IP = ap
	return nil
}

// owner is the name of an owner as it may stand in a file; who is none of
// those is nobody in particular.
func owner(s string) string {
	if s == registry.Superuser {
		return s
	}
	if n, err := strconv.ParseUint(s, 10, 32); err == nil && strconv.FormatUint(n, 10) == s {
		return s
	}
	return "unknown"
}
