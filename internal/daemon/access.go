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
	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/xdr"
)

// accessLog writes rpcbind's log lines for calls, at a bounded rate: refusals
// come by the million when somebody wants to fill a disk. It implements
// portmapper.Observer.
type accessLog struct {
	queue   *logQueue
	all     bool // log allowed calls too (rpcbind -l)
	refused lineLimit
	allowed lineLimit
}

// Lines a second of each kind.
const (
	refusedLines = 10
	allowedLines = 200
)

func newAccessLog(q *logQueue, all bool) *accessLog {
	return &accessLog{
		queue: q, all: all,
		refused: lineLimit{perSecond: refusedLines},
		allowed: lineLimit{perSecond: allowedLines},
	}
}

// lineLimit counts what may still be logged in this second.
type lineLimit struct {
	perSecond  int64
	second     atomic.Int64
	used       atomic.Int64
	suppressed atomic.Int64
}

func (l *lineLimit) allow(now time.Time) bool {
	second := now.Unix()
	if old := l.second.Load(); old != second && l.second.CompareAndSwap(old, second) {
		l.used.Store(0)
	}
	if l.used.Add(1) <= l.perSecond {
		return true
	}
	l.suppressed.Add(1)
	return false
}

// summaryInterval is how often suppressed lines are summed up.
const summaryInterval = 10 * time.Second

// run sums up the lines that were suppressed, until ctx is done.
func (a *accessLog) run(ctx context.Context) {
	t := time.NewTicker(summaryInterval)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			a.summarize()
		case <-ctx.Done():
			a.summarize()
			return
		}
	}
}

// put logs a line within the limit of its kind.
func (a *accessLog) put(limit *lineLimit, p syslog.Priority, text func() string) {
	if limit.allow(time.Now()) && !a.queue.offer(p, text()) {
		limit.suppressed.Add(1)
	}
}

func (a *accessLog) summarize() {
	a.sumUp(&a.refused, authWarning, "requests from unauthorized hosts")
	a.sumUp(&a.allowed, authInfo, "connects")
}

// sumUp logs how many lines were suppressed, or keeps the number for next time.
func (a *accessLog) sumUp(limit *lineLimit, p syslog.Priority, what string) {
	n := limit.suppressed.Swap(0)
	if n > 0 && !a.queue.offer(p, fmt.Sprintf("%d more suppressed: %s", n, what)) {
		limit.suppressed.Add(n)
	}
}

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
	return fmt.Sprintf("connect from %s to %s(%s)%s", from, procName(proc), programName(program), suffix)
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
)

func (a *accessLog) Refused(o *policy.Origin, c *oncrpc.Call, _ policy.Decision) {
	a.put(&a.refused, authWarning, func() string {
		return line(o, c.Procedure, subject(c), ": request from unauthorized host")
	})
}

func (a *accessLog) Declined(o *policy.Origin, c *oncrpc.Call) {
	if a.all {
		a.put(&a.allowed, authInfo, func() string {
			return line(o, c.Procedure, subject(c), " declined (non-loopback sender)")
		})
	}
}

func (a *accessLog) IndirectDenied(o *policy.Origin, target *rpcbind.RemoteCall) {
	a.put(&a.refused, authWarning, func() string {
		return line(o, target.Procedure, target.Program, ": indirect call not allowed")
	})
}

func (a *accessLog) Answered(o *policy.Origin, c *oncrpc.Call) {
	if a.all && o.Channel != policy.Unix {
		a.put(&a.allowed, authInfo, func() string { return line(o, c.Procedure, subject(c), "") })
	}
}

func (a *accessLog) NotSaved(err error) {
	a.put(&a.refused, syslog.LOG_DAEMON|syslog.LOG_ERR, func() string {
		return fmt.Sprintf("a change was refused since it can't be saved: %v", err)
	})
}
