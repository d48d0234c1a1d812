package daemon

import (
	"context"
	"fmt"
	"log/syslog"
	"strconv"
	"sync/atomic"
	"time"

	"rpcward/internal/policy"
	"rpcward/internal/rpcnames"
	"rpcward/internal/tally"
	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/xdr"
)

// accessLog writes rpcbind's log lines for calls, at a bounded rate, and counts
// the rest: refusals come by the million when somebody wants to fill a disk. It
// implements portmapper.Observer.
type accessLog struct {
	queue *logQueue
	all   bool // log allowed calls too (rpcbind -l)

	refused, limited unwelcome
	dropped          atomic.Uint64 // in the kernel, since they were last summed up

	allowed, indirect, unsaved lineLimit
}

// Lines a second of each kind.
const (
	refusedLines = 10
	allowedLines = 200
)

func newAccessLog(q *logQueue, all bool, rates policy.Rates) *accessLog {
	a := &accessLog{
		queue: q, all: all,
		refused: unwelcome{
			table: tally.New(), lines: lineLimit{perSecond: refusedLines},
			suffix: ": request from unauthorized host",
			one:    "request from an unauthorized host", many: "requests from unauthorized hosts",
		},
		limited: unwelcome{
			table: tally.New(), lines: lineLimit{perSecond: refusedLines},
			suffix: ": held back by the rate limit",
			one:    "answer held back by the rate limit", many: "answers held back by the rate limit",
		},
		allowed:  lineLimit{perSecond: allowedLines},
		indirect: lineLimit{perSecond: refusedLines},
		unsaved:  lineLimit{perSecond: refusedLines},
	}
	if rates.LogOnly {
		a.limited.suffix = ": answered over the rate limit"
		a.limited.one, a.limited.many = "answer over the rate limit", "answers over the rate limit"
	}
	return a
}

// lineLimit counts what may still be logged in this second.
type lineLimit struct {
	perSecond  int64
	second     atomic.Int64
	used       atomic.Int64
	suppressed atomic.Int64 // lines that are to be summed up
}

// allow reports whether there may be one more line in a second of any clock
// that does not stand still.
func (l *lineLimit) allow(second int64) bool {
	if old := l.second.Load(); old != second && l.second.CompareAndSwap(old, second) {
		l.used.Store(0)
	}
	return l.used.Add(1) <= l.perSecond
}

// summaryInterval is how often calls that had no line are summed up.
const summaryInterval = 10 * time.Second

// run sums up what had no line, until ctx is done.
func (a *accessLog) run(ctx context.Context) {
	t := time.NewTicker(summaryInterval)
	defer t.Stop()
	for last := time.Now(); ; {
		select {
		case <-t.C:
		case <-ctx.Done():
			a.summarize(time.Since(last))
			return
		}
		a.summarize(time.Since(last))
		last = time.Now()
	}
}

// summarize tells of the calls of the time since the last summary.
func (a *accessLog) summarize(since time.Duration) {
	seconds := max(int64(since.Round(time.Second)/time.Second), 1)
	a.sumUpPrefixes(&a.refused, seconds)
	a.sumUpPrefixes(&a.limited, seconds)
	if n := a.dropped.Swap(0); n > 0 {
		text := fmt.Sprintf("%s packets of refused networks dropped in the kernel during a flood, in the last %d s", grouped(n), seconds)
		if !a.queue.offer(authWarning, text) {
			a.dropped.Add(n)
		}
	}
	a.sumUp(&a.indirect, authWarning, "indirect calls that are not allowed")
	a.sumUp(&a.unsaved, unsavedError, "changes that can't be saved")
	a.sumUp(&a.allowed, authInfo, "connects")
}

// put logs a line within the limit of its kind.
func (a *accessLog) put(limit *lineLimit, p syslog.Priority, text func() string) {
	if !limit.allow(time.Now().Unix()) || !a.queue.offer(p, text()) {
		limit.suppressed.Add(1)
	}
}

// sumUp logs how many lines were suppressed, or keeps the number for next time.
func (a *accessLog) sumUp(limit *lineLimit, p syslog.Priority, what string) {
	n := limit.suppressed.Swap(0)
	if n > 0 && !a.queue.offer(p, fmt.Sprintf("%d more suppressed: %s", n, what)) {
		limit.suppressed.Add(n)
	}
}

// Refusals returns the count of refused calls.
func (a *accessLog) Refusals() *tally.Table { return a.refused.table }

// DroppedInKernel adds n packets that the kernel dropped for us. They are in
// no other count.
func (a *accessLog) DroppedInKernel(n uint64) { a.dropped.Add(n) }

// procNames are the words of rpcbind's log for procedures, whatever the version.
var procNames = [rpcbind.NumProcs]string{
	"null", "set", "unset", "getport/addr", "dump", "callit", "gettime",
	"uaddr2taddr", "taddr2uaddr", "getversaddr", "indirect", "getaddrlist", "getstat",
}

func procName(proc uint32) string {
	if proc < rpcbind.NumProcs {
		return procNames[proc]
	}
	return strconv.FormatUint(uint64(proc), 10)
}

// line is one log line as rpcbind words it.
func line(o *policy.Origin, proc, program uint32, suffix string) string {
	from := "local"
	if o.Channel != policy.Unix {
		from = o.Source.Addr().String()
	}
	return fmt.Sprintf("connect from %s to %s%s", from, called(proc, program), suffix)
}

// called is what a call asks for: "getport/addr(nfs)".
func called(proc, program uint32) string {
	return procName(proc) + "(" + programName(program) + ")"
}

// programName is the name of a program or, without one, its number; nothing
// for 0.
func programName(program uint32) string {
	if program == 0 {
		return ""
	}
	if name := rpcnames.Name(program); name != "" {
		return name
	}
	return strconv.FormatUint(uint64(program), 10)
}

// subject is the program that a call asks about, 0 if it names none.
func subject(c *oncrpc.Call) uint32 {
	if c.Program != rpcbind.Program {
		return 0
	}
	switch rpcbind.Proc(c.Procedure) {
	case rpcbind.ProcSet, rpcbind.ProcUnset, rpcbind.ProcGetAddr, rpcbind.ProcCallIt:
		r := xdr.NewReader(c.Args)
		return r.Uint32()
	}
	return 0
}

// Priorities of rpcbind's lines.
const (
	authWarning = syslog.LOG_AUTH | syslog.LOG_WARNING
	authInfo    = syslog.LOG_AUTH | syslog.LOG_INFO

	unsavedError = syslog.LOG_DAEMON | syslog.LOG_ERR // ours
)

func (a *accessLog) Refused(o *policy.Origin, c *oncrpc.Call, _ policy.Decision) {
	a.count(&a.refused, o, c)
}

func (a *accessLog) Limited(o *policy.Origin, c *oncrpc.Call) { a.count(&a.limited, o, c) }

func (a *accessLog) Declined(o *policy.Origin, c *oncrpc.Call) {
	if a.all {
		a.put(&a.allowed, authInfo, func() string {
			return line(o, c.Procedure, subject(c), " declined (non-loopback sender)")
		})
	}
}

func (a *accessLog) IndirectDenied(o *policy.Origin, target *rpcbind.RemoteCall) {
	a.put(&a.indirect, authWarning, func() string {
		return line(o, target.Procedure, target.Program, ": indirect call not allowed")
	})
}

func (a *accessLog) Answered(o *policy.Origin, c *oncrpc.Call) {
	if a.all && o.Channel != policy.Unix {
		a.put(&a.allowed, authInfo, func() string { return line(o, c.Procedure, subject(c), "") })
	}
}

func (a *accessLog) NotSaved(err error) {
	a.put(&a.unsaved, unsavedError, func() string {
		return fmt.Sprintf("a change was refused since it can't be saved: %v", err)
	})
}
