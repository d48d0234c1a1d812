package warmstart

import (
	"encoding/binary"
	"errors"
	"hash/crc32"

	"rpcward/internal/registry"
	"rpcward/rpcbind"
	"rpcward/xdr"
)

// state is what our own file holds. It begins with a line of text, the rest is
// XDR (RFC 4506):
//
//	"rpcward registrations 1\n"
//	string  boot<>;           /* of the kernel's boot_id, random(4) */
//	bool    exported;         /* at a clean end, rpcbind's files beside it */
//	struct { unsigned hyper inode, size, mtime; } seen[2];
//	rpcblist services;        /* RFC 1833, Section 2.1; not the port mapper's own */
//	unsigned int count;       /* of services */
//	unsigned int checksum;    /* CRC-32C of all before it */
type state struct {
	boot     string
	exported bool
	seen     [2]fileID // rpcbind.xdr and portmap.xdr whose content is in here
	services registrations
}

const stateMagic = "rpcward registrations 1\n"

// maxBoot is longer than any boot id, which is a UUID.
const maxBoot = 64

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Reasons not to believe our own file.
var (
	errMagic    = errors.New("it does not begin as this version's files do")
	errChecksum = errors.New("the checksum is wrong")
	errFormat   = errors.New("the checksum is right, but the content is not")
)

// appendState appends a file with st's head and the services of s.
func appendState(b []byte, st *state, s *registry.Snapshot) []byte {
	start := len(b)
	b = append(b, stateMagic...)
	b = xdr.AppendString(b, st.boot)
	b = xdr.AppendBool(b, st.exported)
	for _, id := range st.seen {
		for _, v := range []uint64{id.Inode, id.Size, id.ModTime} {
			b = binary.BigEndian.AppendUint64(b, v)
		}
	}
	count := uint32(0)
	for r := range s.Services() {
		b = appendRegistration(b, r)
		count++
	}
	b = rpcbind.AppendMore(b, false)
	b = xdr.AppendUint32(b, count)
	return xdr.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

func appendRegistration(b []byte, r *registry.Registration) []byte {
	return rpcbind.AppendRPCB(rpcbind.AppendMore(b, true), &rpcbind.RPCB[string]{
		Program: r.Program, Version: r.Version, NetID: r.NetID.String(), Addr: r.Addr, Owner: r.Owner,
	})
}

// decodeState reads a file that appendState wrote.
func decodeState(data []byte) (state, error) {
	if len(data) < len(stateMagic) || string(data[:len(stateMagic)]) != stateMagic {
		return state{}, errMagic
	}
	if len(data) < len(stateMagic)+crc32.Size {
		return state{}, errChecksum
	}
	body, sum := data[:len(data)-crc32.Size], data[len(data)-crc32.Size:]
	if crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(sum) {
		return state{}, errChecksum
	}
	r := xdr.NewReader(body[len(stateMagic):])
	st := state{boot: string(r.Opaque(maxBoot)), exported: r.Bool()}
	for i := range st.seen {
		st.seen[i] = fileID{readUint64(&r), readUint64(&r), readUint64(&r)}
	}
	st.services = readRegistrations(&r)
	count := r.Uint32()
	if r.Err() != nil || len(r.Rest()) > 0 || uint64(count) != uint64(len(st.services.fit)+st.services.unfit) {
		return state{}, errFormat
	}
	return st, nil
}

func readUint64(r *xdr.Reader) uint64 {
	return uint64(r.Uint32())<<32 | uint64(r.Uint32())
}
