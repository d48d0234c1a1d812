// Package rollback changes the firewall, and the files that say what it should
// be, on trial: unless somebody confirms in time, what was there before comes
// back.
//
// A trial is written down before anything changes, and a keeper waits for its
// end in a process of its own (Keep, started by StartKeeper), so that it ends as
// it should whatever becomes of the process that began it, or of its terminal.
// Both, and whoever confirms, take a lock on the folder of the record.
package rollback

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"rpcward/internal/accessfile"
	"rpcward/internal/firewall"
	"rpcward/internal/ruleset"
)

// Errors that say why there is nothing to begin, or nothing to confirm.
var (
	ErrPending  = errors.New("an earlier change is still on trial")
	ErrNone     = errors.New("no change is on trial")
	ErrForeign  = errors.New("somebody else changed what is in the kernel, so that it could not be brought back")
	ErrNoKeeper = errors.New("the process that would take the change back does not start")
)

// Book is where trials are written down.
type Book struct {
	// Dir is a folder that belongs to the user alone; it is made if need be.
	Dir string
	// Open opens a backend of the firewall by name.
	Open func(backend string) (firewall.Firewall, error)
}

// Dir is where the command line keeps its Book. It must not outlive a reboot,
// as the firewall does not.
const Dir = "/run/rpcward-firewall"

// Change is what is to be tried.
type Change struct {
	Firewall firewall.Firewall
	Desired  *ruleset.State
	Files    []accessfile.Replacement
	// Wait is how long it is on trial; 0 makes it final at once.
	Wait time.Duration
	// StartKeeper starts a process that calls Keep for the trial with that id.
	StartKeeper func(id string) error
}

// Try makes a change, on trial if it has a Wait, and closes its Firewall. On any
// error, all is as it was before, as far as the error does not say otherwise.
func (b *Book) Try(c Change) (*Trial, error) {
	unlock, err := b.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	defer c.Firewall.Close() // first: the next one must not take us for a guard
	if last, err := b.read(); err != nil && !errors.Is(err, ErrNone) {
		return nil, err
	} else if err == nil && last.State == Pending {
		return last, ErrPending
	}
	before, err := c.Firewall.Read()
	if err != nil {
		return nil, fmt.Errorf("reading the firewall: %w", err)
	}
	if c.Wait > 0 && !restorable(before) {
		return nil, ErrForeign
	}
	t := begin(&c, before)
	if err := b.write(t); err != nil {
		return nil, err
	}
	if c.Wait > 0 {
		if err := b.startKeeper(c.StartKeeper, t.ID); err != nil {
			return nil, errors.Join(err, b.end(t, Failed, "not begun: "+err.Error()))
		}
	}
	if err := t.carryOut(&c); err != nil {
		backErr := t.restore(c.Firewall)
		if backErr == nil {
			return nil, errors.Join(err, b.end(t, Failed, "failed, and taken back: "+err.Error()))
		}
		// If it is on trial it stays so: the keeper tries again.
		t.Outcome = fmt.Sprintf("failed: %v; taking it back: %v", err, backErr)
		return nil, errors.Join(fmt.Errorf("%w; taking it back: %w", err, backErr), b.write(t))
	}
	if c.Wait > 0 {
		return t, b.write(t)
	}
	return t, b.end(t, Final, "in force since then")
}

func begin(c *Change, before *ruleset.State) *Trial {
	now := time.Now()
	t := &Trial{
		ID: rand.Text(), State: Pending, Backend: c.Firewall.Name(), Before: toRecord(before),
		Began: now, Due: now.Add(c.Wait), DueBoot: sinceBoot() + c.Wait,
	}
	if c.Wait == 0 {
		t.State = Final
	}
	for _, f := range c.Files {
		_, err := os.Stat(f.Path)
		t.Files = append(t.Files, File{Replacement: f, Missing: errors.Is(err, fs.ErrNotExist)})
	}
	return t
}

// restorable reports whether Apply or Remove can bring a state back: others can
// put into the kernel what we can't.
func restorable(s *ruleset.State) bool {
	if s.Base == ruleset.WrongBase || len(s.Strays) > 0 {
		return false
	}
	for _, set := range s.Sets {
		if set == nil {
			return false
		}
	}
	for _, c := range s.Chains {
		if c.Set == ruleset.Unknown {
			return false
		}
	}
	for _, name := range s.Ports {
		if _, there := s.Chains[name]; !there {
			return false
		}
	}
	return true
}

// carryOut makes the change, and looks whether it is there.
func (t *Trial) carryOut(c *Change) error {
	for i := range t.Files {
		var err error
		if t.Files[i].Kept, err = t.Files[i].Replace(); err != nil {
			return err
		}
	}
	if _, err := c.Firewall.Apply(c.Desired); err != nil {
		return fmt.Errorf("changing the firewall: %w", err)
	}
	return expect(c.Firewall, c.Desired)
}

// expect returns an error if the kernel does not hold want.
func expect(fw firewall.Firewall, want *ruleset.State) error {
	now, err := fw.Read()
	if err != nil {
		return fmt.Errorf("reading the firewall: %w", err)
	}
	if !now.Equal(want) {
		return fmt.Errorf("the firewall is not as it should be now: %v", ruleset.Diff(now, want))
	}
	return nil
}

// restore brings back what was there before, and looks whether it is there.
func (t *Trial) restore(fw firewall.Firewall) error {
	before := t.Before.state()
	fw.Forget()
	var err error
	if before.Base == ruleset.GoodBase {
		_, err = fw.Apply(before)
	} else {
		err = fw.Remove()
	}
	if err == nil {
		err = expect(fw, before)
	}
	return errors.Join(err, t.restoreFiles())
}

// Confirm ends the trial that is pending: the change stays. The error is ErrNone
// if there is none; then the last one, if any, is returned too.
func (b *Book) Confirm() (*Trial, error) {
	return b.pending("", func(t *Trial) error { return b.end(t, Confirmed, "confirmed") })
}

// Back ends the trial that is pending by taking the change back, for a reason.
// With an id, only that one. The error is ErrNone as in Confirm.
func (b *Book) Back(id, why string) (*Trial, error) {
	return b.pending(id, func(t *Trial) error { return b.takeBack(t, why) })
}

// pending ends the trial that is pending, if it has that id or any will do.
func (b *Book) pending(id string, end func(*Trial) error) (*Trial, error) {
	unlock, err := b.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	t, err := b.read()
	switch {
	case err != nil:
		return nil, err
	case t.State != Pending, id != "" && t.ID != id:
		return t, ErrNone
	}
	return t, end(t)
}

// takeBack restores and writes the outcome down.
func (b *Book) takeBack(t *Trial, why string) error {
	fw, err := b.Open(t.Backend)
	if err == nil {
		defer fw.Close()
		err = t.restore(fw)
	}
	if err != nil {
		// It stays pending: somebody may try again.
		t.Outcome = "could not be taken back: " + err.Error()
		return errors.Join(fmt.Errorf("taking the change back: %w", err), b.write(t))
	}
	return b.end(t, RolledBack, why+": what was there before is in force again, which was verified")
}

// Calm calls look while nobody is in the middle of a change: iptables-save, for
// one, fails if the rules change while it reads.
func (b *Book) Calm(look func() error) error {
	unlock, err := b.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return look()
}

// Drop ends a trial because something else has been put in the place of what
// was tried, so that there is nothing to bring back.
func (b *Book) Drop(why string, do func() error) error {
	unlock, err := b.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if err := do(); err != nil {
		return err
	}
	t, err := b.read()
	if errors.Is(err, ErrNone) || err == nil && t.State != Pending {
		return nil
	}
	if err != nil {
		return err
	}
	return b.end(t, Dropped, why)
}

const (
	lookEvery = 200 * time.Millisecond // whether the trial is still pending
	tries     = 60                     // to take a change back
	tryEvery  = time.Second
)

// Keep waits until the trial with that id is due and takes it back, unless it
// ends before. The log is told what came of it.
func (b *Book) Keep(ctx context.Context, id string, log *slog.Logger) error {
	release, err := b.keeping(id)
	if err != nil {
		return err
	}
	defer release()
	why := "nobody confirmed in time"
	switch due, err := b.await(ctx, id); {
	case ctx.Err() != nil: // as at the shutdown of the host, after which files would stay
		why, ctx = "it was not confirmed before its keeper had to end", context.WithoutCancel(ctx)
	case err != nil || !due:
		return err
	}
	for range tries {
		var t *Trial
		t, err = b.Back(id, why)
		if errors.Is(err, ErrNone) {
			return nil // confirmed at the last moment
		}
		if err == nil {
			log.WarnContext(ctx, "firewall: "+t.Outcome)
			return nil
		}
		log.ErrorContext(ctx, "firewall: the change is not taken back yet", "err", err)
		if err := sleep(ctx, tryEvery); err != nil {
			return err
		}
	}
	return err
}

// await waits until the trial is due, and reports whether it is: false when it
// is not pending any more.
func (b *Book) await(ctx context.Context, id string) (bool, error) {
	for {
		t, err := b.read()
		if err != nil {
			return false, err
		}
		if t.ID != id || t.State != Pending {
			return false, nil
		}
		left := t.DueBoot - sinceBoot()
		if left <= 0 {
			return true, nil
		}
		if err := sleep(ctx, min(left, lookEvery)); err != nil {
			return false, err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sinceBoot is the time that no change of the clock touches, and that goes on
// while the machine sleeps.
func sinceBoot() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(err) // there since Linux 2.6.39
	}
	return time.Duration(t.Nano())
}
