package policyfile

import (
	"context"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// How often the files are looked at besides.
const (
	pollBlind   = time.Second      // where the kernel does not tell of changes
	pollWatched = 10 * time.Second // where it does; file systems of other hosts may not
)

// Run reads the files again whenever they change, until ctx is done. Call it
// once.
func (w *Watcher) Run(ctx context.Context) {
	l := &loop{watcher: w, timer: time.NewTimer(time.Hour)}
	defer l.timer.Stop()
	var events <-chan fsnotify.Event
	var failures <-chan error
	if notify, err := fsnotify.NewWatcher(); err != nil {
		w.log.WarnContext(ctx, eventPolling, "err", err.Error())
	} else {
		defer notify.Close()
		l.notify, events, failures = notify, notify.Events, notify.Errors
	}
	l.watch()
	poll := time.NewTicker(pollBlind)
	defer poll.Stop()
	for {
		select {
		case e := <-events:
			if l.concerns(e.Name) {
				l.start()
			}
		case <-failures: // such as a queue that ran over: look at the files
			l.start()
		case <-poll.C:
			l.poll()
		case <-l.timer.C:
			l.ripe(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// loop is what Run knows between events.
type loop struct {
	watcher *Watcher
	notify  *fsnotify.Watcher // nil if the kernel cannot tell of changes
	watched map[string]bool   // what is watched: directories and files
	places  map[string]bool   // paths whose change concerns the policy
	blind   bool              // not everything could be watched
	polled  time.Time

	timer *time.Timer // reads the files when it fires
	first time.Time   // of the changes since they were last read; zero if none
	doubt time.Time   // until when what looks half written is not believed
}

// watch (re)builds what is watched. It is called after each reading, since the
// files may be other files, reached by other links, than before.
func (l *loop) watch() {
	l.places = make(map[string]bool)
	wanted := make(map[string]bool)
	for _, path := range l.watcher.paths {
		links, file := places(path)
		for _, place := range append(links, file) {
			l.places[place] = true
			wanted[filepath.Dir(place)] = true // tells of names that come, go and change
		}
		wanted[file] = true // tells of a bind-mounted file that changes elsewhere
	}
	l.blind = l.notify == nil
	if l.blind {
		return
	}
	for path := range l.watched {
		if !wanted[path] {
			l.notify.Remove(path) // fails if the kernel has removed it before
		}
	}
	for path := range wanted {
		if err := l.notify.Add(path); err != nil && !l.places[path] {
			l.blind = true
		}
	}
	l.watched = wanted
	if l.watcher.changed() { // before it was watched
		l.start()
	}
}

// concerns says whether a change of path may concern the policy. A directory
// that is watched reports itself when it is moved or removed.
func (l *loop) concerns(path string) bool { return l.places[path] || l.watched[path] }

// start makes the files be read once they have come to rest.
func (l *loop) start() {
	now := time.Now()
	if l.first.IsZero() {
		l.first = now
	}
	wait := min(settle, time.Until(l.first.Add(longestSettle)))
	l.timer.Reset(max(0, wait))
}

// poll looks at the files without having been told to.
func (l *loop) poll() {
	if !l.blind && time.Since(l.polled) < pollWatched {
		return
	}
	l.polled = time.Now()
	if l.watcher.changed() {
		l.start()
	} else if l.blind {
		l.watch() // a directory that was missing may be there now
	}
}

// ripe reads the files.
func (l *loop) ripe(ctx context.Context) {
	l.first = time.Time{}
	wait := l.watcher.update(ctx, l.doubt.IsZero() || time.Now().Before(l.doubt))
	switch {
	case wait == 0:
		l.doubt = time.Time{}
	case l.doubt.IsZero():
		l.doubt = time.Now().Add(wait)
	}
	l.watch()
	if !l.doubt.IsZero() && l.first.IsZero() {
		l.timer.Reset(max(0, time.Until(l.doubt)))
	}
}
