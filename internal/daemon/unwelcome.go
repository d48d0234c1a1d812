package daemon

import (
	"fmt"
	"strconv"
	"time"

	"rpcward/internal/policy"
	"rpcward/internal/tally"
	"rpcward/oncrpc"
)

// unwelcome is a kind of call that is counted by source prefix. The first call
// of a prefix in an interval has a line of its own, at a bounded rate; the
// others are summed up when the interval ends.
type unwelcome struct {
	table  *tally.Table
	lines  lineLimit
	suffix string // of a line about one call
	one    string // what one of them is, and many are, in a summary
	many   string
	untold uint64 // calls of earlier intervals; summarize's alone
}

// summaryLines is how many source prefixes have a line of their own in a summary.
const summaryLines = 20

// count counts a call, and logs it if it is the first of its source prefix.
func (a *accessLog) count(u *unwelcome, o *policy.Origin, c *oncrpc.Call) {
	call := tally.Call{Source: o.Source.Addr(), Procedure: c.Procedure, Program: subject(c)}
	if u.table.Add(&call) && u.lines.allow(o.At/int64(time.Second)) &&
		a.queue.offer(authWarning, line(o, call.Procedure, call.Program, u.suffix)) {
		u.table.Told(call.Source)
	}
}

// sumUpPrefixes logs a line for each source prefix that has called most, and one
// for all others. What finds no room in the log is told of next time.
func (a *accessLog) sumUpPrefixes(u *unwelcome, seconds int64) {
	c := u.table.Drain()
	others, rest := c.Prefixes, c.Rest.More()
	for i := range c.Rows {
		switch r := &c.Rows[i]; {
		case r.More() == 0:
		case i < summaryLines && a.queue.offer(authWarning, u.sum(r, seconds)):
		default:
			others++
			rest += r.More()
		}
	}
	rest += u.untold
	u.untold = 0
	if rest > 0 && !a.queue.offer(authWarning, u.sumOthers(rest, others, seconds)) {
		u.untold = rest
	}
}

// sum words what more has come of one prefix.
func (u *unwelcome) sum(r *tally.Row, seconds int64) string {
	more := ""
	if r.Told > 0 {
		more = "more "
	}
	return fmt.Sprintf("%s in %v in the last %d s, last from %v to %s", u.number(r.More(), more), r.Prefix, seconds,
		r.Last.Source, called(r.Last.Procedure, r.Last.Program))
}

// sumOthers words what has come of the prefixes that have no line. How many
// those are is an estimate.
func (u *unwelcome) sumOthers(calls, prefixes uint64, seconds int64) string {
	from := "other networks"
	if prefixes > 1 {
		from = "about " + grouped(prefixes) + " other networks"
	}
	return fmt.Sprintf("%s in %s in the last %d s", u.number(calls, "more "), from, seconds)
}

// number words n of them: "1,234,567 more requests from unauthorized hosts".
func (u *unwelcome) number(n uint64, more string) string {
	what := u.many
	if n == 1 {
		what = u.one
	}
	return grouped(n) + " " + more + what
}

// grouped writes n with commas: 1,234,567.
func grouped(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
