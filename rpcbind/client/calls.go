package client

import (
	"bytes"
	"context"
	"time"

	"rpcward/rpcbind"
	"rpcward/xdr"
)

// Null calls the NULL procedure of the port mapper's version.
func (c *Client) Null(ctx context.Context, version uint32) error {
	return c.Ping(ctx, rpcbind.Program, version)
}

// Ping calls the NULL procedure of any program: procedure 0, which every RPC
// program has. RFC 5531, Section 12.1.
func (c *Client) Ping(ctx context.Context, program, version uint32) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.call(ctx, program, version, 0, nil)
	return err
}

// GetPort asks version 2 for a port. It returns [ErrNotRegistered] for port 0.
// m.Port is not looked at. PMAPPROC_GETPORT, RFC 1833, Section 3.2.
func (c *Client) GetPort(ctx context.Context, m rpcbind.Mapping) (uint16, error) {
	port, err := query(ctx, c, rpcbind.Version2, rpcbind.ProcGetAddr, rpcbind.AppendMapping(nil, m), (*xdr.Reader).Uint32)
	switch {
	case err != nil:
		return 0, err
	case port == 0:
		return 0, ErrNotRegistered
	case port > 0xffff:
		return 0, ErrResult
	}
	return uint16(port), nil
}

// GetAddr asks version 3 or 4 for a universal address. It returns
// [ErrNotRegistered] for an empty one. Port mappers take the transport from
// the one that they are asked over, whatever m.NetID says, and use m.Addr as a
// hint which of their addresses the caller reaches. RPCBPROC_GETADDR, RFC
// 1833, Section 2.2.1.
func (c *Client) GetAddr(ctx context.Context, version uint32, m *rpcbind.RPCB[string]) (string, error) {
	return c.address(ctx, version, rpcbind.ProcGetAddr, m)
}

// GetVersAddr is GetAddr for exactly the version of m. RPCBPROC_GETVERSADDR,
// version 4.
func (c *Client) GetVersAddr(ctx context.Context, m *rpcbind.RPCB[string]) (string, error) {
	return c.address(ctx, rpcbind.Version4, rpcbind.ProcGetVersAddr, m)
}

func (c *Client) address(ctx context.Context, version uint32, proc rpcbind.Proc, m *rpcbind.RPCB[string]) (string, error) {
	uaddr, err := query(ctx, c, version, proc, rpcbind.AppendRPCB(nil, m), readString)
	if err == nil && uaddr == "" {
		err = ErrNotRegistered
	}
	return uaddr, err
}

// GetAddrList asks version 4 for all addresses of m's program and version on
// transports of the protocol family that it is asked over. RPCBPROC_GETADDRLIST.
func (c *Client) GetAddrList(ctx context.Context, m *rpcbind.RPCB[string]) ([]rpcbind.AddrEntry, error) {
	return query(ctx, c, rpcbind.Version4, rpcbind.ProcGetAddrList, rpcbind.AppendRPCB(nil, m), rpcbind.ReadAddrEntries)
}

// DumpMappings asks version 2 for all it has. PMAPPROC_DUMP.
func (c *Client) DumpMappings(ctx context.Context) ([]rpcbind.Mapping, error) {
	return query(ctx, c, rpcbind.Version2, rpcbind.ProcDump, nil, rpcbind.ReadMappings)
}

// Dump asks version 3 or 4 for all it has. RPCBPROC_DUMP.
func (c *Client) Dump(ctx context.Context, version uint32) ([]rpcbind.RPCB[string], error) {
	return query(ctx, c, version, rpcbind.ProcDump, nil, rpcbind.ReadRPCBs)
}

// SetMapping registers with version 2, and reports whether that was done.
// PMAPPROC_SET.
func (c *Client) SetMapping(ctx context.Context, m rpcbind.Mapping) (bool, error) {
	return query(ctx, c, rpcbind.Version2, rpcbind.ProcSet, rpcbind.AppendMapping(nil, m), (*xdr.Reader).Bool)
}

// UnsetMapping removes the registrations of m's program and version, over UDP
// and TCP both, and reports whether that was done. PMAPPROC_UNSET.
func (c *Client) UnsetMapping(ctx context.Context, m rpcbind.Mapping) (bool, error) {
	return query(ctx, c, rpcbind.Version2, rpcbind.ProcUnset, rpcbind.AppendMapping(nil, m), (*xdr.Reader).Bool)
}

// Set registers with version 3 or 4, and reports whether that was done. Port
// mappers answer false if the same program, version and netid has another
// address. RPCBPROC_SET.
func (c *Client) Set(ctx context.Context, version uint32, m *rpcbind.RPCB[string]) (bool, error) {
	return query(ctx, c, version, rpcbind.ProcSet, rpcbind.AppendRPCB(nil, m), (*xdr.Reader).Bool)
}

// Unset removes the registration of m's program, version and netid, on all
// transports if the netid is "", and reports whether that was done.
// RPCBPROC_UNSET.
func (c *Client) Unset(ctx context.Context, version uint32, m *rpcbind.RPCB[string]) (bool, error) {
	return query(ctx, c, version, rpcbind.ProcUnset, rpcbind.AppendRPCB(nil, m), (*xdr.Reader).Bool)
}

// GetTime asks version 3 or 4 for its clock, in whole seconds. RPCBPROC_GETTIME.
func (c *Client) GetTime(ctx context.Context, version uint32) (time.Time, error) {
	sec, err := query(ctx, c, version, rpcbind.ProcGetTime, nil, (*xdr.Reader).Uint32)
	if err != nil {
		return time.Time{}, err
	}
	return time.Unix(int64(sec), 0), nil
}

// UAddr2TAddr asks version 3 or 4 for the sockaddr of a universal address, in
// the layout of the server's machine; empty if it can't tell.
// RPCBPROC_UADDR2TADDR.
func (c *Client) UAddr2TAddr(ctx context.Context, version uint32, uaddr string) ([]byte, error) {
	return query(ctx, c, version, rpcbind.ProcUAddr2TAddr, xdr.AppendString(nil, uaddr), func(r *xdr.Reader) []byte {
		r.Uint32() // maxlen, room at the server
		return bytes.Clone(r.Opaque(rpcbind.MaxString))
	})
}

// TAddr2UAddr asks version 3 or 4 for the universal address of a sockaddr; ""
// if it can't tell. RPCBPROC_TADDR2UADDR.
func (c *Client) TAddr2UAddr(ctx context.Context, version uint32, taddr []byte) (string, error) {
	args := xdr.AppendUint32(nil, uint32(len(taddr)))
	return query(ctx, c, version, rpcbind.ProcTAddr2UAddr, xdr.AppendOpaque(args, taddr), readString)
}

// GetStat asks version 4 for the statistics of versions 2, 3 and 4, in that
// order. RPCBPROC_GETSTAT.
func (c *Client) GetStat(ctx context.Context) ([rpcbind.NumStats]rpcbind.Stat, error) {
	return query(ctx, c, rpcbind.Version4, rpcbind.ProcGetStat, nil, func(r *xdr.Reader) (stats [rpcbind.NumStats]rpcbind.Stat) {
		for i := range stats {
			stats[i] = rpcbind.ReadStat(r)
		}
		return stats
	})
}

// CallMapped has version 2 forward a call and returns the service's port and
// result. Port mappers do so over UDP only and answer nothing otherwise, nor
// when the call fails. PMAPPROC_CALLIT.
func (c *Client) CallMapped(ctx context.Context, call *rpcbind.RemoteCall) (port uint32, results []byte, err error) {
	type answer struct {
		port    uint32
		results []byte
	}
	a, err := query(ctx, c, rpcbind.Version2, rpcbind.ProcCallIt, rpcbind.AppendRemoteCall(nil, call), func(r *xdr.Reader) answer {
		return answer{r.Uint32(), bytes.Clone(r.Opaque(maxDatagram))}
	})
	return a.port, a.results, err
}

// CallIt has version 3 or 4 forward a call and returns the service's universal
// address and result; see [Client.CallMapped]. RPCBPROC_CALLIT, RPCBPROC_BCAST.
func (c *Client) CallIt(ctx context.Context, version uint32, call *rpcbind.RemoteCall) (uaddr string, results []byte, err error) {
	return c.forward(ctx, version, rpcbind.ProcCallIt, call)
}

// Indirect has version 4 forward a call. Unlike CallIt it is also answered
// when the call fails. RPCBPROC_INDIRECT.
func (c *Client) Indirect(ctx context.Context, call *rpcbind.RemoteCall) (uaddr string, results []byte, err error) {
	return c.forward(ctx, rpcbind.Version4, rpcbind.ProcIndirect, call)
}

func (c *Client) forward(ctx context.Context, version uint32, proc rpcbind.Proc, call *rpcbind.RemoteCall) (string, []byte, error) {
	type answer struct {
		uaddr   string
		results []byte
	}
	a, err := query(ctx, c, version, proc, rpcbind.AppendRemoteCall(nil, call), func(r *xdr.Reader) answer {
		return answer{readString(r), bytes.Clone(r.Opaque(maxDatagram))}
	})
	return a.uaddr, a.results, err
}

func readString(r *xdr.Reader) string { return string(rpcbind.ReadString(r)) }
