package inetd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
)

// Wrapping says whether access to a process is controlled.
type Wrapping uint8

// The answers.
const (
	NotConfigured Wrapping = iota // no such process
	NotWrapped
	MaybeWrapped // its place is taken by another program: tcpd, perhaps
	Wrapped
)

// Processes says of process names, in lower case, whether they are wrapped.
type Processes map[string]Wrapping

// Of returns what is known of a process.
func (p Processes) Of(name string) Wrapping { return p[strings.ToLower(name)] }

// Set says what is known of a process from now on.
func (p Processes) Set(name string, w Wrapping) { p[strings.ToLower(name)] = w }

// Warning is something about a line of a configuration.
type Warning struct {
	File string
	Line int
	Text string
}

// Inspect looks at each service: whether what it starts is there, and whether
// tcpd(8), which finds programs without a path in daemonDir, stands before it.
// warn is called with what is wrong, in the words of tcpdchk(8).
func (c *Config) Inspect(daemonDir string, warn func(Warning)) Processes {
	all := Processes{}
	for _, s := range c.Services {
		i := inspector{Service: s, daemonDir: daemonDir, warn: warn}
		if s.Process == "" {
			i.warnf("incomplete line")
			continue
		}
		w := i.inspect()
		all.Set(processName(s.Process), w)
		if s.Checks != "" {
			all.Set(s.Checks, Wrapped)
		}
	}
	return all
}

// processName is the name that tcpd goes by: it takes the last component of
// absolute paths alone.
func processName(argv0 string) string {
	if strings.HasPrefix(argv0, "/") {
		return path.Base(argv0)
	}
	return argv0
}

type inspector struct {
	Service
	daemonDir string
	warn      func(Warning)
}

func (i *inspector) warnf(format string, args ...any) {
	i.warn(Warning{i.File, i.Line, fmt.Sprintf(format, args...)})
}

func (i *inspector) check(name string) (fs.FileInfo, error) {
	return CheckPath(name, func(text string) { i.warnf("%s", text) })
}

func (i *inspector) inspect() Wrapping {
	info, err := i.check(i.Program)
	switch {
	case err != nil:
		i.warnf("%s: not found: %s", i.Program, Reason(err))
	case !executable(info):
		i.warnf("%s: not executable", i.Program)
	}
	if strings.EqualFold(path.Base(i.Program), "miscd") {
		return Wrapped // the one daemon of its time that did it by itself
	}
	name := processName(i.Process)
	if strings.EqualFold(name, "rexd") || strings.EqualFold(name, "rpc.rexd") {
		i.warnf("%s may be an insecure service", name)
	}
	if strings.EqualFold(path.Base(i.Program), "tcpd") {
		i.tcpd(name, info)
		return Wrapped
	}
	return i.replaced(name)
}

// tcpd looks at what tcpd will start.
func (i *inspector) tcpd(name string, info fs.FileInfo) {
	if strings.EqualFold(name, "tcpd") {
		i.warnf("%s is recursively calling itself", name)
	}
	if info != nil && info.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
		i.warnf("%s: file is set-uid or set-gid", i.Program)
	}
	if strings.HasPrefix(i.Process, "/") {
		if i.Argument != "" && strings.EqualFold(name, path.Base(i.Argument)) {
			i.warnf("%s inserted before %s", i.Program, i.Process)
		}
		i.started(i.Process, i.Process, "not found")
	} else {
		i.started(i.daemonDir+"/"+i.Process, i.Process, "not found in "+i.daemonDir)
	}
	if strings.EqualFold(i.Protocol, "rpc/tcp") {
		i.warnf("%s: cannot wrap rpc/tcp services", name)
	}
}

func (i *inspector) started(file, shown, missing string) {
	info, err := i.check(file)
	switch {
	case err != nil:
		i.warnf("%s: %s: %s", shown, missing, Reason(err))
	case !executable(info):
		i.warnf("%s: not executable", shown)
	}
}

// replaced tells whether the program may be a tcpd in the place of the daemon,
// which was moved to daemonDir: tcpd(8), "EXAMPLE 1".
func (i *inspector) replaced(name string) Wrapping {
	moved := i.daemonDir + "/" + name
	if i.Program == moved {
		return NotWrapped
	}
	_, err := i.check(moved)
	switch {
	case err == nil:
		return MaybeWrapped
	case errors.Is(err, fs.ErrNotExist):
		return NotWrapped
	}
	i.warnf("%s: file lookup: %s", moved, Reason(err))
	return MaybeWrapped
}

func executable(info fs.FileInfo) bool { return info.Mode()&0o100 != 0 }

// CheckPath is os.Stat that also warns of what anybody may change: the file
// and, where the path is absolute, the folders above it.
func CheckPath(name string, warn func(text string)) (fs.FileInfo, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Mode()&0o002 != 0 {
		warn(name + ": world writable")
	}
	if i := strings.LastIndexByte(name, '/'); i >= 0 && name[0] == '/' && name != "/" {
		CheckPath(name[:max(i, 1)], warn)
	}
	return info, nil
}

// Reason is err as strerror(3) of glibc says it.
func Reason(err error) string {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err.Error()
	}
	s := errno.Error()
	return strings.ToUpper(s[:1]) + s[1:]
}
