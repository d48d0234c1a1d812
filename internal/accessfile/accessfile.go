// Package accessfile is hosts.allow and hosts.deny as an admin handles them: it
// reads them with what the machine makes of them, checks them, plans edits, and
// puts a new file in the place of an old one without a moment at which a reader
// finds half of it. libwrap reads the files anew for each client, so a file
// that is rewritten in place is, for an instant, one without rules.
//
// Reading and planning change nothing. Nothing here is safe for concurrent use,
// but several processes may replace the same file: one of them wins, the others
// are told.
package accessfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"rpcward/hostsaccess"
)

// The usual places of the two files, hosts_access(5).
const (
	AllowPath = "/etc/hosts.allow"
	DenyPath  = "/etc/hosts.deny"
)

// File is one of the two files, as it was read.
type File struct {
	*hostsaccess.File       // empty if the file could not be read
	State             State // what stands at its path
	Fault             error // why it could not be read; nil if it could
}

// State says what stands at the path of a file.
type State uint8

// The states.
const (
	Readable State = iota
	Missing
	NotAFile
	Unreadable
)

// String returns "readable", "missing", "not-a-file" or "unreadable".
func (s State) String() string {
	return [...]string{"readable", "missing", "not-a-file", "unreadable"}[s]
}

// Pair is the two files. A nil one is not looked at.
type Pair struct{ Allow, Deny *File }

// maxSize is the largest file that is read, in bytes.
const maxSize = 64 << 20

// ReadPair reads both files; "" leaves one out.
func ReadPair(allow, deny string) Pair {
	var p Pair
	if allow != "" {
		p.Allow = Read(allow)
	}
	if deny != "" {
		p.Deny = Read(deny)
	}
	return p
}

// Read reads a file. It never fails: Fault says what is wrong.
func Read(path string) *File {
	data, err := ReadFile(path)
	f := &File{File: hostsaccess.Parse(path, data), Fault: err}
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist):
		f.State = Missing
	case errors.Is(err, errNotAFile), errors.Is(err, syscall.EISDIR):
		f.State = NotAFile
	default:
		f.State = Unreadable
	}
	return f
}

var errNotAFile = errors.New("not a file")

// ReadFile reads a file, and never waits for one that is a pipe.
func ReadFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	switch t := info.Mode().Type(); {
	case t == fs.ModeDir:
		return nil, &fs.PathError{Op: "read", Path: path, Err: syscall.EISDIR}
	case t != 0 && t != fs.ModeDevice|fs.ModeCharDevice: // /dev/null says "nothing here"
		return nil, &fs.PathError{Op: "read", Path: path, Err: errNotAFile}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err == nil && len(data) > maxSize {
		err = fmt.Errorf("%s has more than %d bytes", path, maxSize)
	}
	return data, err
}

// tree is what hostsaccess knows of the file; nil if there is none.
func (f *File) tree() *hostsaccess.File {
	if f == nil {
		return nil
	}
	return f.File
}

// Source is the file for hostsaccess.NewTables.
func (f *File) Source() hostsaccess.Source {
	if f == nil {
		return hostsaccess.Source{State: hostsaccess.TableMissing}
	}
	states := map[State]hostsaccess.State{
		Readable: hostsaccess.TableReadable, Missing: hostsaccess.TableMissing,
		NotAFile: hostsaccess.TableDirectory, Unreadable: hostsaccess.TableUnreadable,
	}
	return hostsaccess.Source{Name: f.Name, Data: []byte(f.File.Source), State: states[f.State]}
}
