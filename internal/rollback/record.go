package rollback

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"rpcward/internal/accessfile"
	"rpcward/internal/ruleset"
)

// The states of a trial.
const (
	Pending    = "pending"     // waits for its confirmation
	Confirmed  = "confirmed"   // the change stays
	Final      = "final"       // it was never on trial
	RolledBack = "rolled back" // what was there before is there again
	Failed     = "failed"      // the change could not be made
	Dropped    = "dropped"     // something else was done that made it void
)

// Trial is a change, as it is written down.
type Trial struct {
	ID      string        `json:"id"`
	State   string        `json:"state"`
	Outcome string        `json:"outcome,omitempty"` // of the state, for people
	Backend string        `json:"backend"`
	Began   time.Time     `json:"began"`
	Due     time.Time     `json:"due"`      // for people
	DueBoot time.Duration `json:"due_boot"` // since the machine started
	Ended   time.Time     `json:"ended,omitzero"`
	Before  record        `json:"before"`
	Files   []File        `json:"files,omitempty"`
}

// File is a file that is changed too.
type File struct {
	accessfile.Replacement
	Missing bool   // there was none
	Kept    string // where a backup of it is, "" if nowhere
}

// record is a ruleset.State in JSON.
type record struct {
	InPlace bool                      `json:"in_place"`
	Sets    map[string][]netip.Prefix `json:"sets,omitempty"`
	Chains  map[string]ruleset.Chain  `json:"chains,omitempty"`
	Ports   []portRecord              `json:"ports,omitempty"`
}

type portRecord struct {
	ruleset.Port
	Chain string
}

func toRecord(s *ruleset.State) record {
	r := record{InPlace: s.Base == ruleset.GoodBase, Sets: map[string][]netip.Prefix{}, Chains: s.Chains}
	for id, set := range s.Sets {
		r.Sets[id] = append(append([]netip.Prefix{}, set.IPv4()...), set.IPv6()...)
	}
	for _, p := range s.SortedPorts() {
		r.Ports = append(r.Ports, portRecord{p, s.Ports[p]})
	}
	return r
}

func (r *record) state() *ruleset.State {
	s := (&ruleset.State{Chains: r.Chains}).Clone()
	if r.InPlace {
		s.Base = ruleset.GoodBase
	}
	for id, list := range r.Sets {
		s.Sets[id] = ruleset.NewAddresses(list)
	}
	for _, p := range r.Ports {
		s.Ports[p.Port] = p.Chain
	}
	return s
}

// restoreFiles puts the old texts back, the last file first. A file that
// somebody has edited since stays as it is, which is an error.
func (t *Trial) restoreFiles() error {
	var errs []error
	for i := len(t.Files) - 1; i >= 0; i-- {
		errs = append(errs, t.Files[i].restore())
	}
	return errors.Join(errs...)
}

func (f *File) restore() error {
	now, err := accessfile.ReadFile(f.Path)
	missing := errors.Is(err, fs.ErrNotExist)
	switch {
	case missing && f.Missing, err == nil && string(now) == f.Old && !f.Missing:
		return f.forget() // not replaced, or put back already
	case err == nil && string(now) != f.New:
		return fmt.Errorf("%s is left as it is: %w", f.Path, accessfile.ErrChanged)
	case f.Missing:
		return os.Remove(f.Path)
	}
	back := accessfile.Replacement{Path: f.Path, Old: f.New, New: f.Old}
	if _, err := back.Replace(); err != nil {
		return err
	}
	return f.forget()
}

// forget removes the backup.
func (f *File) forget() error {
	if f.Kept == "" {
		return nil
	}
	if err := os.Remove(f.Kept); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// The files in the folder of a Book.
const (
	recordFile = "trial.json"
	lockFile   = "lock"   // locked by whoever changes anything
	keeperFile = "keeper" // locked by the keeper as long as it runs
)

// prepare makes the folder. What is in it decides what root does, so it must
// be nobody else's.
func (b *Book) prepare() error {
	if err := os.Mkdir(b.Dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("keeping the way back: %w", err)
	}
	var s unix.Stat_t
	if err := unix.Lstat(b.Dir, &s); err != nil {
		return fmt.Errorf("keeping the way back: %s: %w", b.Dir, err)
	}
	if s.Mode&unix.S_IFMT != unix.S_IFDIR || s.Uid != uint32(os.Geteuid()) || s.Mode&0o022 != 0 {
		return fmt.Errorf("keeping the way back: others may write to %s", b.Dir)
	}
	return nil
}

// lock waits until nobody else changes anything.
func (b *Book) lock() (unlock func(), err error) {
	if err := b.prepare(); err != nil {
		return nil, err
	}
	return b.flock(lockFile, unix.LOCK_EX)
}

func (b *Book) flock(name string, how int) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(b.Dir, name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// read returns the last trial, ErrNone if there never was one.
func (b *Book) read() (*Trial, error) {
	data, err := os.ReadFile(filepath.Join(b.Dir, recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNone
	}
	if err != nil {
		return nil, err
	}
	t := new(Trial)
	if err := json.Unmarshal(data, t); err != nil {
		return nil, fmt.Errorf("reading %s: %w", filepath.Join(b.Dir, recordFile), err)
	}
	return t, nil
}

// write replaces the record, so that whoever reads it finds it whole.
func (b *Book) write(t *Trial) error {
	data, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(b.Dir, recordFile)
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return fmt.Errorf("keeping the way back: %w", err)
	}
	return os.Rename(path+".new", path)
}

func (b *Book) end(t *Trial, state, outcome string) error {
	t.State, t.Outcome, t.Ended = state, outcome, time.Now()
	return b.write(t)
}

// Last returns the last trial, and whether a keeper runs. The error is ErrNone
// if there never was a trial.
func (b *Book) Last() (t *Trial, kept bool, err error) {
	if t, err = b.read(); err != nil {
		return nil, false, err
	}
	return t, b.kept(t.ID), nil
}
