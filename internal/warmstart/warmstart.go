// Package warmstart keeps the registry where a crash or a restart does not
// reach it, and reads and writes the files in which rpcbind does so.
//
// Our own state is one file with a checksum, replaced as a whole. rpcbind's
// files have none, and it removes them when it has read them. Which to believe
// after a change from one program to the other is told by their times:
//
//	before                             our state   rpcbind.xdr   taken
//	rpcbind stopped                    none        there         rpcbind.xdr
//	rpcward stopped                    newer       older         our state
//	rpcward killed                     newer       older, none   our state
//	rpcward, then rpcbind stopped      older       newer         rpcbind.xdr
//	rpcward, then rpcbind -w killed    there       none          our state, from before rpcbind ran
//	reboot                             other boot  none          nothing
//
// A Dir is used by one goroutine at a time. It goes on working after the
// process has given up the rights that Open needed.
package warmstart

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rpcward/internal/registry"
)

// Names of files.
const (
	stateFile   = "registrations"
	tempSuffix  = ".new"
	rpcbindFile = "rpcbind.xdr" // rpcbind's list of versions 3 and 4
	portmapFile = "portmap.xdr" // rpcbind's list of version 2
)

// maxFile is the longest file in bytes that is read.
const maxFile = 64 << 20

// Options say who will use the folders.
type Options struct {
	UID, GID  int    // the user that the process works as later; its folder is given to it
	ImportDir string // rpcbind's folder, "" for none
}

// Dir is a folder for our state, and rpcbind's folder beside it.
type Dir struct {
	own      *os.Root
	ownDir   *os.File // to flush renames
	rpcbind  *os.Root // nil if there is none that can be trusted
	options  Options
	notes    []string
	imported []string // rpcbind's files that are not needed once our state is saved
	keep     bool     // they hold what could not be taken over
	buf      []byte
}

// Open opens the state folder, making it if it is not there. A folder that
// others than root and the given user can change is refused.
func Open(dir string, o Options) (*Dir, error) {
	d := &Dir{options: o}
	var err error
	if d.own, err = openFolder(dir, o); err != nil {
		return nil, err
	}
	if d.ownDir, err = d.own.Open("."); err != nil {
		d.own.Close()
		return nil, err
	}
	if err := d.give(); err != nil {
		d.Close()
		return nil, err
	}
	if o.ImportDir != "" {
		if d.rpcbind, err = openFolder(o.ImportDir, o); err != nil {
			d.note("rpcbind's warm start files are not used: %v", err)
		}
	}
	return d, nil
}

// Close releases the folders.
func (d *Dir) Close() error {
	err := errors.Join(d.own.Close(), d.ownDir.Close())
	if d.rpcbind != nil {
		err = errors.Join(err, d.rpcbind.Close())
	}
	return err
}

func (d *Dir) note(format string, args ...any) { d.notes = append(d.notes, fmt.Sprintf(format, args...)) }

// openFolder makes and opens a folder, refusing symbolic links and folders
// that strangers may write to: what is read there is believed.
func openFolder(dir string, o Options) (*os.Root, error) {
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	} else if err == nil {
		if err := chown(dir, o); err != nil {
			return nil, err
		}
	}
	info, err := os.Lstat(dir)
	switch {
	case err != nil:
		return nil, err
	case !info.IsDir():
		return nil, fmt.Errorf("%s is not a folder", dir)
	case info.Mode().Perm()&0o022 != 0:
		return nil, fmt.Errorf("%s can be written to by others (mode %04o): take that right away with chmod go-w", dir, info.Mode().Perm())
	}
	if owner := ownerOf(info); !o.trusts(owner) {
		return nil, fmt.Errorf("%s belongs to user %d, who is neither root nor user %d", dir, owner, o.UID)
	}
	return os.OpenRoot(dir)
}

// firstUser is the first number of a person's account; lower ones are the
// system's services (login.defs(5), UID_MIN).
const firstUser = 1000

// trusts reports whether what uid left for us is believed: root, the service
// itself, and the users that rpcbind may have worked as.
func (o Options) trusts(uid int) bool {
	return uid == o.UID || uid == os.Geteuid() || uid < firstUser
}

func ownerOf(info fs.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Uid) }

// chown gives a folder that we made to the user who will write to it.
func chown(dir string, o Options) error {
	if os.Geteuid() != 0 {
		return nil
	}
	return os.Chown(dir, o.UID, o.GID)
}

// give hands our folder and our state, which may be from a time under another
// user, to the user who will write them.
func (d *Dir) give() error {
	if os.Geteuid() != 0 {
		return unix.Faccessat(int(d.ownDir.Fd()), ".", unix.W_OK, 0)
	}
	if err := d.ownDir.Chown(d.options.UID, d.options.GID); err != nil {
		return err
	}
	err := d.own.Lchown(stateFile, d.options.UID, d.options.GID)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Loaded is what was found.
type Loaded struct {
	Registrations []registry.Registration // without the port mapper's own
	Source        string                  // the file that they are from, "" if none
	Notes         []string                // what an admin should know
}

// Load reads our state, or what rpcbind left if that is newer. It returns an
// error only if a file is there and can't be read for a reason that may pass;
// what is corrupt is set aside and named in the notes.
func (d *Dir) Load() (Loaded, error) {
	ownTime, own, err := d.loadOwn()
	if err != nil {
		return Loaded{}, err
	}
	l := Loaded{Registrations: own}
	if own != nil {
		l.Source = d.own.Name() + "/" + stateFile
	}
	if name, regs, ok := d.loadRpcbind(ownTime); ok {
		l.Registrations, l.Source = regs, d.rpcbind.Name()+"/"+name
	}
	l.Notes = d.notes
	d.notes = nil
	return l, nil
}

// loadOwn returns our state and its time; nil if there is none to take.
func (d *Dir) loadOwn() (time.Time, []registry.Registration, error) {
	d.own.Remove(stateFile + tempSuffix) // left by a crash, if at all
	data, mtime, err := d.read(d.own, stateFile)
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, nil, nil
	}
	if err != nil {
		return time.Time{}, nil, err
	}
	regs, err := decodeState(data, bootID())
	switch {
	case errors.Is(err, errOtherBoot):
		d.note("%s/%s is from before this host was started and is not used", d.own.Name(), stateFile)
		return time.Time{}, nil, nil
	case err != nil:
		d.setAside(d.own, stateFile, err)
		return time.Time{}, nil, nil
	}
	return mtime, regs, nil
}

// loadRpcbind returns what rpcbind left after the given time.
func (d *Dir) loadRpcbind(after time.Time) (string, []registry.Registration, bool) {
	if d.rpcbind == nil {
		return "", nil, false
	}
	for _, f := range []struct {
		name   string
		decode func([]byte) ([]registry.Registration, []string, error)
	}{{rpcbindFile, decodeRpcbind}, {portmapFile, decodePortmap}} {
		data, mtime, err := d.read(d.rpcbind, f.name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			d.note("%s/%s is not used: %v", d.rpcbind.Name(), f.name, err)
			continue
		}
		if !mtime.After(after) {
			return "", nil, false
		}
		regs, left, err := f.decode(data)
		if err != nil {
			d.setAside(d.rpcbind, f.name, err)
			continue
		}
		for _, what := range left {
			d.note("%s/%s: not taken over: %s", d.rpcbind.Name(), f.name, what)
		}
		d.keep = len(left) > 0
		d.imported = []string{rpcbindFile, portmapFile}
		return f.name, regs, true
	}
	return "", nil, false
}

// read reads a file that must be a plain one of somebody we trust.
func (d *Dir) read(root *os.Root, name string) ([]byte, time.Time, error) {
	link, err := root.Lstat(name)
	if err != nil {
		return nil, time.Time{}, err
	}
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, time.Time{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, time.Time{}, err
	case !info.Mode().IsRegular() || !os.SameFile(link, info):
		return nil, time.Time{}, fmt.Errorf("%s is not a plain file", name)
	case !d.options.trusts(ownerOf(info)) || info.Mode().Perm()&0o022 != 0:
		return nil, time.Time{}, fmt.Errorf("%s may have been written by somebody else (user %d, mode %04o)", name, ownerOf(info), info.Mode().Perm())
	case info.Size() > maxFile:
		return nil, time.Time{}, fmt.Errorf("%s has %d bytes, more than %d", name, info.Size(), maxFile)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile))
	return data, info.ModTime(), err
}

// setAside renames a corrupt file, so that nothing is lost and the next start
// does not meet it again.
func (d *Dir) setAside(root *os.Root, name string, why error) {
	for n := 1; ; n++ {
		to := fmt.Sprintf("%s.corrupt-%d", name, n)
		if _, err := root.Lstat(to); err == nil {
			continue
		}
		if err := root.Rename(name, to); err != nil {
			d.note("%s/%s is corrupt (%v) and can't be renamed: %v", root.Name(), name, why, err)
		} else {
			d.note("%s/%s is corrupt (%v); it is now %s", root.Name(), name, why, to)
		}
		return
	}
}

// Save replaces our state by s, so that it survives a crash of the process and
// of the host. It implements registry.Store.
func (d *Dir) Save(s *registry.Snapshot) error {
	d.buf = appendState(d.buf[:0], s, bootID())
	if err := replace(d.own, stateFile, d.buf); err != nil {
		return fmt.Errorf("saving registrations in %s: %w", d.own.Name(), err)
	}
	if err := d.ownDir.Sync(); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("saving registrations in %s: %w", d.own.Name(), err)
	}
	d.dropImported()
	return nil
}

// replace writes name anew, all of it or nothing.
func replace(root *os.Root, name string, data []byte) error {
	temp := name + tempSuffix
	root.Remove(temp)
	f, err := root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = root.Rename(temp, name)
	}
	if err != nil {
		root.Remove(temp)
	}
	return err
}

// dropImported removes rpcbind's files, now that our own state has what they
// had. What we could not take over is kept under another name.
func (d *Dir) dropImported() {
	for _, name := range d.imported {
		if d.keep {
			d.rpcbind.Rename(name, name+".imported")
		} else {
			d.rpcbind.Remove(name) // if it stays, it is older than our state
		}
	}
	d.imported = nil
}

// Export writes s into rpcbind's files too, so that rpcbind -w can go on from
// here, and leaves our state newer than those.
func (d *Dir) Export(s *registry.Snapshot) error {
	if d.rpcbind == nil {
		return nil
	}
	if err := replace(d.rpcbind, rpcbindFile, appendRpcbind(nil, s)); err != nil {
		return err
	}
	if err := replace(d.rpcbind, portmapFile, appendPortmap(nil, s)); err != nil {
		return err
	}
	now := time.Now()
	err := d.own.Chtimes(stateFile, now, now)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// bootID tells one start of this host from another, random(4); "-" if the
// kernel does not say.
var bootID = func() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	id := string(bytes.TrimSpace(data))
	if err != nil || id == "" || slices.Contains([]byte(id), ' ') {
		return "-"
	}
	return id
}
