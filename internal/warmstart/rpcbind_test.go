package warmstart

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"rpcward/internal/registry"
	"rpcward/rpcbind"
	"rpcward/rpcbind/client"
	"rpcward/test/lab"
)

// The folders on a host of the lab.
const (
	hostState  = "/run/rpcward"
	hostImport = "/run/rpcbind" // as the distribution's rpcbind is built
)

// dialAs connects to the port mapper of h as a local user.
func dialAs(t *testing.T, h *lab.Host, uid int) *client.Client {
	t.Helper()
	var c *client.Client
	err := h.Do(func() (err error) {
		// The kernel notes the credentials of the thread that connects. This
		// one ends with Do.
		if _, _, e := unix.RawSyscall(unix.SYS_SETREUID, ^uintptr(0), uintptr(uid), 0); e != 0 {
			return fmt.Errorf("becoming user %d: %w", uid, e)
		}
		c, err = client.Dial(t.Context(), "local", lab.Sock)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// registerMany makes 200 registrations in all the ways that there are.
func registerMany(t *testing.T, h *lab.Host) {
	t.Helper()
	clients := []*client.Client{dialAs(t, h, 0), dialAs(t, h, 1000), dialAs(t, h, 1001)}
	for i := range uint32(200) {
		c := clients[i%3]
		var ok bool
		var err error
		if i%5 == 0 {
			ok, err = c.SetMapping(t.Context(), rpcbind.Mapping{Program: 300000 + i, Version: 2, Prot: []uint32{rpcbind.ProtTCP, rpcbind.ProtUDP}[i%2], Port: 1000 + i})
		} else {
			m := rpcbind.RPCB[string]{Program: 300000 + i, Version: 3, Owner: "ignored"}
			switch i % 5 {
			case 1:
				m.NetID, m.Addr = "udp6", fmt.Sprintf("::.4.%d", i)
			case 2:
				m.NetID, m.Addr = "tcp6", fmt.Sprintf("fe80::1.4.%d", i)
			case 3:
				m.NetID, m.Addr = "local", "/run/service "+strconv.Itoa(int(i))
			case 4:
				m.NetID, m.Addr = "tcp", fmt.Sprintf("127.0.0.1.4.%d", i)
			}
			ok, err = c.Set(t.Context(), 3+i%2, &m)
		}
		if !ok || err != nil {
			t.Fatalf("registration %d: %v, %v", i, ok, err)
		}
	}
	// A hole, so that order is more than that of numbers.
	if ok, err := clients[0].Unset(t.Context(), 3, &rpcbind.RPCB[string]{Program: 300007, Version: 3}); !ok || err != nil {
		t.Fatalf("unset: %v, %v", ok, err)
	}
	if ok, err := clients[0].Set(t.Context(), 3, &rpcbind.RPCB[string]{Program: 300007, Version: 9, NetID: "tcp", Addr: "0.0.0.0.4.4"}); !ok || err != nil {
		t.Fatalf("set: %v, %v", ok, err)
	}
}

// dumps are what a port mapper tells of itself.
type dumps struct {
	RPCBs    []rpcbind.RPCB[string]
	Mappings []rpcbind.Mapping
}

func dump(t *testing.T, h *lab.Host) dumps {
	t.Helper()
	c := dialAs(t, h, 0)
	all, err := c.Dump(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	mappings, err := c.DumpMappings(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return dumps{all, mappings}
}

// stopAndRead ends rpcbind and returns the files that it leaves, by name.
func stopAndRead(t *testing.T, h *lab.Host, p *lab.Process) map[string]string {
	t.Helper()
	if err := p.Stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, name := range []string{rpcbindFile, portmapFile} {
		data, err := h.ReadFile(filepath.Join(hostImport, name))
		if err != nil {
			t.Fatal(err)
		}
		files[name] = data
	}
	return files
}

// From the distribution's rpcbind to us and back: the same registrations in
// the same order, and the very bytes that rpcbind writes.
func TestFromRpcbindAndBack(t *testing.T) {
	h := lab.NewHost(t, "stock")
	p := lab.StartPortMapper(t, h, lab.Stock(t), "-w")
	registerMany(t, h)
	before := dump(t, h)
	files := stopAndRead(t, h, p)

	var after []registry.Registration // what we leave
	err := h.Do(func() error {
		d, err := Open(hostState, Options{ImportDir: hostImport})
		if err != nil {
			return err
		}
		defer d.Close()
		l, err := d.Load()
		if err != nil {
			return err
		}
		if len(l.Registrations) != 200 || l.Source != hostImport+"/"+rpcbindFile || len(l.Notes) > 0 {
			t.Errorf("%d registrations from %q, notes %q", len(l.Registrations), l.Source, l.Notes)
		}
		r := registry.New(ownOf(t, before.RPCBs), l.Registrations, d)
		if diff := cmp.Diff(before.RPCBs, asRPCBs(r.Snapshot())); diff != "" {
			t.Errorf("taken over (-rpcbind +rpcward):\n%s", diff)
		}
		for _, f := range rpcbindFiles {
			if got := f.append(nil, r.Snapshot()); string(got) != files[f.name] {
				t.Errorf("%s: we write\n%x\nrpcbind\n%x", f.name, got, files[f.name])
			}
		}
		if ok, err := r.Unset(300001, 3, nil, registry.Superuser); !ok || err != nil {
			t.Errorf("unset: %v, %v", ok, err)
		}
		if ok, err := r.Set(at(300500, 1, rpcbind.UDP, "0.0.0.0.9.9", "1002")); !ok || err != nil {
			t.Errorf("set: %v, %v", ok, err)
		}
		if _, err := os.Lstat(hostImport + "/" + rpcbindFile); err == nil {
			t.Error("rpcbind.xdr is still there after it was taken over and saved")
		}
		after = services(r.Snapshot())
		return d.Export(r.Snapshot())
	})
	if err != nil {
		t.Fatal(err)
	}

	p = lab.StartPortMapper(t, h, lab.Stock(t), "-w")
	back := dump(t, h)
	if diff := cmp.Diff(asRPCBs(registry.New(ownOf(t, before.RPCBs), after, nil).Snapshot()), back.RPCBs); diff != "" {
		t.Errorf("back on rpcbind, version 3 (-rpcward +rpcbind):\n%s", diff)
	}
	if n := len(before.Mappings) + 1; len(back.Mappings) != n {
		t.Errorf("back on rpcbind, version 2: %d mappings, want %d", len(back.Mappings), n)
	}
	if p.Stop(syscall.SIGKILL); t.Failed() {
		t.Log(p.Log())
	}
	err = h.Do(func() error {
		d, err := Open(hostState, Options{ImportDir: hostImport})
		if err != nil {
			return err
		}
		defer d.Close()
		l, err := d.Load()
		if diff := cmp.Diff(after, l.Registrations, compare); diff != "" || len(l.Notes) != 1 {
			t.Errorf("after rpcbind was killed: notes %q (-want +got):\n%s", l.Notes, diff)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// ownOf returns rpcbind's registrations of itself.
func ownOf(t *testing.T, list []rpcbind.RPCB[string]) []registry.Registration {
	t.Helper()
	var regs []registry.Registration
	for _, m := range list {
		if m.Program == rpcbind.Program {
			regs = append(regs, at(m.Program, m.Version, rpcbind.ParseNetID(m.NetID), m.Addr, m.Owner))
		}
	}
	if len(regs) == 0 {
		t.Fatal("rpcbind does not list itself")
	}
	return regs
}

func asRPCBs(s *registry.Snapshot) []rpcbind.RPCB[string] {
	var list []rpcbind.RPCB[string]
	for r := range s.All() {
		list = append(list, rpcbind.RPCB[string]{Program: r.Program, Version: r.Version, NetID: r.NetID.String(), Addr: r.Addr, Owner: r.Owner})
	}
	return list
}
