package rpcbind

import "rpcward/xdr"

// NumStats is the number of versions that GETSTAT reports: 2, 3 and 4.
const NumStats = 3 // RPCBVERS_STAT

// Stat is what GETSTAT tells of one version. RFC 1833, Section 2.1 (rpcb_stat).
type Stat struct {
	Calls  [NumProcs]uint32 // calls of each procedure
	Sets   uint32           // successful SETs
	Unsets uint32           // successful UNSETs
	Addrs  []AddrStat
	Remote []RemoteStat
}

// AddrStat counts look-ups of one registration. RFC 1833, Section 2.1 (rpcbs_addrlist).
type AddrStat struct {
	Program, Version uint32
	Success, Failure uint32
	NetID            string
}

// RemoteStat counts forwarded calls. RFC 1833, Section 2.1 (rpcbs_rmtcalllist).
type RemoteStat struct {
	Program, Version, Procedure uint32
	Success, Failure, Indirect  uint32
	NetID                       string
}

// AppendStat appends s.
func AppendStat(b []byte, s *Stat) []byte {
	for _, n := range s.Calls {
		b = xdr.AppendUint32(b, n)
	}
	b = xdr.AppendUint32(b, s.Sets)
	b = xdr.AppendUint32(b, s.Unsets)
	for _, a := range s.Addrs {
		b = AppendMore(b, true)
		b = appendUint32s(b, a.Program, a.Version, a.Success, a.Failure)
		b = xdr.AppendString(b, a.NetID)
	}
	b = AppendMore(b, false)
	for _, c := range s.Remote {
		b = AppendMore(b, true)
		b = appendUint32s(b, c.Program, c.Version, c.Procedure, c.Success, c.Failure, c.Indirect)
		b = xdr.AppendString(b, c.NetID)
	}
	return AppendMore(b, false)
}

func appendUint32s(b []byte, vs ...uint32) []byte {
	for _, v := range vs {
		b = xdr.AppendUint32(b, v)
	}
	return b
}

// ReadStat reads one version's part of GETSTAT's answer. The lists grow with
// the bytes that are there, never by a claimed count.
func ReadStat(r *xdr.Reader) Stat {
	var s Stat
	for i := range s.Calls {
		s.Calls[i] = r.Uint32()
	}
	s.Sets, s.Unsets = r.Uint32(), r.Uint32()
	for r.Bool() {
		a := AddrStat{
			Program: r.Uint32(), Version: r.Uint32(),
			Success: r.Uint32(), Failure: r.Uint32(),
			NetID: string(readString(r)),
		}
		s.Addrs = append(s.Addrs, a)
	}
	for r.Bool() {
		c := RemoteStat{
			Program: r.Uint32(), Version: r.Uint32(), Procedure: r.Uint32(),
			Success: r.Uint32(), Failure: r.Uint32(), Indirect: r.Uint32(),
			NetID: string(readString(r)),
		}
		s.Remote = append(s.Remote, c)
	}
	return s
}
