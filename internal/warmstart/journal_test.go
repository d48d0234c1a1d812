package warmstart

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"weak"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"rpcward/internal/registry"
	"rpcward/rpcbind"
	"rpcward/test/lab"
	"rpcward/xdr"
)

// apply is the slow twin of reading a file: it does the changes one after the
// other, of several with one key the last counts.
func apply(list []registry.Registration, changes ...registry.Change) []registry.Registration {
	list = slices.Clone(list)
	drop := func(k registry.Key) {
		list = slices.DeleteFunc(list, func(r registry.Registration) bool { return r.Key == k })
	}
	for _, c := range changes {
		for _, r := range c.Unset {
			drop(r.Key)
		}
		if c.Set != nil {
			drop(c.Set.Key)
			list = append(list, *c.Set)
		}
	}
	return list
}

// shortHistory has a change of each kind, and batches of one and of several.
func shortHistory() [][]registry.Change {
	p := func(program uint32, n rpcbind.NetID, port int) *registry.Registration {
		r := at(program, 1, n, fmt.Sprintf("0.0.0.0.8.%d", port), "1000")
		return &r
	}
	a, b, c := p(1, rpcbind.TCP, 1), p(1, rpcbind.UDP, 1), p(2, rpcbind.TCP, 2)
	local := at(3, 1, rpcbind.Local, "/run/s", registry.Superuser)
	again := p(1, rpcbind.TCP, 3)
	return [][]registry.Change{
		{{Set: a}},
		{{Set: b}, {Set: c}},
		{{Unset: []*registry.Registration{a, b}}},
		{{Set: &local}, {Set: again}, {Unset: []*registry.Registration{c}}},
		{{Set: c}},
	}
}

// Cut at any byte, a file has what was saved before, as a whole, and nothing is
// wrong with that: so it is when a process is killed in a write.
func TestJournalCut(t *testing.T) {
	batches := shortHistory()
	st := state{boot: "boot"}
	full := fileOf(&st, batches...)
	whole, want := 0, []registry.Registration(nil)
	for n := range len(full) + 1 {
		for whole < len(batches) && n >= len(fileOf(&st, batches[:whole+1]...)) {
			want = apply(want, batches[whole]...)
			whole++
		}
		got, err := readState(bytes.NewReader(full[:n]))
		if n < len(fileOf(&st)) {
			if err == nil {
				t.Errorf("half a head passes, %d bytes", n)
			}
			continue
		}
		if d := cmp.Diff(want, got.services.fit, compare); d != "" || err != nil || got.lost > 0 {
			t.Errorf("%d of %d bytes: %d lost, %v (-want +got):\n%s", n, len(full), got.lost, err, d)
		}
	}
}

// With a bit flipped anywhere, exactly the change that it is in is missed, and
// that is told; or the file is not believed at all.
func TestJournalFlip(t *testing.T) {
	batches := shortHistory()
	st := state{boot: "boot"}
	full, head := fileOf(&st, batches...), len(fileOf(&st))
	for bit := range 8 * len(full) {
		flipped := slices.Clone(full)
		flipped[bit/8] ^= 1 << (bit % 8)
		got, err := readState(bytes.NewReader(flipped))
		if bit/8 < head {
			if err == nil {
				t.Errorf("bit %d of the head", bit)
			}
			continue
		}
		want, last := without(&st, batches, bit/8)
		if d := cmp.Diff(want, got.services.fit, compare); d != "" || err != nil {
			t.Errorf("bit %d: %v (-want +got):\n%s", bit, err, d)
		}
		if got.lost != 1 && !(last && got.lost == 0) { // the last record may look as if it were not all there
			t.Errorf("bit %d: %d lost", bit, got.lost)
		}
	}
}

// without returns what is registered without the change that the record around
// a byte of the file has, and whether that is the last one.
func without(st *state, batches [][]registry.Change, offset int) (list []registry.Registration, last bool) {
	var all []registry.Change
	hit := -1
	for i := range batches {
		for n := range batches[i] {
			// The record's bytes do not depend on what follows.
			upTo := append(slices.Clone(batches[:i]), batches[i][:n+1])
			if hit < 0 && offset < len(fileOf(st, upTo...)) {
				hit = len(all)
			}
			all = append(all, batches[i][n])
		}
	}
	return apply(apply(nil, all[:hit]...), all[hit+1:]...), hit == len(all)-1
}

// records divides a file into its head and its records.
func records(file []byte, head int) [][]byte {
	list := [][]byte{file[:head]}
	for rest := file[head:]; len(rest) > 0; {
		n := recordHead + int(binary.BigEndian.Uint32(rest)) + crc32.Size
		list = append(list, rest[:n])
		rest = rest[n:]
	}
	return list
}

// Records count in their own file and place only, and what does not count is told.
func TestJournalForeignRecords(t *testing.T) {
	st := state{boot: "boot"}
	set := func(list ...uint16) (batches [][]registry.Change) {
		for _, r := range ports(list...) {
			batches = append(batches, sets(r))
		}
		return batches
	}
	head := len(fileOf(&st))
	file := records(fileOf(&st, set(1, 2, 3)...), head)
	otherHead, seed := appendHead(nil, [identitySize]byte{9}, &st)
	j := journal{seed: seed}
	other := [][]byte{otherHead}
	for _, changes := range set(7, 8, 9) {
		b, err := j.appendBatch(nil, changes)
		if err != nil {
			t.Fatal(err)
		}
		j.next++
		other = append(other, b)
	}
	garbage := bytes.Repeat([]byte{0, 0, 0, 40}, 5000) // sizes of records, everywhere
	for _, tt := range []struct {
		name string
		file [][]byte
		want []uint16
		lost int
	}{
		{"as it was", file, []uint16{1, 2, 3}, 0},
		{"one of another file", [][]byte{file[0], file[1], other[2], file[3]}, []uint16{1, 3}, 1},
		{"more of another file", slices.Concat(file, other[1:]), []uint16{1, 2, 3}, 1},
		{"one missing", [][]byte{file[0], file[1], file[3]}, []uint16{1, 3}, 1},
		{"first missing", [][]byte{file[0], file[2], file[3]}, []uint16{2, 3}, 1},
		{"two swapped", [][]byte{file[0], file[2], file[1], file[3]}, []uint16{2, 3}, 1},
		{"one twice", [][]byte{file[0], file[1], file[1], file[2], file[3]}, []uint16{1, 2, 3}, 0},
		{"last twice", [][]byte{file[0], file[1], file[2], file[3], file[3]}, []uint16{1, 2, 3}, 1},
		{"garbage between", [][]byte{file[0], file[1], garbage, file[2], file[3]}, []uint16{1, 2, 3}, 0},
		{"garbage behind", [][]byte{file[0], file[1], file[2], file[3], garbage}, []uint16{1, 2, 3}, 1},
		{"a hole", [][]byte{file[0], file[1], make([]byte, len(file[2])), file[3]}, []uint16{1, 3}, 1},
		{"zeros behind", [][]byte{file[0], file[1], file[2], file[3], make([]byte, 4096)}, []uint16{1, 2, 3}, 1},
	} {
		got, err := readState(bytes.NewReader(slices.Concat(tt.file...)))
		if err != nil || !slices.Equal(portsOf(got.services.fit), tt.want) || got.lost != tt.lost {
			t.Errorf("%s: %v, %d lost, %v; want %v, %d lost", tt.name, portsOf(got.services.fit), got.lost, err, tt.want, tt.lost)
		}
	}
}

// Records with a right checksum that no program of ours writes do no harm.
func TestJournalForged(t *testing.T) {
	head, seed := appendHead(nil, [identitySize]byte{}, &state{})
	many := xdr.AppendUint32(xdr.AppendUint32(nil, removed), 1<<32-1)
	for _, tt := range []struct {
		name  string
		body  []byte
		unfit int
		lost  int
	}{
		{"unknown kind", xdr.AppendUint32(nil, 3), 0, 1},
		{"removes a great many", many, 0, 1},
		{"removes nothing", xdr.AppendUint32(xdr.AppendUint32(nil, removed), 0), 0, 0},
		{"no address", append(xdr.AppendUint32(nil, registered), item(1, 1, "tcp", "nowhere", "")[4:]...), 1, 0},
		{"the port mapper itself", append(xdr.AppendUint32(nil, registered), item(100000, 1, "tcp", "0.0.0.0.8.1", "")[4:]...), 0, 0},
		{"bytes behind", append(append(xdr.AppendUint32(nil, registered), item(1, 1, "tcp", "0.0.0.0.8.1", "")[4:]...), 0, 0, 0, 0), 0, 1},
	} {
		b := xdr.AppendUint32(slices.Clone(head), uint32(len(tt.body)))
		b = append(xdr.AppendUint32(b, lastOfBatch), tt.body...)
		b = xdr.AppendUint32(b, crc32.Update(seed, castagnoli, b[len(head):]))
		st, err := readState(bytes.NewReader(b))
		if err != nil || len(st.services.fit) > 0 || st.services.unfit != tt.unfit || st.lost != tt.lost {
			t.Errorf("%s: %+v, %v", tt.name, st, err)
		}
	}
}

// FuzzJournal puts any bytes behind a head, as they are and as records with a
// right checksum, cut where they have a zero: what is read can be written and
// read again, and is not more than was there.
func FuzzJournal(f *testing.F) {
	st := state{boot: "b"}
	head, seed := appendHead(nil, [identitySize]byte{1, 2, 3}, &st)
	for _, r := range records(fileOf(&st, shortHistory()...), len(head))[1:] {
		f.Add(r[recordHead : len(r)-crc32.Size])
	}
	f.Add(fileOf(&st, shortHistory()...)[len(head):])
	f.Fuzz(func(t *testing.T, data []byte) {
		forged := slices.Clone(head)
		for number, rest := uint32(0), data; len(rest) > 0; number++ {
			body := rest[:min(len(rest), 4*(1+int(rest[len(rest)-1])))]
			rest = rest[len(body):]
			start := len(forged)
			forged = xdr.AppendUint32(xdr.AppendUint32(forged, uint32(len(body))), number|lastOfBatch)
			forged = append(forged, body...)
			forged = xdr.AppendUint32(forged, crc32.Update(seed, castagnoli, forged[start:]))
		}
		for _, file := range [][]byte{slices.Concat(head, data), forged} {
			got, err := readState(bytes.NewReader(file))
			if err != nil {
				t.Fatal(err)
			}
			if n := len(got.services.fit); n*24 > len(file) {
				t.Errorf("%d services from %d bytes", n, len(file))
			}
			again, err := readState(bytes.NewReader(fileOf(&got, sets(got.services.fit...))))
			if d := cmp.Diff(got.services.fit, again.services.fit, compare); d != "" || err != nil || again.lost > 0 {
				t.Errorf("read again: %v, %d lost (-first +second):\n%s", err, again.lost, d)
			}
		}
	})
}

// A damaged file gives what it can, says so, and is kept.
func TestDamagedJournal(t *testing.T) {
	p := newPlace(t)
	d := p.open()
	p.load(d)
	r := registry.New(own, nil, d)
	for _, reg := range ports(1, 2, 3) {
		if ok, err := r.Set(reg); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	d.Close()
	path := p.own + "/" + stateFile
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)-100] ^= 1 // in the record of port 2
	write(t, path, data)
	d = p.open()
	l := p.load(d)
	if got := portsOf(l.Registrations); !slices.Equal(got, []uint16{1, 3}) {
		t.Errorf("loaded %v", got)
	}
	if len(l.Notes) != 1 || !strings.Contains(l.Notes[0], "at least 1 changes") || !strings.Contains(l.Notes[0], stateFile+".corrupt-1") {
		t.Errorf("notes %q", l.Notes)
	}
	if err := d.Save(nil, snapshot(l.Registrations...)); err != nil {
		t.Fatal(err)
	}
	if kept, err := os.ReadFile(path + ".corrupt-1"); !bytes.Equal(kept, data) {
		t.Errorf("kept %d of %d bytes, %v", len(kept), len(data), err)
	}
	d.Close()
	if l := p.load(p.open()); !slices.Equal(portsOf(l.Registrations), []uint16{1, 3}) || len(l.Notes) > 0 {
		t.Errorf("then %v, notes %q", portsOf(l.Registrations), l.Notes)
	}
}

// Through any changes, with compactions at any moment and starts in between,
// the file has what the registry has, in its order.
func TestJournalFollowsRegistry(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			rt.Fatal(err)
		}
		p := &place{t: t, own: dir + "/own"}
		var d *Dir
		var r *registry.Registry
		start := func() {
			if d, err = Open(p.own, p.options()); err != nil {
				rt.Fatal(err)
			}
			l, err := d.Load()
			if err != nil || len(l.Notes) > 0 {
				rt.Fatal(l.Notes, err)
			}
			d.small, d.step = 256, rapid.IntRange(1, 5).Draw(rt, "step")
			r = registry.New(own, l.Registrations, d)
		}
		start()
		defer func() { d.Close() }()
		var kept []registry.Registration
		rt.Repeat(map[string]func(*rapid.T){
			"set": func(rt *rapid.T) {
				reg := ports(rapid.Uint16Range(1, 30).Draw(rt, "port"))[0]
				if ok, err := r.Set(reg); !ok || err != nil {
					rt.Fatal(ok, err)
				}
			},
			"unset": func(rt *rapid.T) {
				program := 200000 + rapid.Uint32Range(1, 30).Draw(rt, "port")
				if ok, err := r.Unset(program, 1, nil, "1000"); !ok || err != nil {
					rt.Fatal(ok, err)
				}
			},
			"start again": func(rt *rapid.T) {
				// As a kill leaves it: a compaction's file stays.
				d.journal, d.compaction = nil, nil
				d.own.close()
				kept = services(r.Snapshot())
				start()
				if diff := cmp.Diff(kept, services(r.Snapshot()), compare); diff != "" {
					rt.Fatalf("after a start (-before +after):\n%s", diff)
				}
			},
			"": func(rt *rapid.T) {
				data, err := os.ReadFile(p.own + "/" + stateFile)
				if errors.Is(err, fs.ErrNotExist) && r.Snapshot().Len() == len(own) {
					return
				}
				st, err := readState(bytes.NewReader(data))
				if diff := cmp.Diff(services(r.Snapshot()), st.services.fit, compare); diff != "" || err != nil || st.lost > 0 {
					rt.Fatalf("%v, %d lost (-registry +file):\n%s", err, st.lost, diff)
				}
				if len(data) > 4*(len(fileOf(&st, sets(st.services.fit...)))+256) {
					rt.Fatalf("the file of %d registrations has %d bytes", len(st.services.fit), len(data))
				}
			},
		})
	})
}

// What was registered when the file was written is not kept in memory for as
// long as it is appended to.
func TestSnapshotIsLetGo(t *testing.T) {
	d, err := Open(t.TempDir(), Options{UID: os.Geteuid(), GID: os.Getegid()})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	s := registry.New(own, ports(1, 2, 3), nil).Snapshot()
	kept := weak.Make(s)
	if err := d.Save(nil, s); err != nil {
		t.Fatal(err)
	}
	s = nil
	runtime.GC()
	if kept.Value() != nil {
		t.Error("the snapshot is still there")
	}
	if d.journal == nil {
		t.Error("there is no file to append to")
	}
}

// A batch that did not fit leaves nothing behind, and what fits goes on.
func TestBatchDoesNotFit(t *testing.T) {
	h := lab.NewHost(t, "full")
	err := h.Do(func() error {
		if err := errors.Join(os.Mkdir("/run/small", 0o755), unix.Mount("tmpfs", "/run/small", "tmpfs", 0, "size=32k,mode=0755")); err != nil {
			return err
		}
		p := &place{t: t, own: "/run/small"}
		d := p.open()
		defer d.Close()
		if err := d.Save(nil, snapshot(ports(1)...)); err != nil {
			return err
		}
		var many []uint16
		for n := range uint16(2000) {
			many = append(many, 100+n)
		}
		before := d.journal.size
		if err := d.Save(sets(ports(many...)...), snapshot(ports(many...)...)); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("saved on a full disk: %v", err)
		}
		if info, err := os.Stat(p.own + "/" + stateFile); err != nil || info.Size() != before {
			t.Errorf("%d bytes, want %d, %v", info.Size(), before, err)
		}
		if err := d.Save(sets(ports(2)...), snapshot(ports(1, 2)...)); err != nil {
			t.Error(err)
		}
		if got := p.onDisk(); !slices.Equal(got, []uint16{1, 2}) {
			t.Errorf("on disk: %v", got)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// What could neither be written nor taken back is not written over, since the
// rest of it could be taken for something else: the next save begins a new file.
func TestUnsureEnd(t *testing.T) {
	p := newPlace(t)
	d := p.open()
	p.load(d)
	r := registry.New(nil, nil, d)
	set := func(port uint16) error {
		_, err := r.Set(ports(port)[0])
		return err
	}
	if err := set(1); err != nil {
		t.Fatal(err)
	}
	// No disk dies on demand: this file can't be written to, nor be cut.
	readOnly, err := os.Open(p.own + "/" + stateFile)
	if err != nil {
		t.Fatal(err)
	}
	d.journal.file.Close()
	d.journal.file = readOnly
	if err := set(2); err == nil {
		t.Error("SET without saving")
	}
	if got := p.onDisk(); !slices.Equal(got, []uint16{1}) {
		t.Errorf("on disk: %v", got)
	}
	if err := set(3); err != nil {
		t.Error(err)
	}
	if got := p.onDisk(); !slices.Equal(got, []uint16{1, 3}) {
		t.Errorf("on disk: %v", got)
	}
}

// Whatever others do to the file, the next save puts right.
func TestFileTakenAway(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(path string) error
	}{
		{"removed", os.Remove},
		{"renamed", func(path string) error { return os.Rename(path, path+".x") }},
		{"cut", func(path string) error { return os.Truncate(path, 99) }},
		{"appended to", func(path string) error {
			f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			f.WriteString("more")
			return f.Close()
		}},
		{"replaced by a copy", func(path string) error {
			data, err := os.ReadFile(path)
			return errors.Join(err, os.WriteFile(path+".x", data, 0o600), os.Rename(path+".x", path))
		}},
		{"replaced by a symbolic link", func(path string) error {
			return errors.Join(os.Rename(path, path+".x"), os.Symlink(path+".x", path))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPlace(t)
			d := p.open()
			p.load(d)
			r := registry.New(nil, nil, d)
			for _, port := range []uint16{1, 2} {
				if ok, err := r.Set(ports(port)[0]); !ok || err != nil {
					t.Fatal(ok, err)
				}
				if err := tt.do(p.own + "/" + stateFile); err != nil && port == 1 {
					t.Fatal(err)
				}
			}
			if ok, err := r.Set(ports(3)[0]); !ok || err != nil {
				t.Fatal(ok, err)
			}
			d.Close()
			if l := p.load(p.open()); !slices.Equal(portsOf(l.Registrations), []uint16{1, 2, 3}) || len(l.Notes) > 0 {
				t.Errorf("loaded %v, notes %q", portsOf(l.Registrations), l.Notes)
			}
		})
	}
}

// A compaction that fails does not fail the save, and is tried again.
func TestCompactionFails(t *testing.T) {
	p := newPlace(t)
	d := p.open()
	p.load(d)
	d.small, d.step = 256, 1
	r := registry.New(nil, nil, d)
	set := func(port uint16) {
		t.Helper()
		if ok, err := r.Set(ports(port)[0]); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	set(1)
	inTheWay := p.own + "/" + stateFile + tempSuffix
	if err := os.MkdirAll(inTheWay+"/full", 0o755); err != nil {
		t.Fatal(err)
	}
	for port := range uint16(40) {
		set(2 + port)
	}
	grown := d.journal
	if err := os.RemoveAll(inTheWay); err != nil {
		t.Fatal(err)
	}
	for port := range uint16(80) {
		set(100 + port)
	}
	if d.journal == grown {
		t.Error("there was no compaction when there could be")
	}
	if got := p.onDisk(); len(got) != 121 {
		t.Errorf("%d on disk", len(got))
	}
}
