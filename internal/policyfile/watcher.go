// Package policyfile keeps the policy in force in step with hosts.allow and
// hosts.deny.
//
// A Watcher reads the two files, publishes the policy that they make, and reads
// them again when they change. Only a pair that is readable and has no mistake
// in a rule about the port mapper is taken into use; else the last good policy
// stays in force, and before there was any, this host only. What is wrong is
// logged and kept for Faults.
package policyfile

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"rpcward/hostsaccess"
	"rpcward/internal/policy"
)

// Log messages.
const (
	eventInForce = "policy in force"
	eventFault   = "policy not taken into use, the last good one stays in force"
	eventFinding = "policy"
	eventPolling = "changes of the policy files are noticed with a delay"
)

// Fault is something that keeps the files, as they are, from being in force.
type Fault struct {
	Message string // with file, line and column where known
	Hint    string // what to do; may be empty
}

// Watcher holds the policy in force. Current and Faults may be called at any
// time from any goroutine; Run keeps the policy up to date.
type Watcher struct {
	paths   [2]string // hosts.allow, hosts.deny
	options policy.Options
	log     *slog.Logger
	current atomic.Pointer[policy.Policy]

	mu       sync.Mutex
	marks    [2]mark  // of what was read last
	read     *reading // last, whether good or not
	inForce  [2]*hostsaccess.File
	taken    chan struct{} // closed when the next pair is in force
	faults   []Fault
	findings []hostsaccess.Diagnostic
}

// reading is what was found in the two files at one time.
type reading struct {
	data [2]string
	errs [2]error
}

func (r *reading) failed() bool { return r.errs != [2]error{} }

func (r *reading) same(s *reading) bool {
	return r.data == s.data && text(r.errs) == text(s.errs)
}

func text(errs [2]error) string {
	if err := errors.Join(errs[:]...); err != nil {
		return err.Error()
	}
	return ""
}

// New reads the files and puts a policy in force. It works without Run, but
// then only Reload notices changes. A nil log discards.
func New(allow, deny string, o policy.Options, log *slog.Logger) *Watcher {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	w := &Watcher{paths: [2]string{allow, deny}, options: o, log: log, taken: make(chan struct{})}
	w.current.Store(policy.BuiltIn())
	w.mu.Lock()
	defer w.mu.Unlock()
	w.take(context.Background(), w.readBoth())
	return w
}

// Current returns the policy in force.
func (w *Watcher) Current() *policy.Policy { return w.current.Load() }

// Files returns the files whose policy is in force, nil before there were any
// that could be used, and a channel that is closed when others are.
func (w *Watcher) Files() (allow, deny *hostsaccess.File, changed <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.inForce[0], w.inForce[1], w.taken
}

// Faults returns why the files, as they are, are not in force; none if they are.
func (w *Watcher) Faults() []Fault {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]Fault(nil), w.faults...)
}

// Findings returns all that was found in the files when they were last read.
func (w *Watcher) Findings() []hostsaccess.Diagnostic {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]hostsaccess.Diagnostic(nil), w.findings...)
}

// Reload reads the files now, and takes them as they are even where an edit
// seems to be under way. The context is for the log.
func (w *Watcher) Reload(ctx context.Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.take(ctx, w.readBoth())
}

// readBoth reads both files, and remembers their marks from before.
func (w *Watcher) readBoth() *reading {
	r := &reading{}
	for i, path := range w.paths {
		w.marks[i] = markOf(path)
		var data []byte
		data, r.errs[i] = readFile(path)
		r.data[i] = string(data)
	}
	return r
}

// changed says whether the files look other than when they were last read.
func (w *Watcher) changed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, path := range w.paths {
		if markOf(path) != w.marks[i] {
			return true
		}
	}
	return false
}

// take makes a policy of what was read and puts it in force if it is good.
func (w *Watcher) take(ctx context.Context, r *reading) {
	if w.read != nil && w.read.same(r) {
		return
	}
	w.read, w.faults = r, nil
	if r.failed() {
		for _, err := range r.errs {
			w.fault(ctx, err)
		}
		return
	}
	allow := hostsaccess.Parse(w.paths[0], []byte(r.data[0]))
	deny := hostsaccess.Parse(w.paths[1], []byte(r.data[1]))
	p, findings, err := policy.New(allow, deny, w.options)
	w.findings = findings
	w.logFindings(ctx)
	if err != nil {
		w.fault(ctx, err)
		return
	}
	w.inForce = [2]*hostsaccess.File{allow, deny}
	w.current.Store(p)
	close(w.taken)
	w.taken = make(chan struct{})
	w.log.InfoContext(ctx, eventInForce, "answering", p.Summary())
}

// fault keeps and logs why the policy in force stays as it is, if err says so.
func (w *Watcher) fault(ctx context.Context, err error) {
	if err == nil {
		return
	}
	f := Fault{Message: err.Error()}
	var wrong *policy.RuleError
	if errors.As(err, &wrong) {
		f.Hint = wrong.Hint
	}
	w.faults = append(w.faults, f)
	args := []any{"err", f.Message, "answering", w.Current().Summary()}
	if f.Hint != "" {
		args = append(args, "hint", f.Hint)
	}
	w.log.ErrorContext(ctx, eventFault, args...)
}

// mostLogged bounds the findings logged for one reading; check shows all.
const mostLogged = 20

func (w *Watcher) logFindings(ctx context.Context) {
	for i, d := range w.findings {
		if i == mostLogged {
			w.log.WarnContext(ctx, eventFinding, "more", len(w.findings)-i)
			return
		}
		args := []any{"finding", d.String(), "consequence", d.Consequence}
		if d.Hint != "" {
			args = append(args, "hint", d.Hint)
		}
		w.log.WarnContext(ctx, eventFinding, args...)
	}
}

// Waiting times.
const (
	// settle is how long the files must be at rest before they are read.
	settle = 50 * time.Millisecond
	// longestSettle bounds that for files that never come to rest.
	longestSettle = 500 * time.Millisecond
	// grace is how long a file that seems half written may stay so before it
	// is believed.
	grace = time.Second
)

// update reads the files after a change, and says how long to wait before
// they are believed, 0 if they were taken.
func (w *Watcher) update(ctx context.Context, patience bool) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.readBoth()
	if patience && !r.failed() && w.halfWritten(r) {
		return grace
	}
	w.take(ctx, r)
	return 0
}

// halfWritten says whether what was read may be the first half of an edit that
// would open something when believed: an editor that empties the file and
// writes it anew, or moves it away first. That is so if a file is cut off
// where it had rules that refuse, or in the middle of a line.
func (w *Watcher) halfWritten(r *reading) bool {
	for i, data := range r.data {
		if data == w.read.data[i] {
			continue
		}
		if data != "" && data[len(data)-1] != '\n' {
			return true
		}
		if f := w.inForce[i]; f != nil && len(data) < len(f.Source) && f.Source[:len(data)] == data && refuses(f, i == 1) {
			return true
		}
	}
	return false
}

// refuses says whether the file has a rule that refuses anybody.
func refuses(f *hostsaccess.File, deny bool) bool {
	if deny {
		return len(f.Rules) > 0
	}
	for _, r := range f.Rules {
		for _, o := range r.Options {
			if o.Name != "allow" {
				return true
			}
		}
	}
	return false
}
