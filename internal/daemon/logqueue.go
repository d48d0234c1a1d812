package daemon

import (
	"fmt"
	"log/syslog"
	"sync/atomic"
	"time"
)

// logQueue is a sink that nobody waits for. Who reads the log may stop to (a
// full pipe, a terminal after Ctrl-S, a syslogd that hangs), and all the same
// calls are answered, a policy that was edited takes effect, and the program
// ends when told to. Lines that find no room are counted, and the count is
// logged when there is room again.
//
// Its methods may be called from several goroutines.
type logQueue struct {
	sink  sink // one goroutine writes to it
	lines chan logLine
	lost  atomic.Int64 // lines, since the count was last logged
	stop  chan struct{}
	done  chan struct{} // closed when nothing more is written
}

// logLine is a line on its way to the sink, or a question.
type logLine struct {
	priority syslog.Priority
	text     string
	written  chan struct{} // if not nil, no line, but to be closed in its turn
}

const (
	queueSize = 256
	// queueReserve is the room that lines about calls leave for all others, so
	// that no stranger can push out what is said about the policy.
	queueReserve = 64
)

// flushWait is the longest that the end, or the start, waits for the log.
const flushWait = time.Second

func newLogQueue(s sink) *logQueue {
	q := &logQueue{
		sink:  s,
		lines: make(chan logLine, queueSize),
		stop:  make(chan struct{}),
		done:  make(chan struct{}),
	}
	go q.run()
	return q
}

func (q *logQueue) run() {
	defer close(q.done)
	for {
		select {
		case l := <-q.lines:
			q.handle(l)
		case <-q.stop:
			return
		}
	}
}

func (q *logQueue) handle(l logLine) {
	if l.written == nil {
		q.sink.write(l.priority, l.text)
	}
	// The lost ones came after all that are waiting.
	if len(q.lines) == 0 {
		if n := q.lost.Swap(0); n > 0 {
			q.sink.write(syslog.LOG_DAEMON|syslog.LOG_WARNING, fmt.Sprintf("%d log lines lost: nobody took them", n))
		}
	}
	if l.written != nil {
		close(l.written)
	}
}

// write queues a line. It implements sink.
func (q *logQueue) write(p syslog.Priority, text string) {
	select {
	case q.lines <- logLine{priority: p, text: text}:
	default:
		q.lost.Add(1)
	}
}

// offer queues a line if there is room besides queueReserve, and reports
// whether it did. The caller counts those that are not taken.
func (q *logQueue) offer(p syslog.Priority, text string) bool {
	if len(q.lines) >= queueSize-queueReserve {
		return false
	}
	select {
	case q.lines <- logLine{priority: p, text: text}:
		return true
	default:
		return false
	}
}

// flush returns when all lines so far are written, and reports whether they
// are: it waits no longer than flushWait.
func (q *logQueue) flush() bool {
	timeout := time.NewTimer(flushWait)
	defer timeout.Stop()
	written := make(chan struct{})
	select {
	case q.lines <- logLine{written: written}:
	case <-timeout.C:
		return false
	}
	select {
	case <-written:
		return true
	case <-timeout.C:
		return false
	}
}

// close is flush for the last time: lines that come later are lost. A sink that
// does not return is left to the end of the process.
func (q *logQueue) close() {
	flushed := q.flush()
	close(q.stop)
	if flushed {
		<-q.done
	}
}
