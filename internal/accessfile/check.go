package accessfile

import (
	"debug/elf"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"rpcward/hostsaccess"
	"rpcward/internal/policy"
)

// Check returns all that is wrong with the files, and what is wrong with them
// for the port mapper, in the order of the files.
func (p Pair) Check() []hostsaccess.Diagnostic {
	found := hostsaccess.Check(p.Allow.tree(), p.Deny.tree(), hostsaccess.Surroundings{ReadFile: ReadFile, Ignores: WhyIgnored})
	found = append(found, p.ofThePortMapper(found)...)
	var all []hostsaccess.Diagnostic
	for i, f := range []*File{p.Allow, p.Deny} {
		if f == nil {
			continue
		}
		all = append(all, f.faults(i == 1)...)
		all = append(all, ofFile(found, f.Name)...)
	}
	return append(all, slices.DeleteFunc(found, func(d hostsaccess.Diagnostic) bool {
		return p.Allow != nil && d.File == p.Allow.Name || p.Deny != nil && d.File == p.Deny.Name
	})...)
}

// ofFile picks the findings about one file, in its order.
func ofFile(found []hostsaccess.Diagnostic, name string) (list []hostsaccess.Diagnostic) {
	for _, d := range found {
		if d.File == name {
			list = append(list, d)
		}
	}
	slices.SortStableFunc(list, hostsaccess.ComparePlaces)
	return list
}

// faults reports a file that could not be read.
func (f *File) faults(deny bool) []hostsaccess.Diagnostic {
	d := hostsaccess.Diagnostic{File: f.Name, Severity: hostsaccess.Error}
	switch f.State {
	case NotAFile:
		d.Code, d.Message, d.Hint = hostsaccess.NotAFile, "it is not a file", "put a file in its place"
		d.Consequence = "libwrap takes it for an empty file: nobody is let in by it"
		if deny {
			d.Consequence = "libwrap takes it for an empty file: everybody gets in whom hosts.allow does not refuse"
		}
	case Unreadable:
		d.Code, d.Message, d.Hint = hostsaccess.Unreadable, "it cannot be read: "+reason(f.Fault), "make it readable for the services that ask it"
		d.Consequence = "libwrap goes on without it: nobody is let in by it"
		if deny {
			d.Consequence = "Debian's libwrap refuses everybody whom hosts.allow does not let in; that of other systems lets everybody in"
		}
	default:
		return nil
	}
	return []hostsaccess.Diagnostic{d}
}

// reason is err without the path.
func reason(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err.Error()
	}
	return err.Error()
}

// ofThePortMapper returns what concerns the port mapper alone, save what found
// says of the same place in other words.
func (p Pair) ofThePortMapper(found []hostsaccess.Diagnostic) (list []hostsaccess.Diagnostic) {
	_, own, _ := policy.New(p.Allow.tree(), p.Deny.tree(), policy.Options{})
	mapper := &planner{service: Service{aliases: policy.Names}}
	for _, d := range own {
		switch d.Code {
		case hostsaccess.NeverActs:
			// One that acts for other services has its use.
			if !mapper.alone(d.Rule) {
				continue
			}
			fallthrough
		case hostsaccess.UserPattern, hostsaccess.RunsCommand, hostsaccess.SlowRules, hostsaccess.NamePattern, policy.Lookalike:
			said := slices.ContainsFunc(found, func(o hostsaccess.Diagnostic) bool { return o.File == d.File && o.Pos == d.Pos })
			if !said {
				list = append(list, d)
			}
		}
	}
	return list
}

// folders are where daemons are looked for.
var folders = []string{"/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/usr/libexec", "/usr/lib/nfs"}

// inKernel are services of the kernel, under the names that rules for them use.
var inKernel = []string{"nfs", "nfsd", "rpc.nfsd", "lockd", "nlockmgr", "rpc.lockd"}

// WhyIgnored says why a daemon of this host never reads the two files, if that
// can be seen; "" if not. A daemon of inetd's may be wrapped by tcpd, and what
// is no ELF program may be anything.
func WhyIgnored(daemon string) string {
	switch {
	case slices.Contains(inKernel, strings.ToLower(daemon)):
		return "is part of the kernel, which never reads these files"
	case strings.ContainsAny(daemon, "/@"), strings.HasPrefix(daemon, "in."), slices.Contains(policy.Names, strings.ToLower(daemon)):
		return ""
	}
	for _, folder := range append(filepath.SplitList(os.Getenv("PATH")), folders...) {
		for _, name := range []string{daemon, "rpc." + daemon} {
			path := filepath.Join(folder, name)
			if usesLibwrap, known := linked(path); known {
				if usesLibwrap {
					return ""
				}
				return "(" + path + ") is not built with libwrap"
			}
		}
	}
	return ""
}

// linked says whether a program is linked with libwrap, if it is a program.
func linked(path string) (uses, known bool) {
	f, err := elf.Open(path)
	if err != nil {
		return false, false
	}
	defer f.Close()
	libraries, err := f.ImportedLibraries()
	if err != nil || len(libraries) == 0 {
		return false, false // linked statically: nobody knows with what
	}
	return slices.ContainsFunc(libraries, func(l string) bool { return strings.HasPrefix(l, "libwrap.so") }), true
}
