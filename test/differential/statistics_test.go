package differential

import (
	"fmt"

	"rpcward/rpcbind"
	"rpcward/xdr"
)

// statKey names one counter of GETSTAT.
type statKey struct {
	version       int
	table         string // "calls", "changes", "lookups" or "remote"
	program, vers uint32
	proc          uint32
	netid         string
	field         int
}

// statistics compares what GETSTAT says. The counters of the two drift apart
// where they answer differently; what must not change from one GETSTAT to the
// next is by how much, save for the counters that such a call concerns.
type statistics struct {
	drift map[statKey]int64
	known bool
	loose []func(statKey) bool
}

// loosen notes that the counters which c concerns may have drifted.
func (st *statistics) loosen(c *Case) {
	version, program := int(c.call.Version)-2, c.change().Program // of calls for others, the first item too
	proc := c.call.Procedure
	st.loose = append(st.loose, func(k statKey) bool {
		switch {
		case k.version != version:
			return k.version == 2 && k.table == "changes" // what removes the difference is an UNSET of version 4
		case k.table == "calls":
			return k.proc == proc
		case k.table == "changes":
			return true
		}
		return k.program == program
	})
}

// compare tells in which counters two answers to GETSTAT disagree, and whether
// one of our tables has no room for more names.
func (st *statistics) compare(stock, ours []byte) (wrong []string, bounded bool) {
	s, _, sok := parseStat(stock)
	o, full, ook := parseStat(ours)
	if !sok || !ook {
		return []string{"a broken answer"}, false
	}
	drift := map[statKey]int64{}
	for k, n := range s {
		if _, have := o[k]; !have && k.table != "calls" && full[[2]any{k.version, k.table}] {
			bounded = true
			continue
		}
		drift[k] += n
	}
	for k, n := range o {
		drift[k] -= n
	}
	if st.known {
		wrong = st.disagree(drift)
	}
	st.drift, st.known, st.loose = drift, true, nil
	return wrong, bounded
}

func (st *statistics) disagree(drift map[statKey]int64) (wrong []string) {
	for k, n := range drift {
		if _, old := st.drift[k]; k.table == "remote" && k.field == 2 && !old && n == 1 {
			continue // rpcbind counts the first call of a name as indirect
		}
		if n != st.drift[k] && !st.isLoose(k) {
			wrong = append(wrong, fmt.Sprintf("%+v: rpcbind has %d more, it had %d more before", k, n, st.drift[k]))
		}
	}
	return wrong
}

func (st *statistics) isLoose(k statKey) bool {
	if p := rpcbind.Proc(k.proc); k.table == "calls" && (p == rpcbind.ProcDump || p == rpcbind.ProcNull) {
		return true // how differences are looked at, and fences
	}
	for _, f := range st.loose {
		if f(k) {
			return true
		}
	}
	return false
}

// parseStat reads GETSTAT's result into counters, and tells which tables have
// as many names as rpcward counts.
func parseStat(b []byte) (counters map[statKey]int64, full map[[2]any]bool, ok bool) {
	counters, full = map[statKey]int64{}, map[[2]any]bool{}
	r := xdr.NewReader(b)
	for v := range rpcbind.NumStats {
		s := rpcbind.ReadStat(&r)
		for p, n := range s.Calls {
			counters[statKey{version: v, table: "calls", proc: uint32(p)}] = int64(n)
		}
		counters[statKey{version: v, table: "changes", field: 0}] = int64(s.Sets)
		counters[statKey{version: v, table: "changes", field: 1}] = int64(s.Unsets)
		for _, a := range s.Addrs {
			k := statKey{version: v, table: "lookups", program: a.Program, vers: a.Version, netid: a.NetID}
			addCounters(counters, k, a.Success, a.Failure)
		}
		for _, c := range s.Remote {
			k := statKey{version: v, table: "remote", program: c.Program, vers: c.Version, proc: c.Procedure, netid: c.NetID}
			addCounters(counters, k, c.Success, c.Failure, c.Indirect)
		}
		full[[2]any{v, "lookups"}] = len(s.Addrs) >= counted
		full[[2]any{v, "remote"}] = len(s.Remote) >= counted
	}
	return counters, full, r.Err() == nil && len(r.Rest()) == 0
}

func addCounters(counters map[statKey]int64, k statKey, values ...uint32) {
	for i, n := range values {
		k.field = i
		counters[k] = int64(n)
	}
}
