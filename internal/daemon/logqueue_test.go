package daemon

import (
	"fmt"
	"log/syslog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"rpcward/internal/policy"
)

// gate is a sink that takes a line each time that it is opened.
type gate struct {
	open  chan struct{}
	lines []string // as written
}

func (g *gate) write(_ syslog.Priority, text string) {
	<-g.open
	g.lines = append(g.lines, text)
}

// texts returns the texts of n lines.
func texts(kind string, n int) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprint(kind, " ", i))
	}
	return list
}

// A full queue loses new lines and says how many, after those it has kept, in
// order.
func TestLogQueueFull(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &gate{open: make(chan struct{})}
		q := newLogQueue(g)
		q.write(0, "first")
		synctest.Wait() // until the sink has it, and nothing waits
		for _, text := range texts("line", queueSize+7) {
			q.write(0, text)
		}
		close(g.open)
		q.close()
		want := slices.Concat([]string{"first"}, texts("line", queueSize), []string{"7 log lines lost: nobody took them"})
		if d := cmp.Diff(want, g.lines); d != "" {
			t.Errorf("written (-want +got):\n%s", d)
		}
	})
}

// Lines about calls leave room for others, and those that find none are summed
// up when there is room again.
func TestLogQueueReserve(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &gate{open: make(chan struct{})}
		q := newLogQueue(g)
		a := newAccessLog(q, true, policy.Rates{})
		a.allowed.perSecond = 1 << 20
		q.write(0, "first")
		synctest.Wait()
		for i := range queueSize {
			a.put(&a.allowed, authInfo, func() string { return fmt.Sprint("call ", i) })
		}
		a.summarize(0) // no room for that either
		for _, text := range texts("line", queueReserve) {
			q.write(0, text)
		}
		close(g.open)
		q.flush()
		a.summarize(0)
		q.close()
		want := slices.Concat([]string{"first"}, texts("call", queueSize-queueReserve), texts("line", queueReserve),
			[]string{fmt.Sprintf("%d more suppressed: connects", queueReserve)})
		if d := cmp.Diff(want, g.lines); d != "" {
			t.Errorf("written (-want +got):\n%s", d)
		}
	})
}

// Nothing waits for a sink that does not return, but the end, and that not for long.
func TestLogQueueStuck(t *testing.T) {
	t.Parallel()
	for _, waiting := range []int{1, 2 * queueSize} {
		synctest.Test(t, func(t *testing.T) {
			g := &gate{open: make(chan struct{})}
			q := newLogQueue(g)
			begin := time.Now()
			for range waiting {
				q.write(0, "line")
			}
			if took := time.Since(begin); took != 0 {
				t.Errorf("writing %d lines took %v", waiting, took)
			}
			q.close()
			if took := time.Since(begin); took != flushWait {
				t.Errorf("closing with %d lines took %v, want %v", waiting, took, flushWait)
			}
			close(g.open) // the test, unlike a process, ends with its last goroutine
		})
	}
}

// A flush is over as soon as the lines are written.
func TestLogQueueFlush(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b strings.Builder
		q := newLogQueue(stderrSink{"x", &b})
		begin := time.Now()
		q.write(syslog.LOG_WARNING, "one")
		q.write(syslog.LOG_INFO, "two")
		if !q.flush() || b.String() != "x: warning: one\nx: two\n" {
			t.Errorf("after flush: %q", b.String())
		}
		q.close()
		if took := time.Since(begin); took != 0 {
			t.Errorf("took %v", took)
		}
	})
}
