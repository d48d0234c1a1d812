package warmstart

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"rpcward/internal/registry"
	"rpcward/rpcbind"
	"rpcward/test/lab"
)

// place is a pair of folders, and what runs there one after the other.
type place struct {
	t            *testing.T
	own, rpcbind string
	boot         string // another one than ours if not empty
}

func newPlace(t *testing.T) *place {
	dir := t.TempDir()
	p := &place{t: t, own: dir + "/rpcward", rpcbind: dir + "/rpcbind"}
	if err := os.Mkdir(p.rpcbind, 0o755); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *place) options() Options {
	return Options{UID: os.Geteuid(), GID: os.Getegid(), ImportDir: p.rpcbind}
}

func (p *place) open() *Dir {
	p.t.Helper()
	d, err := Open(p.own, p.options())
	if err != nil {
		p.t.Fatal(err)
	}
	if p.boot != "" {
		d.boot = p.boot
	}
	p.t.Cleanup(func() { d.Close() })
	return d
}

func (p *place) load(d *Dir) Loaded {
	p.t.Helper()
	l, err := d.Load()
	if err != nil {
		p.t.Fatal(err)
	}
	return l
}

// ports are services, named by their ports.
func ports(list ...uint16) []registry.Registration {
	var regs []registry.Registration
	for _, port := range list {
		regs = append(regs, at(200000+uint32(port), 1, rpcbind.TCP, fmt.Sprintf("0.0.0.0.%d.%d", port>>8, port&0xff), "1000"))
	}
	return regs
}

func portsOf(regs []registry.Registration) []uint16 {
	list := []uint16{}
	for _, r := range regs {
		list = append(list, r.IP.Port())
	}
	return list
}

// ward is a run of rpcward: it loads, saves, registers a port, and ends.
func (p *place) ward(port uint16, end func(*Dir, *registry.Snapshot)) {
	p.t.Helper()
	d := p.open()
	defer d.Close()
	regs := p.load(d).Registrations
	for _, r := range [][]registry.Registration{regs, append(regs, ports(port)...)} {
		if err := d.Save(nil, snapshot(r...)); err != nil {
			p.t.Fatal(err)
		}
	}
	if end != nil {
		end(d, snapshot(append(regs, ports(port)...)...))
	}
}

func export(d *Dir, s *registry.Snapshot) {
	if err := d.Export(s); err != nil {
		panic(err)
	}
}

// exportHalf is what an Export that is killed after the first file has done.
func exportHalf(d *Dir, s *registry.Snapshot) {
	if err := d.rpcbind.replace(rpcbindFile, appendRpcbind(nil, s)); err != nil {
		panic(err)
	}
}

// stock is a run of rpcbind as far as files tell: with -w it reads and removes
// them; it writes them unless it is killed.
func (p *place) stock(warm bool, port uint16, killed bool) {
	p.t.Helper()
	var regs []registry.Registration
	if warm {
		if data, err := os.ReadFile(p.rpcbind + "/" + rpcbindFile); err == nil {
			list, err := decodeRpcbind(data)
			if err != nil {
				p.t.Fatal(err)
			}
			regs = list.fit
		}
		os.Remove(p.rpcbind + "/" + rpcbindFile)
		os.Remove(p.rpcbind + "/" + portmapFile)
	}
	if killed {
		return
	}
	s := snapshot(append(regs, ports(port)...)...)
	for _, f := range rpcbindFiles {
		write(p.t, filepath.Join(p.rpcbind, f.name), f.append(nil, s))
	}
}

// id is the identity of a file of rpcbind's.
func (p *place) id(name string) fileID {
	info, err := os.Lstat(filepath.Join(p.rpcbind, name))
	if err != nil {
		p.t.Fatal(err)
	}
	return idOf(info)
}

// chmod changes the mode of rpcbind's files, those that are there.
func (p *place) chmod(mode fs.FileMode) {
	for _, f := range rpcbindFiles {
		if err := os.Chmod(filepath.Join(p.rpcbind, f.name), mode); err != nil && !errors.Is(err, fs.ErrNotExist) {
			p.t.Fatal(err)
		}
	}
}

// write makes a new file, as rpcbind does: it never writes into an old one.
func write(t *testing.T, path string, data []byte) {
	t.Helper()
	os.Remove(path)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// The table in the package comment, by port numbers: ports below 10 were
// registered with rpcbind, others with rpcward.
func TestWhoIsNewer(t *testing.T) {
	kill := func(*Dir, *registry.Snapshot) {}
	tests := []struct {
		name string
		run  func(p *place)
		want []uint16
		from string
		note string
	}{
		{"nothing", func(p *place) {}, nil, "", ""},
		{"rpcbind ended", func(p *place) { p.stock(true, 1, false) }, []uint16{1}, rpcbindFile, ""},
		{"rpcbind killed", func(p *place) { p.stock(true, 1, true) }, nil, "", ""},
		{"rpcward killed before its first save", func(p *place) {
			p.ward(10, kill)
			p.stock(true, 1, false)
			d := p.open()
			p.load(d)
			d.Close()
		}, []uint16{1}, rpcbindFile, ""},
		{"rpcward killed after its first save", func(p *place) {
			p.stock(true, 1, false)
			d := p.open()
			if err := d.rewrite(snapshot(append(p.load(d).Registrations, ports(10)...)...), false); err != nil {
				p.t.Fatal(err)
			}
			d.Close()
			if _, err := os.Stat(p.rpcbind + "/" + rpcbindFile); err != nil {
				p.t.Fatal(err)
			}
		}, []uint16{1, 10}, stateFile, ""},
		{"rpcward killed", func(p *place) {
			p.stock(true, 1, false)
			p.ward(10, kill)
		}, []uint16{1, 10}, stateFile, ""},
		{"rpcward ended", func(p *place) { p.ward(10, export) }, []uint16{10}, stateFile, ""},
		{"rpcward ended twice", func(p *place) {
			p.ward(10, export)
			p.ward(11, export)
		}, []uint16{10, 11}, stateFile, ""},
		{"rpcward ended, rpcward killed", func(p *place) {
			p.ward(10, export)
			p.ward(11, kill)
		}, []uint16{10, 11}, stateFile, ""},
		{"rpcward killed while it exported", func(p *place) { p.ward(10, exportHalf) }, []uint16{10}, rpcbindFile, ""},
		{"rpcward ended, rpcbind -w ended", func(p *place) {
			p.ward(10, export)
			p.stock(true, 1, false)
		}, []uint16{10, 1}, rpcbindFile, ""},
		{"rpcward ended, rpcbind ended", func(p *place) {
			p.ward(10, export)
			p.stock(false, 1, false)
		}, []uint16{1}, rpcbindFile, ""},
		{"rpcward ended, rpcbind -w killed", func(p *place) {
			p.ward(10, export)
			p.stock(true, 1, true)
		}, []uint16{10}, stateFile, "rpcbind.xdr is gone"},
		{"rpcward ended, rpcbind killed", func(p *place) {
			p.ward(10, export)
			p.stock(false, 1, true)
		}, []uint16{10}, stateFile, ""},
		{"rpcward ended, ran without rpcbind's folder", func(p *place) {
			p.ward(10, export)
			folder := p.rpcbind
			p.rpcbind = ""
			p.ward(11, export)
			p.rpcbind = folder
		}, []uint16{10, 11}, stateFile, ""},
		{"rpcward ended, ran and could not read rpcbind.xdr", func(p *place) {
			p.ward(10, export)
			p.chmod(0o666)
			p.ward(11, kill)
			p.chmod(0o600)
		}, []uint16{10, 11}, stateFile, ""},
		{"rpcward killed, rpcbind ended, rpcward could not read rpcbind.xdr", func(p *place) {
			p.ward(10, kill)
			p.stock(true, 1, false)
			p.chmod(0o666)
			p.ward(11, kill)
			p.chmod(0o600)
		}, []uint16{10, 11}, stateFile, ""},
		{"rpcward killed, rpcbind ended, rpcbind.xdr can't be read", func(p *place) {
			p.ward(10, kill)
			p.stock(true, 1, false)
			p.chmod(0o666)
		}, []uint16{10}, stateFile, "mode 0666)); it is now rpcbind.xdr.corrupt-1"},
		{"rpcward killed, rpcbind ended", func(p *place) {
			p.ward(10, kill)
			p.stock(true, 1, false)
		}, []uint16{1}, rpcbindFile, ""},
		{"rpcward killed, rpcbind killed", func(p *place) {
			p.ward(10, kill)
			p.stock(true, 1, true)
		}, []uint16{10}, stateFile, ""},
		{"there and back, twice", func(p *place) {
			p.stock(true, 1, false)
			p.ward(10, export)
			p.stock(true, 2, false)
			p.ward(11, export)
		}, []uint16{1, 10, 2, 11}, stateFile, ""},
		{"rpcbind changed nothing", func(p *place) {
			p.ward(10, export)
			data, _ := os.ReadFile(p.rpcbind + "/" + rpcbindFile)
			write(p.t, p.rpcbind+"/"+rpcbindFile, data)
		}, []uint16{10}, rpcbindFile, ""},
		{"a clock that was set back", func(p *place) {
			p.ward(10, export)
			p.stock(true, 1, false)
			past := time.Unix(1000, 0)
			os.Chtimes(p.rpcbind+"/"+rpcbindFile, past, past)
		}, []uint16{10, 1}, rpcbindFile, ""},
		{"a clock that was set forward", func(p *place) {
			p.ward(10, export)
			future := time.Now().Add(1e6 * time.Hour)
			os.Chtimes(p.own+"/"+stateFile, future, future)
			p.stock(true, 1, false)
		}, []uint16{10, 1}, rpcbindFile, ""},
		{"host started anew", func(p *place) {
			p.boot = "another boot"
			p.ward(10, kill)
			p.boot = ""
		}, nil, "", "from before this host was started"},
		{"host started anew after an export", func(p *place) {
			p.boot = "another boot"
			p.ward(10, export)
			p.boot = ""
		}, nil, "", "from before this host was started"},
		{"host started anew, rpcbind ended", func(p *place) {
			p.boot = "another boot"
			p.ward(10, export)
			p.boot = ""
			p.stock(false, 1, false)
		}, []uint16{1}, rpcbindFile, "from before this host was started"},
		{"portmap.xdr only", func(p *place) {
			p.stock(true, 1, false)
			os.Remove(p.rpcbind + "/" + rpcbindFile)
		}, []uint16{1}, portmapFile, ""},
		{"rpcbind.xdr corrupt", func(p *place) {
			p.ward(10, export)
			p.stock(true, 1, false)
			os.Truncate(p.rpcbind+"/"+rpcbindFile, 99)
		}, []uint16{10, 1}, portmapFile, "rpcbind.xdr.corrupt-1"},
		{"both corrupt", func(p *place) {
			p.ward(10, export)
			p.stock(true, 1, false)
			write(p.t, p.rpcbind+"/"+rpcbindFile, nil)
			write(p.t, p.rpcbind+"/"+portmapFile, []byte{0, 0, 0, 1})
		}, []uint16{10}, stateFile, "portmap.xdr.corrupt-1"},
		{"our state of the first version", func(p *place) {
			p.ward(10, export)
			st := state{boot: bootID(), seen: [2]fileID{p.id(rpcbindFile), p.id(portmapFile)}}
			write(p.t, p.own+"/"+stateFile, appendVersion1(nil, &st, snapshot(ports(11)...)))
		}, []uint16{11}, stateFile, ""},
		{"our state corrupt", func(p *place) {
			p.ward(10, export)
			os.Truncate(p.own+"/"+stateFile, 99)
		}, []uint16{10}, rpcbindFile, "registrations.corrupt-1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPlace(t)
			tt.run(p)
			d := p.open()
			l := p.load(d)
			if diff := cmp.Diff(tt.want, portsOf(l.Registrations), compare); diff != "" {
				t.Errorf("registrations (-want +got):\n%s", diff)
			}
			if l.Source != "" && filepath.Base(l.Source) != tt.from || (l.Source == "") != (tt.from == "") {
				t.Errorf("source %q, want %q", l.Source, tt.from)
			}
			if notes := strings.Join(l.Notes, "\n"); !strings.Contains(notes, tt.note) || (tt.note == "") != (notes == "") {
				t.Errorf("notes %q, want %q", notes, tt.note)
			}
			p.savedAndDone(d, l)
		})
	}
}

// savedAndDone saves what was loaded: rpcbind's files must be gone only then.
func (p *place) savedAndDone(d *Dir, l Loaded) {
	p.t.Helper()
	before, _ := os.ReadDir(p.rpcbind)
	if filepath.Base(l.Source) == rpcbindFile && !slices.ContainsFunc(before, named(rpcbindFile)) {
		p.t.Error("rpcbind.xdr is gone before our state is saved")
	}
	if err := d.Save(nil, snapshot(l.Registrations...)); err != nil {
		p.t.Fatal(err)
	}
	after, _ := os.ReadDir(p.rpcbind)
	for _, name := range []string{rpcbindFile, portmapFile} {
		if slices.ContainsFunc(after, named(name)) {
			p.t.Errorf("%s is still there", name)
		}
	}
	d.Close()
	again := p.load(p.open())
	if diff := cmp.Diff(portsOf(l.Registrations), portsOf(again.Registrations), compare); diff != "" {
		p.t.Errorf("loaded again (-first +second):\n%s", diff)
	}
	if len(again.Notes) > 0 {
		p.t.Errorf("notes of the second start: %q", again.Notes)
	}
}

func named(name string) func(fs.DirEntry) bool {
	return func(e fs.DirEntry) bool { return e.Name() == name }
}

// Files that can't be used are set aside or left alone, and service starts.
func TestBadFiles(t *testing.T) {
	good := appendRpcbind(nil, snapshot(ports(1)...))
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	write(t, elsewhere, good)
	tests := []struct {
		name string
		make func(path string) error
		note string
		root bool // needs root
	}{
		{"symbolic link", func(path string) error { return os.Symlink(elsewhere, path) }, "not a plain file", false},
		{"symbolic link inside", func(path string) error {
			write(t, path+".x", good)
			return os.Symlink(filepath.Base(path)+".x", path)
		}, "not a plain file", false},
		{"named pipe", func(path string) error { return unix.Mkfifo(path, 0o600) }, "not a plain file", false},
		{"folder", func(path string) error { return os.Mkdir(path, 0o700) }, "not a plain file", false},
		{"others may write", func(path string) error {
			write(t, path, good)
			return os.Chmod(path, 0o622)
		}, "others may have written it", false},
		{"of somebody else", func(path string) error {
			write(t, path, good)
			return os.Chown(path, 12345, 0)
		}, "user 12345 may have written it", true},
		{"huge", func(path string) error {
			write(t, path, nil)
			return os.Truncate(path, maxFile+1)
		}, "more than 134217728", false},
		{"empty", func(path string) error { return os.WriteFile(path, nil, 0o600) }, "can't be used", false},
		{"garbage", func(path string) error { return os.WriteFile(path, []byte("garbage, garbage, garbage"), 0o600) }, "can't be used", false},
		{"unreadable", func(path string) error { return os.WriteFile(path, good, 0) }, "", false}, // root reads it
	}
	for _, tt := range tests {
		for _, name := range []string{stateFile, rpcbindFile, portmapFile} {
			t.Run(tt.name+" "+name, func(t *testing.T) {
				if tt.root {
					lab.NeedRoot(t)
				}
				p := newPlace(t)
				path := filepath.Join(p.rpcbind, name)
				if name == stateFile {
					p.ward(10, nil)
					path = filepath.Join(p.own, name)
					os.Remove(path)
				}
				if err := tt.make(path); err != nil {
					t.Fatal(err)
				}
				d := p.open()
				l := p.load(d)
				if tt.note != "" && (len(l.Registrations) > 0 || !strings.Contains(strings.Join(l.Notes, "\n"), tt.note)) {
					t.Errorf("loaded %v, notes %q, want %q", l.Registrations, l.Notes, tt.note)
				}
				if name == stateFile && !strings.Contains(strings.Join(l.Notes, "\n"), stateFile+".corrupt-1") {
					t.Errorf("notes %q, want the new name", l.Notes)
				}
				if name == stateFile {
					if _, err := os.Lstat(path + ".corrupt-1"); err != nil {
						t.Error(err)
					}
				}
				if err := d.Save(nil, snapshot(ports(11)...)); err != nil {
					t.Fatal(err)
				}
				d.Close()
				if got := portsOf(p.load(p.open()).Registrations); !slices.Equal(got, []uint16{11}) {
					t.Errorf("loaded %v after a save", got)
				}
			})
		}
	}
	if data, _ := os.ReadFile(elsewhere); string(data) != string(good) {
		t.Error("the target of a symbolic link was written to")
	}
}

// Several corrupt files in a row are all kept.
func TestSetAsideKeepsAll(t *testing.T) {
	p := newPlace(t)
	for n := 1; n <= 3; n++ {
		d := p.open()
		p.load(d)
		d.Close()
		write(t, filepath.Join(p.own, stateFile), fmt.Appendf(nil, "corrupt %d", n))
	}
	p.load(p.open())
	for n := 1; n <= 3; n++ {
		if data, err := os.ReadFile(fmt.Sprintf("%s/%s.corrupt-%d", p.own, stateFile, n)); string(data) != fmt.Sprint("corrupt ", n) {
			t.Errorf("corrupt-%d: %q, %v", n, data, err)
		}
	}
}

// What we can't take over stays in rpcbind's file, under another name.
func TestUnfitIsKept(t *testing.T) {
	p := newPlace(t)
	path := filepath.Join(p.rpcbind, rpcbindFile)
	data := slices.Concat(item(300000, 7, "ticots", "host.rpc", "1000"), appendRpcbind(nil, snapshot(ports(1)...)))
	for n := 1; n <= 2; n++ {
		write(t, path, data)
		d := p.open()
		l := p.load(d)
		if len(l.Notes) != 1 || !strings.Contains(l.Notes[0], `program 300000 version 7: no netid is called "ticots"`) {
			t.Errorf("notes %q", l.Notes)
		}
		if got := portsOf(l.Registrations); !slices.Equal(got, []uint16{1}) {
			t.Errorf("taken over: %v", got)
		}
		if err := d.Save(nil, snapshot(l.Registrations...)); err != nil {
			t.Fatal(err)
		}
		if n == 2 { // also where nothing could be saved before the end
			write(t, path, data)
			d.done, d.keep = []string{rpcbindFile}, true
		}
		export(d, snapshot(l.Registrations...))
		d.Close()
	}
	for n := 1; n <= 3; n++ {
		if got, err := os.ReadFile(fmt.Sprintf("%s.kept-%d", path, n)); string(got) != string(data) {
			t.Errorf("kept-%d: %d bytes, %v", n, len(got), err)
		}
	}
}

// A crash between writing and renaming leaves the old state, and no rubbish.
func TestCrashBeforeRename(t *testing.T) {
	p := newPlace(t)
	p.ward(10, nil)
	temp := filepath.Join(p.own, stateFile+tempSuffix)
	full := fileOf(&state{boot: bootID()}, sets(ports(66)...))
	for _, n := range []int{0, 1, len(full) / 2, len(full)} {
		write(t, temp, full[:n])
		d := p.open()
		if got := portsOf(p.load(d).Registrations); !slices.Equal(got, []uint16{10}) {
			t.Errorf("loaded %v", got)
		}
		if _, err := os.Lstat(temp); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("unfinished file: %v", err)
		}
		d.Close()
	}
}

// Folders that can't be trusted or written to are refused, with the reason.
func TestOpenRefuses(t *testing.T) {
	tests := []struct {
		name string
		make func(dir string) error
		want string
		root bool
	}{
		{"no parent", func(dir string) error { return os.Remove(filepath.Dir(dir)) }, "no such file", false},
		{"symbolic link", func(dir string) error { return os.Symlink(os.TempDir(), dir) }, "is not a folder", false},
		{"file", func(dir string) error { return os.WriteFile(dir, nil, 0o644) }, "is not a folder", false},
		{"others may write", func(dir string) error {
			return errors.Join(os.Mkdir(dir, 0o755), os.Chmod(dir, 0o777))
		}, "chmod go-w", false},
		{"group may write", func(dir string) error {
			return errors.Join(os.Mkdir(dir, 0o755), os.Chmod(dir, 0o775))
		}, "mode 0775", false},
		{"of somebody else", func(dir string) error {
			return errors.Join(os.Mkdir(dir, 0o755), os.Chown(dir, 12345, 0), os.Chmod(filepath.Dir(dir), 0o777))
		}, "belongs to user 12345", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.root {
				lab.NeedRoot(t)
			}
			parent := filepath.Join(t.TempDir(), "parent")
			if err := os.Mkdir(parent, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := tt.make(parent + "/state"); err != nil {
				t.Fatal(err)
			}
			d, err := Open(parent+"/state", Options{UID: os.Geteuid(), GID: os.Getegid()})
			if err == nil {
				d.Close()
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

// rpcbind's folder may be missing or wrong; ours still works.
func TestImportFolderIsOptional(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(dir string) error
		note string
	}{
		{"none", func(string) error { return nil }, ""},
		{"others may write", func(dir string) error { return errors.Join(os.Mkdir(dir, 0o755), os.Chmod(dir, 0o777)) }, "can be written to by others"},
		{"symbolic link", func(dir string) error { return os.Symlink("/", dir) }, "is not a folder"},
		{"no parent", func(dir string) error { return os.WriteFile(dir, nil, 0o600) }, "is not a folder"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPlace(t)
			os.Remove(p.rpcbind)
			if err := tt.make(p.rpcbind); err != nil {
				t.Fatal(err)
			}
			d := p.open()
			if notes := strings.Join(p.load(d).Notes, "\n"); !strings.Contains(notes, tt.note) || (notes == "") != (tt.note == "") {
				t.Errorf("notes %q, want %q", notes, tt.note)
			}
			if err := errors.Join(d.Save(nil, snapshot(ports(1)...)), d.Export(snapshot(ports(1)...))); err != nil {
				t.Error(err)
			}
			_, err := os.Lstat(filepath.Join(p.rpcbind, rpcbindFile))
			if (err == nil) != (tt.note == "") {
				t.Errorf("exported: %v", err)
			}
		})
	}
}

// Without rpcbind's folder there is nothing to import or export.
func TestWithoutImportFolder(t *testing.T) {
	d, err := Open(filepath.Join(t.TempDir(), "state"), Options{UID: os.Geteuid(), GID: os.Getegid()})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if l, err := d.Load(); err != nil || len(l.Registrations)+len(l.Notes) > 0 || l.Source != "" {
		t.Errorf("loaded %+v, %v", l, err)
	}
	if err := d.Export(snapshot(ports(1)...)); err != nil {
		t.Error(err)
	}
}

// Two that write one state would each lose what the other acknowledged.
func TestOneAtATime(t *testing.T) {
	p := newPlace(t)
	d := p.open()
	if second, err := Open(p.own, p.options()); err == nil || !strings.Contains(err.Error(), "in use by another rpcward") {
		t.Errorf("opened %v, %v", second, err)
	}
	d.Close()
	p.open()
}

// Files of ours are nobody else's to read.
func TestModes(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	p := newPlace(t)
	p.ward(1, export)
	for path, want := range map[string]fs.FileMode{
		p.own:                               0o755,
		p.own + "/" + stateFile:             0o600,
		p.own + "/" + lockFile:              0o600,
		p.rpcbind + "/" + rpcbindFile:       0o600,
		p.rpcbind + "/" + portmapFile:       0o600,
		p.own + "/" + stateFile + ".new":    0,
		p.rpcbind + "/" + "rpcbind.xdr.new": 0,
	} {
		info, err := os.Lstat(path)
		if want == 0 && !errors.Is(err, fs.ErrNotExist) || want != 0 && (err != nil || info.Mode().Perm() != want) {
			t.Errorf("%s: %v, %v, want %04o", path, info, err, want)
		}
	}
}

// Many goroutines change the registry at once; the folder has it all.
func TestConcurrentChanges(t *testing.T) {
	p := newPlace(t)
	d := p.open()
	p.load(d)
	r := registry.New(own, nil, d)
	var wg sync.WaitGroup
	for g := range uint16(8) {
		wg.Go(func() {
			for i := range uint16(50) {
				if ok, err := r.Set(ports(1000 + 50*g + i)[0]); !ok || err != nil {
					t.Errorf("Set: %v, %v", ok, err)
				}
				if i%5 == 0 {
					if ok, err := r.Unset(200000+1000+50*uint32(g)+uint32(i), 1, nil, "1000"); !ok || err != nil {
						t.Errorf("Unset: %v, %v", ok, err)
					}
				}
			}
		})
	}
	wg.Wait()
	d.Close()
	if diff := cmp.Diff(services(r.Snapshot()), p.load(p.open()).Registrations, compare); diff != "" || r.Snapshot().Len() != len(own)+8*40 {
		t.Errorf("%d registrations (-registry +loaded):\n%s", r.Snapshot().Len(), diff)
	}
}
