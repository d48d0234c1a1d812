package rpcbind

import "rpcward/xdr"

// Lists arrive as chains of items, each behind a mark that it is there. RFC
// 4506, Section 4.19. Reading stops at the end of the chain or of the data,
// whichever comes first, and a list never takes more memory than a small
// multiple of the bytes that were really there. What was read before an error
// is returned; the error is the Reader's.

// readList reads a chain of items.
func readList[T any](r *xdr.Reader, item func(*xdr.Reader) T) []T {
	var list []T
	for r.Bool() {
		v := item(r)
		if r.Err() != nil {
			break
		}
		list = append(list, v)
	}
	return list
}

// ReadMappings reads version 2's DUMP result. RFC 1833, Section 3.1 (pmaplist).
func ReadMappings(r *xdr.Reader) []Mapping { return readList(r, ReadMapping) }

// ReadRPCBs reads the DUMP result of versions 3 and 4 into values that do not
// alias the message. RFC 1833, Section 2.1 (rpcblist).
func ReadRPCBs(r *xdr.Reader) []RPCB[string] {
	return readList(r, func(r *xdr.Reader) RPCB[string] {
		m := ReadRPCB(r)
		return RPCB[string]{m.Program, m.Version, string(m.NetID), string(m.Addr), string(m.Owner)}
	})
}

// ReadAddrEntries reads GETADDRLIST's result. RFC 1833, Section 2.1 (rpcb_entry_list).
func ReadAddrEntries(r *xdr.Reader) []AddrEntry { return readList(r, ReadAddrEntry) }
