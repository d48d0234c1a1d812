package policyfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// maxSize is the largest file that is read. The largest published hosts.deny,
// with 130,000 rules, has 4 MB. A file beyond this is no policy, and reading
// takes some hundred times its size in memory.
const maxSize = 8 << 20

// readFile returns what the file holds; a file that does not exist is empty.
// It never waits: a named pipe in the place of the file is an error.
func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the policy: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading the policy: %w", err)
	}
	// /dev/null, a character device, is a usual way to say "nothing here".
	if t := info.Mode().Type(); t != 0 && t != fs.ModeDevice|fs.ModeCharDevice {
		return nil, fmt.Errorf("reading the policy: %s is not a file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the policy: %w", err)
	case len(data) > maxSize:
		return nil, fmt.Errorf("reading the policy: %s has more than %d bytes", path, maxSize)
	}
	return data, nil
}

// mark tells two states of a file apart without reading it.
type mark struct {
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
	err          string
}

func markOf(path string) mark {
	var s syscall.Stat_t
	if err := syscall.Stat(path, &s); err != nil {
		return mark{err: err.Error()}
	}
	return mark{dev: uint64(s.Dev), ino: s.Ino, size: s.Size, mtime: s.Mtim, ctime: s.Ctim}
}
