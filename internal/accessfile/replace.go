package accessfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrChanged says that a file is not any more what an edit was planned for.
var ErrChanged = errors.New("the file was changed meanwhile")

// Replacement is a new text for a file.
type Replacement struct {
	Path     string
	Old, New string // Old is what the file held when the edit was planned
	Backup   bool   // keep the old file beside the new one
}

// Replace puts the new text in the place of the old one, and returns the path
// of the backup. Whoever opens the file finds the one or the other, whole. The
// new file has the mode, owner, group and labels of the old one. A symbolic
// link stays one. It returns ErrChanged, and changes nothing, if the file does
// not hold the old text.
func (r *Replacement) Replace() (backup string, err error) {
	path, err := filepath.EvalSymlinks(r.Path)
	if errors.Is(err, fs.ErrNotExist) {
		path, err = r.Path, nil
	}
	if err != nil {
		return "", fmt.Errorf("writing %s: %w", r.Path, err)
	}
	unlock, err := lockFolder(filepath.Dir(path))
	if err != nil {
		return "", fmt.Errorf("writing %s: %w", r.Path, err)
	}
	defer unlock()
	old, err := ReadFile(path)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return "", fmt.Errorf("writing %s: %w", r.Path, err)
	}
	if string(old) != r.Old {
		return "", fmt.Errorf("writing %s: %w", r.Path, ErrChanged)
	}
	if r.Backup && !missing {
		if backup, err = writeBackup(path, old); err != nil {
			return "", fmt.Errorf("keeping a backup of %s: %w", r.Path, err)
		}
	}
	if err := r.put(path, missing); err != nil {
		return backup, fmt.Errorf("writing %s: %w", r.Path, err)
	}
	return backup, nil
}

// lockFolder keeps other processes that replace files in a folder away. The
// lock is on the folder itself, so that it leaves no file behind.
func lockFolder(folder string) (unlock func(), err error) {
	d, err := os.Open(folder)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX); err != nil {
		d.Close()
		return nil, err
	}
	return func() { d.Close() }, nil
}

// put writes the new text beside path and moves it there.
func (r *Replacement) put(path string, missing bool) error {
	tmp, err := writeBeside(path, []byte(r.New))
	if err != nil {
		return err
	}
	if missing {
		err = os.Chmod(tmp, 0o644)
	} else {
		err = copyAttributes(path, tmp)
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		os.Remove(tmp)
		return err
	}
	return syncFolder(filepath.Dir(path))
}

// writeBeside writes data to a new file in the folder of path, to the disk. The
// name begins with a dot, as those of files that no service should read do.
func writeBeside(path string, data []byte) (name string, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".new-*")
	if err != nil {
		return "", err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

// copyAttributes gives the file at to owner, group, mode, access control list
// and security label of the one at from.
func copyAttributes(from, to string) error {
	var s syscall.Stat_t
	if err := syscall.Stat(from, &s); err != nil {
		return err
	}
	if err := os.Lchown(to, int(s.Uid), int(s.Gid)); err != nil {
		return err
	}
	if err := syscall.Chmod(to, s.Mode&0o7777); err != nil {
		return err
	}
	value := make([]byte, 64<<10)
	for _, name := range []string{"security.selinux", "system.posix_acl_access"} {
		n, err := unix.Getxattr(from, name, value)
		if err != nil {
			continue // it has none, or the file system has none
		}
		if err := unix.Setxattr(to, name, value[:n], 0); err != nil {
			return fmt.Errorf("setting %s: %w", name, err)
		}
	}
	return nil
}

// mostBackups bounds how many backups of a file are kept.
const mostBackups = 1000

// writeBackup keeps data under a name of its own beside path.
func writeBackup(path string, data []byte) (name string, err error) {
	tmp, err := writeBeside(path, data)
	if err != nil {
		return "", err
	}
	defer os.Remove(tmp)
	if err := copyAttributes(path, tmp); err != nil {
		return "", err
	}
	for n := range mostBackups {
		name = path + ".bak"
		if n > 0 {
			name += "." + strconv.Itoa(n)
		}
		// A link, unlike a rename, does not overwrite an older backup.
		if err = os.Link(tmp, name); !errors.Is(err, fs.ErrExist) {
			return name, err
		}
	}
	return "", err
}

func syncFolder(folder string) error {
	d, err := os.Open(folder)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}
