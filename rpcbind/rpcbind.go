// Package rpcbind has the protocol of the port mapper: program 100000 in its
// versions 2 (portmap), 3 and 4 (rpcbind), RFC 1833, with the netids and the
// universal addresses of RFC 5665.
//
// Readers take an xdr.Reader and return values that alias its data; append
// functions write to the caller's slice. Nothing here allocates on behalf of a
// length that a peer claims.
package rpcbind

import (
	"bytes"

	"rpcward/xdr"
)

// The port mapper's own program and port. RFC 1833, Sections 2 and 3.
const (
	Program uint32 = 100000 // RPCBPROG, PMAP_PROG
	Port    uint16 = 111    // PMAP_PORT
)

// Versions of the protocol.
const (
	Version2 uint32 = 2 // PMAP_VERS, RFC 1833, Section 3
	Version3 uint32 = 3 // RPCBVERS, RFC 1833, Section 2.2.1
	Version4 uint32 = 4 // RPCBVERS4, RFC 1833, Section 2.2.1
)

// Proc is a procedure number of any version.
type Proc uint32

// Procedures. Version 2 has 0 to 5, version 3 has 0 to 8, version 4 all.
const (
	ProcNull        Proc = 0  // RPCBPROC_NULL, all versions
	ProcSet         Proc = 1  // RPCBPROC_SET, RFC 1833, Section 2.2.1
	ProcUnset       Proc = 2  // RPCBPROC_UNSET
	ProcGetAddr     Proc = 3  // RPCBPROC_GETADDR; in version 2 PMAPPROC_GETPORT
	ProcDump        Proc = 4  // RPCBPROC_DUMP
	ProcCallIt      Proc = 5  // PMAPPROC_CALLIT, RPCBPROC_CALLIT, RPCBPROC_BCAST
	ProcGetTime     Proc = 6  // RPCBPROC_GETTIME
	ProcUAddr2TAddr Proc = 7  // RPCBPROC_UADDR2TADDR
	ProcTAddr2UAddr Proc = 8  // RPCBPROC_TADDR2UADDR
	ProcGetVersAddr Proc = 9  // RPCBPROC_GETVERSADDR, version 4 only
	ProcIndirect    Proc = 10 // RPCBPROC_INDIRECT, version 4 only
	ProcGetAddrList Proc = 11 // RPCBPROC_GETADDRLIST, version 4 only
	ProcGetStat     Proc = 12 // RPCBPROC_GETSTAT, version 4 only
)

// NumProcs is the number of procedures of version 4, of which the other
// versions have the first ones.
const NumProcs = 13

// Protocol numbers of version 2. RFC 1833, Section 3.1.
const (
	ProtTCP uint32 = 6  // IPPROTO_TCP
	ProtUDP uint32 = 17 // IPPROTO_UDP
)

// MaxString is the longest string in bytes that a peer may send; libtirpc's
// RPC_MAXDATASIZE has the same.
const MaxString = 9000

// Mapping is version 2's view of a registration. RFC 1833, Section 3.1 (mapping).
type Mapping struct {
	Program, Version, Prot, Port uint32
}

// ReadMapping reads a mapping.
func ReadMapping(r *xdr.Reader) Mapping {
	return Mapping{r.Uint32(), r.Uint32(), r.Uint32(), r.Uint32()}
}

// AppendMapping appends a mapping.
func AppendMapping(b []byte, m Mapping) []byte {
	b = xdr.AppendUint32(b, m.Program)
	b = xdr.AppendUint32(b, m.Version)
	b = xdr.AppendUint32(b, m.Prot)
	return xdr.AppendUint32(b, m.Port)
}

// RPCB is the argument and list item of versions 3 and 4. RFC 1833,
// Section 2.1 (rpcb). S is string for values that are kept, []byte for values
// that alias a message.
type RPCB[S string | []byte] struct {
	Program, Version uint32
	NetID            S
	Addr             S
	Owner            S
}

// ReadRPCB reads an rpcb. Its strings end at their first NUL, as C reads them.
func ReadRPCB(r *xdr.Reader) RPCB[[]byte] {
	return RPCB[[]byte]{
		Program: r.Uint32(), Version: r.Uint32(),
		NetID: readString(r), Addr: readString(r), Owner: readString(r),
	}
}

// AppendRPCB appends an rpcb.
func AppendRPCB[S string | []byte](b []byte, m *RPCB[S]) []byte {
	b = xdr.AppendUint32(b, m.Program)
	b = xdr.AppendUint32(b, m.Version)
	b = xdr.AppendString(b, string(m.NetID))
	b = xdr.AppendString(b, string(m.Addr))
	return xdr.AppendString(b, string(m.Owner))
}

// ReadString reads a string that ends at its first NUL, as C reads it.
func ReadString(r *xdr.Reader) []byte { return readString(r) }

func readString(r *xdr.Reader) []byte {
	s := r.Opaque(MaxString)
	if i := bytes.IndexByte(s, 0); i >= 0 {
		return s[:i:i]
	}
	return s
}

// AppendMore appends the mark that another list item follows, or none.
// Lists are optional-data chains, RFC 4506, Section 4.19.
func AppendMore(b []byte, more bool) []byte { return xdr.AppendBool(b, more) }

// RemoteCall is the argument of CALLIT, BCAST and INDIRECT. RFC 1833,
// Section 2.1 (rpcb_rmtcallargs) and Section 3.1 (call_args).
type RemoteCall struct {
	Program, Version, Procedure uint32
	Args                        []byte
}

// ReadRemoteCall reads a remote call, which aliases the message.
func ReadRemoteCall(r *xdr.Reader) RemoteCall {
	return RemoteCall{r.Uint32(), r.Uint32(), r.Uint32(), r.Opaque(MaxString)}
}

// AppendRemoteCall appends a remote call.
func AppendRemoteCall(b []byte, c *RemoteCall) []byte {
	b = xdr.AppendUint32(b, c.Program)
	b = xdr.AppendUint32(b, c.Version)
	b = xdr.AppendUint32(b, c.Procedure)
	return xdr.AppendOpaque(b, c.Args)
}

// AddrEntry is an item of GETADDRLIST's answer. RFC 1833, Section 2.1 (rpcb_entry).
type AddrEntry struct {
	Addr      string // universal address
	NetID     string
	Semantics uint32 // one of the Semantics constants
	Family    string // "inet", "inet6" or "loopback"
	Protocol  string // "tcp", "udp" or "-"
}

// ReadAddrEntry reads an entry of an address list.
func ReadAddrEntry(r *xdr.Reader) AddrEntry {
	return AddrEntry{
		Addr: string(readString(r)), NetID: string(readString(r)), Semantics: r.Uint32(),
		Family: string(readString(r)), Protocol: string(readString(r)),
	}
}

// AppendTransport appends the fields of an AddrEntry that follow its address:
// those that describe the transport n.
func AppendTransport(b []byte, n NetID) []byte {
	t := n.Transport()
	b = xdr.AppendString(b, t.Name)
	b = xdr.AppendUint32(b, t.Semantics)
	b = xdr.AppendString(b, t.Family)
	return xdr.AppendString(b, t.Protocol)
}
