package warmstart

import (
	"encoding/binary"
	"errors"
	"hash/crc32"

	"rpcward/xdr"
)

// state is what our own file holds.
type state struct {
	boot     string
	exported bool
	seen     [2]fileID // rpcbind.xdr and portmap.xdr whose content is in here
	services registrations
	lost     int // changes that can't be read, at least
}

// The first version of our file was written as a whole each time:
//
//	"rpcward registrations 1\n"
//	string  boot<>;           /* and so on, as in a head now */
//	bool    exported;
//	struct { unsigned hyper inode, size, mtime; } seen[2];
//	rpcblist services;        /* RFC 1833, Section 2.1; not the port mapper's own */
//	unsigned int count;       /* of services */
//	unsigned int checksum;    /* CRC-32C of all before it */
const version1Magic = "rpcward registrations 1\n"

// maxBoot is longer than any boot id, which is a UUID.
const maxBoot = 64

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Reasons not to believe our own file.
var (
	errMagic    = errors.New("it does not begin as this version's files do")
	errChecksum = errors.New("the checksum is wrong")
	errFormat   = errors.New("the checksum is right, but the content is not")
)

// decodeVersion1 reads a file of the first version.
func decodeVersion1(data []byte) (state, error) {
	if len(data) < len(version1Magic) || string(data[:len(version1Magic)]) != version1Magic {
		return state{}, errMagic
	}
	if len(data) < len(version1Magic)+crc32.Size {
		return state{}, errChecksum
	}
	body, sum := data[:len(data)-crc32.Size], data[len(data)-crc32.Size:]
	if crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(sum) {
		return state{}, errChecksum
	}
	r := xdr.NewReader(body[len(version1Magic):])
	st := readStart(&r)
	st.services = readRegistrations(&r)
	count := r.Uint32()
	if r.Err() != nil || len(r.Rest()) > 0 || uint64(count) != uint64(len(st.services.fit)+st.services.unfit) {
		return state{}, errFormat
	}
	return st, nil
}

// readStart reads what all versions begin with.
func readStart(r *xdr.Reader) state {
	st := state{boot: string(r.Opaque(maxBoot)), exported: r.Bool()}
	for i := range st.seen {
		st.seen[i] = fileID{readUint64(r), readUint64(r), readUint64(r)}
	}
	return st
}

func readUint64(r *xdr.Reader) uint64 {
	return uint64(r.Uint32())<<32 | uint64(r.Uint32())
}
