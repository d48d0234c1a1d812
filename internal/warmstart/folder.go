package warmstart

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// lockFile is in our folder, and stays: who holds it holds the folder.
const lockFile = stateFile + ".lock"

// writableByOthers are the permissions that no folder or file of ours may have.
const writableByOthers fs.FileMode = 0o022

// maxFile is the longest file in bytes that is read or written. Our own has at
// most 45 MiB when it is written anew, and twice that before it is again.
const maxFile = 128 << 20

// folder is an open folder that strangers can't change. All access is relative
// to the open descriptor, so that neither a renamed folder nor a symbolic link
// leads anywhere else, and rights that the process gives up are not missed.
type folder struct {
	path  string
	root  *os.Root
	dir   *os.File // the folder itself, to flush renames
	owner int
	users []int // whose files are believed

	locked *os.File // the lock file, nil until it is open
}

// openFolder opens a folder that was there or was made just now. What is read
// from it will be believed, hence the checks: CVE-2010-2061 was rpcbind's trust
// in files in /tmp.
func openFolder(path string, o Options) (*folder, error) {
	link, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !link.IsDir() {
		return nil, fmt.Errorf("%s is not a folder", path)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	f := &folder{path: path, root: root}
	if f.dir, err = root.Open("."); err == nil {
		err = f.check(link, o)
	}
	if err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

// check refuses a folder that is not the one at path or that strangers can
// write to. Its owner is nobody strange if only root could make it there.
func (f *folder) check(link fs.FileInfo, o Options) error {
	info, err := f.dir.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(link, info) {
		return fmt.Errorf("%s is not a folder", f.path)
	}
	if mode := info.Mode().Perm(); mode&writableByOthers != 0 {
		return fmt.Errorf("%s can be written to by others (mode %04o): take that right away with chmod go-w", f.path, mode)
	}
	f.owner = ownerOf(info)
	f.users = []int{0, os.Geteuid(), o.UID}
	if !f.trusts(f.owner) {
		if !rootsAlone(filepath.Dir(filepath.Clean(f.path))) {
			return fmt.Errorf("%s belongs to user %d, who is neither root nor user %d", f.path, f.owner, o.UID)
		}
		f.users = append(f.users, f.owner)
	}
	return nil
}

func (f *folder) trusts(uid int) bool {
	for _, u := range f.users {
		if u == uid {
			return true
		}
	}
	return false
}

// rootsAlone reports whether only root can make entries of a folder.
func rootsAlone(path string) bool {
	info, err := os.Stat(path)
	return err == nil && ownerOf(info) == 0 && info.Mode().Perm()&writableByOthers == 0
}

func ownerOf(info fs.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Uid) }

func (f *folder) close() error {
	err := f.root.Close()
	for _, file := range []*os.File{f.dir, f.locked} {
		if file != nil {
			err = errors.Join(err, file.Close())
		}
	}
	return err
}

// prepare makes the folder the one that we alone keep our state in. The lock
// comes before the change of owner: the folder of one that runs stays that one's.
func (f *folder) prepare(o Options) error {
	if err := f.refuseForeign(o); err != nil {
		return err
	}
	if err := f.lock(); err != nil {
		return err
	}
	if err := f.claim(o); err != nil {
		return err
	}
	if err := f.give(f.locked); err != nil {
		return err
	}
	return f.probe()
}

// lock keeps other processes from using the folder as theirs until it is
// closed. Whoever can open a file can lock it, flock(2), and everybody can open
// the folder: hence a file that only root and the folder's owner can open. File
// systems without locks go without.
func (f *folder) lock() error {
	file, err := f.root.OpenFile(lockFile, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	f.locked = file
	if err := keepClosed(file); err != nil {
		return err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("%s is in use by another rpcward", f.path)
	}
	return nil
}

// keepClosed takes the right to open a file from all but its owner.
func keepClosed(file *os.File) error {
	info, err := file.Stat()
	if err != nil || info.Mode().Perm()&0o077 == 0 {
		return err
	}
	return file.Chmod(0o600)
}

// refuseForeign refuses a folder that would have to be given away and has
// something else in it: somebody named /var/lib by mistake.
func (f *folder) refuseForeign(o Options) error {
	if os.Geteuid() != 0 || f.owner == o.UID {
		return nil
	}
	names, err := f.dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !strings.HasPrefix(name, stateFile) && !strings.HasPrefix(name, rpcbindFile) && !strings.HasPrefix(name, portmapFile) {
			return fmt.Errorf("%s belongs to user %d and has other files in it, such as %s: it must be a folder of its own", f.path, f.owner, name)
		}
	}
	return nil
}

// claim gives the folder to the user that the process will work as, if root's
// rights are there for it.
func (f *folder) claim(o Options) error {
	if os.Geteuid() != 0 || f.owner == o.UID {
		return nil
	}
	f.owner = o.UID
	if err := f.dir.Chown(o.UID, o.GID); err != nil {
		return fmt.Errorf("giving the folder to user %d: %w", o.UID, err)
	}
	return nil
}

// give makes the folder's owner the owner of a file in it, if root's rights are
// there for it: that user may be the one to open it next time.
func (f *folder) give(file *os.File) error {
	if os.Geteuid() != 0 {
		return nil
	}
	return file.Chown(f.owner, -1)
}

// probe tries to write, as the kernel has more reasons to refuse than can be
// asked for, and removes what a crash may have left.
func (f *folder) probe() error {
	temp := stateFile + tempSuffix
	file, err := f.create(temp)
	if err != nil {
		return err
	}
	return errors.Join(file.Close(), f.root.Remove(temp))
}

// fileID tells one version of a file from all others, even if the clock was
// set in between: files are replaced, not written to, by us and by rpcbind.
type fileID struct {
	Inode, Size, ModTime uint64 // ModTime in nanoseconds
}

func idOf(info fs.FileInfo) fileID {
	return fileID{info.Sys().(*syscall.Stat_t).Ino, uint64(info.Size()), uint64(info.ModTime().UnixNano())}
}

// id returns the identity of a file, zero if there is none.
func (f *folder) id(name string) fileID {
	info, err := f.root.Lstat(name)
	if err != nil {
		return fileID{}
	}
	return idOf(info)
}

// open opens a file to read it, which must be a plain one of somebody we trust.
func (f *folder) open(name string) (*os.File, fileID, error) {
	link, err := f.root.Lstat(name)
	if err != nil {
		return nil, fileID{}, err
	}
	if !link.Mode().IsRegular() {
		return nil, fileID{}, errors.New("it is not a plain file")
	}
	file, err := f.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fileID{}, err
	}
	info, err := file.Stat()
	if err == nil {
		err = f.believable(link, info)
	}
	if err != nil {
		file.Close()
		return nil, fileID{}, err
	}
	return file, idOf(info), nil
}

// read reads a file that open opens.
func (f *folder) read(name string) ([]byte, fileID, error) {
	file, id, err := f.open(name)
	if err != nil {
		return nil, id, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFile))
	return data, id, err
}

func (f *folder) believable(link, info fs.FileInfo) error {
	switch mode := info.Mode(); {
	case !os.SameFile(link, info):
		return errors.New("it was replaced meanwhile")
	case !f.trusts(ownerOf(info)):
		return fmt.Errorf("user %d may have written it", ownerOf(info))
	case mode.Perm()&writableByOthers != 0:
		return fmt.Errorf("others may have written it (mode %04o)", mode.Perm())
	case info.Size() > maxFile:
		return fmt.Errorf("it has %d bytes, more than %d", info.Size(), maxFile)
	}
	return nil
}

// tempSuffix marks a file that is not finished.
const tempSuffix = ".new"

// create makes a file that was not there.
func (f *folder) create(name string) (*os.File, error) {
	f.root.Remove(name) // left by a crash, if at all; or else creating it fails
	return f.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

// replace writes a file anew. Whatever happens on the way, the old one or the
// new one is there, complete; without an error the new one, even if the power
// fails now.
func (f *folder) replace(name string, data []byte) error {
	if len(data) > maxFile {
		return fmt.Errorf("%s would have %d bytes, more than %d", name, len(data), maxFile)
	}
	temp := name + tempSuffix
	err := f.write(temp, data)
	if err == nil {
		err = f.root.Rename(temp, name)
	}
	if err != nil {
		f.root.Remove(temp)
		return err
	}
	// Some file systems flush no folders, and say so.
	if err := f.dir.Sync(); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}

func (f *folder) write(name string, data []byte) error {
	file, err := f.create(name)
	if err != nil {
		return err
	}
	if err = f.give(file); err == nil {
		_, err = file.Write(data)
	}
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// setAside renames a file to its name with a reason and the first number that
// is free, and returns the new name.
func (f *folder) setAside(name, reason string) (string, error) {
	to, err := f.freeName(name, reason)
	if err != nil {
		return to, err
	}
	return to, f.root.Rename(name, to)
}

// keep gives a file such a name in addition to its own, so that what replaces
// it under that one does not destroy it.
func (f *folder) keep(name, reason string) (string, error) {
	to, err := f.freeName(name, reason)
	if err != nil {
		return to, err
	}
	return to, f.root.Link(name, to)
}

func (f *folder) freeName(name, reason string) (string, error) {
	for n := 1; ; n++ {
		to := fmt.Sprintf("%s.%s-%d", name, reason, n)
		if _, err := f.root.Lstat(to); errors.Is(err, fs.ErrNotExist) {
			return to, nil
		} else if err != nil {
			return to, err
		}
	}
}
