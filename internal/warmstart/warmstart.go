// Package warmstart keeps the registry where a crash or a restart does not
// reach it, and reads and writes the files in which rpcbind does so.
//
// Our own state is one file, to which changes are appended, each with a
// checksum. When it has grown to about twice what is registered it is written
// anew, a little with each change that comes meanwhile, and then replaced as a
// whole.
//
// It survives the end of the process at any moment, by SIGKILL or for want of
// memory, since what was written is the kernel's to keep then. It is not flushed
// to the disk, and so may not survive a power failure: after one no service
// is there any more, and a file from before the kernel started, as its boot_id
// tells, is not used.
//
// rpcbind writes rpcbind.xdr and portmap.xdr when it ends, and with -w
// reads and removes them when it starts. So a file of rpcbind's that is not
// yet in our state is newer than our state. Ours therefore names, by inode,
// size and time of change, the ones that are in it: those that were taken over
// and those that Export wrote. Clocks, which may be set in between, are not
// compared.
//
//	what happened                          our state    rpcbind.xdr      taken
//	rpcbind ended                          none         new              rpcbind.xdr
//	rpcbind was killed                     none         none             nothing
//	 then rpcward was killed
//	  before its first save                none, older  new              rpcbind.xdr
//	  after it, before removing files      there        named            our state
//	  later                                there        none             our state
//	rpcward ended (and exported)           there        named            our state
//	 while it exported it was killed       there        new              rpcbind.xdr, the same list
//	 then rpcbind ran and ended            there        new              rpcbind.xdr
//	 then rpcbind -w ran and was killed    there        none             our state, with a note
//	 then rpcbind ran and was killed       there        named            our state
//	 then rpcward ran without its folder   there        named            our state
//	 then rpcward could not read it        there        named            our state
//	rpcward was killed
//	 then rpcbind ran and ended            there        new              rpcbind.xdr
//	 then rpcbind ran and was killed       there        none             our state
//	 then rpcbind ran and ended
//	  but rpcward could not read its file  there        renamed          our state, with a note
//	the host was started anew              other boot   none, named      nothing
//	 then rpcbind ran and ended            other boot   new              rpcbind.xdr
//
// What a killed rpcbind knew is lost, as it is for rpcbind. portmap.xdr, which
// has only what version 2 can see and no owners, is taken where rpcbind.xdr
// would be but is missing or can't be used. A file that can't be used is renamed,
// never removed. A run that is told not to look into rpcbind's folder does not
// know what is there: what rpcbind left before it counts as newer after it.
//
// A Dir is for one goroutine at a time. It goes on working after the process
// has given up the rights that Open and Load needed.
package warmstart

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"rpcward/internal/registry"
)

// Names of files.
const (
	stateFile   = "registrations"
	rpcbindFile = "rpcbind.xdr" // rpcbind's list of versions 3 and 4
	portmapFile = "portmap.xdr" // rpcbind's list of version 2
)

// rpcbindFiles are in the order in which they are preferred, that of state.seen.
var rpcbindFiles = [...]struct {
	name   string
	decode func([]byte) (registrations, error)
	append func([]byte, *registry.Snapshot) []byte
}{
	{rpcbindFile, decodeRpcbind, appendRpcbind},
	{portmapFile, decodePortmap, appendPortmap},
}

// Options say who will use the folders.
type Options struct {
	UID, GID  int    // the user that the process works as later; its folder is given to it
	ImportDir string // rpcbind's folder, "" for none
}

// Dir is a folder for our state, and rpcbind's folder beside it.
type Dir struct {
	own     *folder
	rpcbind *folder // nil without one that can be used
	boot    string  // read at the start: /proc may be out of reach later
	notes   []string

	seen    [2]fileID // what the state to be saved names
	done    []string  // rpcbind's files that are not needed once our state is saved
	keep    bool      // they hold what we could not take over
	scratch []byte

	journal    *journal    // our file, nil before the first save
	compaction *compaction // what will take its place, or nil
	growTo     int64       // size in bytes at which one begins
	small      int64       // smallFile, or less in tests
	step       int         // stepSize, or less in tests
}

// Open opens the state folder, making it if it is not there, and rpcbind's
// beside it. With root's rights it gives the state folder to the given user.
//
// An error means that nothing can be kept there: because it can't be written
// to, because others than root and that user could write there too, or because
// another rpcward does.
func Open(dir string, o Options) (*Dir, error) {
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	own, err := openFolder(dir, o)
	if err != nil {
		return nil, err
	}
	if err := own.prepare(o); err != nil {
		own.close()
		return nil, err
	}
	d := &Dir{own: own, boot: bootID(), small: smallFile, step: stepSize}
	if o.ImportDir != "" {
		d.openRpcbind(o)
	}
	return d, nil
}

// openRpcbind opens rpcbind's folder, making it for a later way back to
// rpcbind while that may still be possible. An ordinary user who could not go
// that way is not told about it, unless there is something to take over.
func (d *Dir) openRpcbind(o Options) {
	made := os.Mkdir(o.ImportDir, 0o755) == nil
	f, err := openFolder(o.ImportDir, o)
	if err == nil && made {
		err = f.claim(o)
	}
	root := os.Geteuid() == 0
	switch {
	case err == nil && (root || f.owner == os.Geteuid() || f.id(rpcbindFile) != fileID{}):
		d.rpcbind = f
		return
	case err != nil && (root || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission)):
		d.note("rpcbind's warm start files are not used: %v", err)
	}
	if f != nil {
		f.close()
	}
}

// Close releases the folders.
func (d *Dir) Close() error {
	d.abandon(d.compaction)
	var err error
	if d.journal != nil {
		err = d.journal.file.Close()
	}
	err = errors.Join(err, d.own.close())
	if d.rpcbind != nil {
		err = errors.Join(err, d.rpcbind.close())
	}
	return err
}

func (d *Dir) note(format string, args ...any) {
	d.notes = append(d.notes, fmt.Sprintf(format, args...))
}

// Loaded is what was found.
type Loaded struct {
	Registrations []registry.Registration // without the port mapper's own
	Source        string                  // path of the file that they are from, "" if none
	Notes         []string                // what an admin should know
}

// Load reads our state, or what rpcbind left if that is newer. What can't be
// read is set aside and named in the notes. An error means that it can't be
// set aside either, so that the next save would destroy it.
//
// Call it before rights are given up: rpcbind's files may be of another user.
func (d *Dir) Load() (Loaded, error) {
	st, err := d.loadOwn()
	if err != nil {
		return Loaded{}, err
	}
	var l Loaded
	if regs := st.services.fit; len(regs) > 0 {
		l.Registrations, l.Source = regs, d.own.path+"/"+stateFile
	}
	d.seen = st.seen // also of files that this run can't or doesn't look at
	if d.rpcbind != nil {
		d.loadRpcbind(&st, &l)
	}
	l.Notes, d.notes = d.notes, nil
	return l, nil
}

// loadOwn returns our state, the zero state if there is none. Services that
// were registered before the host was started anew are not there any more.
func (d *Dir) loadOwn() (state, error) {
	file, _, err := d.own.open(stateFile)
	if errors.Is(err, fs.ErrNotExist) {
		return state{}, nil
	}
	var st state
	if err == nil {
		st, err = readState(io.LimitReader(file, maxFile))
		file.Close()
	}
	if err != nil {
		return state{}, d.setAside(d.own, stateFile, err)
	}
	if st.lost > 0 {
		d.noteLost(st.lost)
	}
	d.noteUnfit(d.own, stateFile, &st.services)
	if st.boot != d.boot {
		if len(st.services.fit) > 0 {
			d.note("%s/%s is from before this host was started and is not used", d.own.path, stateFile)
		}
		st.services = registrations{}
	}
	return st, nil
}

// loadRpcbind puts what rpcbind left into l, if it is not in st already, and
// marks its files to be removed when our state is saved.
func (d *Dir) loadRpcbind(st *state, l *Loaded) {
	settled := false // which of all to take
	for i, file := range rpcbindFiles {
		data, id, err := d.rpcbind.read(file.name)
		if errors.Is(err, fs.ErrNotExist) {
			if i == 0 && st.exported && st.boot == d.boot {
				d.note("%s/%s is gone: rpcbind may have run since we did, and saved nothing", d.rpcbind.path, file.name)
			}
			continue
		}
		if err == nil && id != st.seen[i] && !settled {
			err = d.takeOver(i, data, l)
		}
		if err != nil {
			d.refuse(i, err)
			continue
		}
		settled = true
		d.seen[i] = id
		d.done = append(d.done, file.name)
	}
}

// takeOver puts what one of rpcbind's files has into l.
func (d *Dir) takeOver(i int, data []byte, l *Loaded) error {
	file := rpcbindFiles[i]
	list, err := file.decode(data)
	if err != nil {
		return err
	}
	d.noteUnfit(d.rpcbind, file.name, &list)
	d.keep = list.unfit > 0
	l.Registrations, l.Source = list.fit, d.rpcbind.path+"/"+file.name
	return nil
}

// refuse goes on without one of rpcbind's files. One that is not in our state
// must not stay under its name: our state is newer from now on, and would be
// taken for older as soon as somebody mends the file. One that is may stay.
func (d *Dir) refuse(i int, why error) {
	name := rpcbindFiles[i].name
	if d.rpcbind.id(name) == d.seen[i] {
		d.note("%s/%s is not used: %v", d.rpcbind.path, name, why)
	} else if err := d.setAside(d.rpcbind, name, why); err != nil {
		d.note("%v", err)
	}
}

func (d *Dir) noteUnfit(f *folder, name string, list *registrations) {
	for _, why := range list.why {
		d.note("%s/%s: not taken over: %s", f.path, name, why)
	}
	if more := list.unfit - len(list.why); more > 0 {
		d.note("%s/%s: not taken over: %d more", f.path, name, more)
	}
}

// noteLost says that our file is damaged, and keeps it as it is.
func (d *Dir) noteLost(n int) {
	kept, err := d.own.keep(stateFile, "corrupt")
	if err != nil {
		kept = fmt.Sprintf("not kept: %v", err)
	}
	d.note("%s/%s is damaged: at least %d changes in it can't be read, and what is registered now may lack them; "+
		"services can be started again to register again; the file is kept as %s", d.own.path, stateFile, n, kept)
}

// setAside renames a file that can't be used, so that nothing is lost and the
// next start does not meet it again.
func (d *Dir) setAside(f *folder, name string, why error) error {
	to, err := f.setAside(name, "corrupt")
	if err != nil {
		return fmt.Errorf("%s/%s can't be used (%w), nor renamed: %w", f.path, name, why, err)
	}
	d.note("%s/%s can't be used (%v); it is now %s", f.path, name, why, to)
	return nil
}

// Save appends changes to our state, which make it s, so that they survive a
// crash of the process. Without any it writes s anew. It implements
// registry.Store.
//
// After an error our file is what it was, or has the beginning of what could not
// be written behind it, which counts for nothing and is not written over.
func (d *Dir) Save(changes []registry.Change, s *registry.Snapshot) error {
	var err error
	if len(changes) == 0 || !d.goodJournal() {
		err = d.rewrite(s, false)
	} else if err = d.append(changes); err == nil {
		d.goOn(changes, s)
	}
	if err != nil {
		return fmt.Errorf("saving registrations in %s: %w", d.own.path, err)
	}
	d.dropDone()
	return nil
}

// goodJournal reports whether our file can be appended to: its end is sure,
// there is room, and nobody has changed it or taken it away.
func (d *Dir) goodJournal() bool {
	if d.journal == nil || d.journal.unsure || d.journal.size > maxFile-largeBatch {
		return false
	}
	id := d.own.id(stateFile)
	return id.Inode == d.journal.inode && id.Size == uint64(d.journal.size)
}

// largeBatch is more than is usually saved at once, in bytes.
const largeBatch = 4 << 20

// append appends changes to our file. Where there is no room, a compaction
// gives its own.
func (d *Dir) append(changes []registry.Change) error {
	b, err := d.journal.appendBatch(d.scratch[:0], changes)
	d.scratch = b
	if err != nil {
		return err
	}
	err = d.journal.write(b, len(changes))
	if err != nil && !d.journal.unsure && d.compaction != nil {
		d.abandon(d.compaction)
		err = d.journal.write(b, len(changes))
	}
	return err
}

// dropDone removes rpcbind's files, now that our own state has what they had.
// One that stays all the same is named in our state.
func (d *Dir) dropDone() {
	for _, name := range d.done {
		if d.keep {
			d.rpcbind.setAside(name, "kept")
		} else {
			d.rpcbind.root.Remove(name)
		}
	}
	d.done = nil
}

// Export writes s into rpcbind's files too, so that rpcbind -w can go on from
// here, and names them in our state. Nothing may be saved after it.
func (d *Dir) Export(s *registry.Snapshot) error {
	if d.rpcbind == nil {
		return nil
	}
	if d.keep {
		d.dropDone()
	}
	var failed error
	for i, file := range rpcbindFiles {
		d.scratch = file.append(d.scratch[:0], s)
		if err := d.rpcbind.replace(file.name, d.scratch); err != nil {
			failed = errors.Join(failed, fmt.Errorf("writing %s/%s: %w", d.rpcbind.path, file.name, err))
			continue
		}
		d.seen[i] = d.rpcbind.id(file.name)
	}
	if err := d.rewrite(s, failed == nil); err != nil {
		failed = errors.Join(failed, fmt.Errorf("saving registrations in %s: %w", d.own.path, err))
	}
	return failed
}

// bootID tells one start of this host from another, random(4); "" if the
// kernel does not say.
func bootID() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	id := string(bytes.TrimSpace(data))
	if err != nil || len(id) > maxBoot {
		return ""
	}
	return id
}
