package cli

import (
	"fmt"
	"io"
	"strconv"

	"rpcward/internal/rpcnames"
	"rpcward/rpcbind"
)

// statHeads are the columns of rpcinfo -m; their number is that of a version's
// procedures. Version 4's are printed in two rows.
var statHeads = [rpcbind.NumStats][]string{
	{"NULL", "SET", "UNSET", "GETPORT", "DUMP", "CALLIT"},
	{"NULL", "SET", "UNSET", "GETADDR", "DUMP", "CALLIT", "TIME", "U2T", "T2U"},
	{"NULL", "SET", "UNSET", "GETADDR", "DUMP", "CALLIT", "TIME", "U2T", "T2U", "VERADDR", "INDRECT", "GETLIST", "GETSTAT"},
}

const statRow = 9 // columns in a row

var statTitles = [rpcbind.NumStats]struct{ version, remote, lookup string }{
	{"PORTMAP (version 2) statistics", "PMAP_RMTCALL call statistics", "PMAP_GETPORT call statistics"},
	{"RPCBIND (version 3) statistics", "RPCB_RMTCALL (version 3) call statistics", "RPCB_GETADDR (version 3) call statistics"},
	{"RPCBIND (version 4) statistics", "RPCB_RMTCALL (version 4) call statistics", "RPCB_GETADDR (version 4) call statistics"},
}

// versionStat is the JSON of one version's statistics.
type versionStat struct {
	Version uint32            `json:"version"`
	Calls   map[string]uint32 `json:"calls"`
	Sets    uint32            `json:"sets"`
	Unsets  uint32            `json:"unsets"`
	Lookups []lookupStat      `json:"lookups"`
	Remote  []remoteStat      `json:"remote_calls"`
}

type lookupStat struct {
	Program uint32 `json:"program"`
	Version uint32 `json:"version"`
	NetID   string `json:"netid"`
	Service string `json:"service"`
	Success uint32 `json:"success"`
	Failure uint32 `json:"failure"`
}

type remoteStat struct {
	Program   uint32 `json:"program"`
	Version   uint32 `json:"version"`
	Procedure uint32 `json:"procedure"`
	NetID     string `json:"netid"`
	Service   string `json:"service"`
	Success   uint32 `json:"success"`
	Failure   uint32 `json:"failure"`
	Indirect  uint32 `json:"indirect"`
}

// statistics is rpcinfo -m.
func (r *rpcinfo) statistics() error {
	c, err := r.mapper(r.args)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := r.context(queryTimeout)
	defer cancel()
	stats, err := c.GetStat(ctx)
	if err != nil {
		return callError(noRpcbindCall, err)
	}
	return r.report(map[string]any{"statistics": jsonStats(&stats)}, func(w io.Writer) {
		for i := range stats {
			writeStat(w, i, &stats[i])
		}
	})
}

func jsonStats(stats *[rpcbind.NumStats]rpcbind.Stat) []versionStat {
	list := make([]versionStat, len(stats))
	for i := range stats {
		s := &stats[i]
		v := versionStat{
			Version: rpcbind.Version2 + uint32(i), Calls: map[string]uint32{}, Sets: s.Sets, Unsets: s.Unsets,
			Lookups: []lookupStat{}, Remote: []remoteStat{},
		}
		for proc, head := range statHeads[i] {
			v.Calls[head] = s.Calls[proc]
		}
		for _, a := range s.Addrs {
			v.Lookups = append(v.Lookups, lookupStat{a.Program, a.Version, a.NetID, rpcnames.Name(a.Program), a.Success, a.Failure})
		}
		for _, c := range s.Remote {
			v.Remote = append(v.Remote, remoteStat{c.Program, c.Version, c.Procedure, c.NetID, rpcnames.Name(c.Program), c.Success, c.Failure, c.Indirect})
		}
		list[i] = v
	}
	return list
}

// writeStat prints the statistics of the version with that index.
func writeStat(w io.Writer, index int, s *rpcbind.Stat) {
	last := index == rpcbind.NumStats-1
	fmt.Fprintln(w, statTitles[index].version)
	heads := statHeads[index]
	for from := 0; from < len(heads); from += statRow {
		writeStatRow(w, heads, from, index, s)
	}
	if !last {
		fmt.Fprintln(w)
	}
	remoteCalls := s.Calls[rpcbind.ProcCallIt]
	if last {
		remoteCalls |= s.Calls[rpcbind.ProcIndirect]
	}
	section := func(title string, rows func()) {
		if last {
			fmt.Fprintln(w)
		}
		fmt.Fprintln(w, title)
		rows()
		if !last {
			fmt.Fprintln(w)
		}
	}
	if remoteCalls != 0 {
		section(statTitles[index].remote, func() { writeRemoteStat(w, s.Remote, last) })
	}
	if s.Calls[rpcbind.ProcGetAddr] != 0 {
		section(statTitles[index].lookup, func() { writeLookupStat(w, s.Addrs) })
	}
}

// writeStatRow prints the heads from one on and the numbers below them. A
// column is as wide as its number needs, in tab stops.
func writeStatRow(w io.Writer, heads []string, from, index int, s *rpcbind.Stat) {
	const tab = 8
	var numbers []byte
	for proc := from; proc < min(from+statRow, len(heads)); proc++ {
		field := statField(rpcbind.Proc(proc), index, s)
		width := tab * (1 + len(field)/tab)
		fmt.Fprintf(w, "%-*s", width, heads[proc])
		numbers = fmt.Appendf(numbers, "%-*s", width, field)
	}
	fmt.Fprintf(w, "\n%s\n", numbers)
}

// statField is a procedure's number of calls, behind that of the successful
// ones where the port mapper counts them.
func statField(proc rpcbind.Proc, index int, s *rpcbind.Stat) string {
	calls := uint64(s.Calls[proc])
	var successes uint64
	switch proc {
	case rpcbind.ProcSet:
		successes = uint64(s.Sets)
	case rpcbind.ProcUnset:
		successes = uint64(s.Unsets)
	case rpcbind.ProcGetAddr:
		for _, a := range s.Addrs {
			successes += uint64(a.Success)
		}
		if index == rpcbind.NumStats-1 {
			// rpcbind counts address lists among the addresses found.
			calls += uint64(s.Calls[rpcbind.ProcGetAddrList])
		}
	case rpcbind.ProcCallIt:
		for _, c := range s.Remote {
			successes += uint64(c.Success)
		}
	default:
		return strconv.FormatUint(calls, 10)
	}
	return strconv.FormatUint(successes, 10) + "/" + strconv.FormatUint(calls, 10)
}

func writeRemoteStat(w io.Writer, list []rpcbind.RemoteStat, indirect bool) {
	if indirect {
		fmt.Fprint(w, "prog\t\tvers\tproc\tnetid\tindirect success failure\n")
	} else {
		fmt.Fprint(w, "prog\t\tvers\tproc\tnetid\tsuccess\tfailure\n")
	}
	for _, c := range list {
		fmt.Fprintf(w, "%-16s%d\t%d\t%s\t", programCell(c.Program), c.Version, c.Procedure, cell(c.NetID))
		if indirect {
			fmt.Fprintf(w, "%d\t ", c.Indirect)
		}
		fmt.Fprintf(w, "%d\t%d\n", c.Success, c.Failure)
	}
}

func writeLookupStat(w io.Writer, list []rpcbind.AddrStat) {
	fmt.Fprint(w, "prog\t\tvers\tnetid\t  success\tfailure\n")
	for _, a := range list {
		fmt.Fprintf(w, "%-16s%d\t%s\t  %-12d\t%d\n", programCell(a.Program), a.Version, cell(a.NetID), a.Success, a.Failure)
	}
}

// programCell is a program's name, or its number.
func programCell(program uint32) string {
	return nameOr(program, strconv.FormatUint(uint64(program), 10))
}
