package daemon

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"log/syslog"
	"strings"

	"github.com/coreos/go-systemd/v22/journal"
)

// sink is where log lines go. The priority has a facility and a severity, as
// syslog(3) has them. Other than logQueue, a sink may take its time, and is
// called by one goroutine at a time.
type sink interface {
	write(p syslog.Priority, line string)
}

const severityMask = 7 // LOG_PRIMASK, syslog.h

// openSink picks the place for log lines: standard error on a terminal or in a
// pipe, the journal when it reads our standard error, syslog(3) for a daemon
// without a terminal.
func openSink(name string, background bool, stderr io.Writer) sink {
	if background {
		if s, err := openSyslog(name); err == nil {
			return s
		}
	}
	if ok, err := journal.StderrIsJournalStream(); ok && err == nil {
		return journalSink{name}
	}
	return stderrSink{name, stderr}
}

// OpenLog returns a logger for a daemon of that name, which nobody waits for,
// and a function that writes what is left and ends it.
func OpenLog(name string, stderr io.Writer, debug bool) (log *slog.Logger, end func()) {
	q := newLogQueue(openSink(name, false, stderr))
	return newLogger(q, debug), q.close
}

// OpenBackgroundLog is OpenLog for a process without a terminal: syslog(3) where there is one.
func OpenBackgroundLog(name string, stderr io.Writer) (log *slog.Logger, end func()) {
	q := newLogQueue(openSink(name, true, stderr))
	return newLogger(q, false), q.close
}

// stderrSink writes lines for a person.
type stderrSink struct {
	name string
	w    io.Writer
}

func (s stderrSink) write(p syslog.Priority, line string) {
	fmt.Fprintf(s.w, "%s: %s%s\n", s.name, label(p), line)
}

func label(p syslog.Priority) string {
	switch p & severityMask {
	case syslog.LOG_ERR:
		return "error: "
	case syslog.LOG_WARNING:
		return "warning: "
	case syslog.LOG_DEBUG:
		return "debug: "
	}
	return ""
}

// syslogSink speaks to syslogd: requests under the facility auth, as rpcbind
// logs them, everything else under daemon.
type syslogSink struct{ auth, daemon *syslog.Writer }

func openSyslog(name string) (*syslogSink, error) {
	auth, err := syslog.New(syslog.LOG_AUTH|syslog.LOG_INFO, name)
	if err != nil {
		return nil, err
	}
	d, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_INFO, name)
	if err != nil {
		auth.Close()
		return nil, err
	}
	return &syslogSink{auth, d}, nil
}

func (s *syslogSink) write(p syslog.Priority, line string) {
	w := s.daemon
	if p&^severityMask == syslog.LOG_AUTH {
		w = s.auth
	}
	switch p & severityMask {
	case syslog.LOG_ERR:
		w.Err(line)
	case syslog.LOG_WARNING:
		w.Warning(line)
	case syslog.LOG_DEBUG:
		w.Debug(line)
	default:
		w.Info(line)
	}
}

// journalSink writes to systemd's journal with its fields, see
// systemd.journal-fields(7).
type journalSink struct{ name string }

func (s journalSink) write(p syslog.Priority, line string) {
	journal.Send(line, journal.Priority(p&severityMask), map[string]string{
		"SYSLOG_IDENTIFIER": s.name,
		"SYSLOG_FACILITY":   fmt.Sprint(int(p >> 3)),
	})
}

// newLogger returns a slog.Logger whose records go to s as one line each.
func newLogger(s sink, debug bool) *slog.Logger {
	level := slog.LevelInfo
	if debug {
		level = slog.LevelDebug
	}
	return slog.New(&lineHandler{sink: s, level: level})
}

// lineHandler writes a record as its message followed by its attributes.
type lineHandler struct {
	sink  sink
	level slog.Level
	attrs []slog.Attr
}

func (h *lineHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

func (h *lineHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString(r.Message)
	for _, a := range h.attrs {
		appendAttr(&b, a)
	}
	r.Attrs(func(a slog.Attr) bool {
		appendAttr(&b, a)
		return true
	})
	h.sink.write(syslog.LOG_DAEMON|severity(r.Level), b.String())
	return nil
}

func appendAttr(b *strings.Builder, a slog.Attr) {
	v := a.Value.Resolve().String()
	if strings.ContainsAny(v, " \"=\n\t") || v == "" {
		v = fmt.Sprintf("%q", v)
	}
	fmt.Fprintf(b, " %s=%s", a.Key, v)
}

func severity(l slog.Level) syslog.Priority {
	switch {
	case l >= slog.LevelError:
		return syslog.LOG_ERR
	case l >= slog.LevelWarn:
		return syslog.LOG_WARNING
	case l >= slog.LevelInfo:
		return syslog.LOG_INFO
	}
	return syslog.LOG_DEBUG
}

func (h *lineHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	own := *h
	own.attrs = append(append([]slog.Attr(nil), h.attrs...), attrs...)
	return &own
}

// WithGroup is there for the interface; nothing here logs groups.
func (h *lineHandler) WithGroup(string) slog.Handler { return h }
