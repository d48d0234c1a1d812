package daemon_test

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"rpcward/rpcbind"
	"rpcward/test/lab"
)

// programs lists the programs that are registered on h, without our own.
func programs(t *testing.T, h *lab.Host) []uint32 {
	t.Helper()
	var list []uint32
	for _, m := range dump(t, h) {
		if m.Program != rpcbind.Program {
			list = append(list, m.Program)
		}
	}
	return list
}

// What is there after a restart, however the first run ended.
func TestRestart(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		options []string
		sig     syscall.Signal
		want    []uint32
	}{
		{"clean end", nil, syscall.SIGTERM, []uint32{400001, 400000}},
		{"killed", nil, syscall.SIGKILL, []uint32{400001, 400000}},
		{"another folder", []string{"--state-dir", "/var/yp/state"}, syscall.SIGKILL, []uint32{400001, 400000}},
		{"no folder", []string{"--state-dir", "none", "--rpcbind-state", ""}, syscall.SIGTERM, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := lab.NewHost(t, "server")
			p := serve(t, h, tt.options...)
			conn := connect(t, h, "unix", abstract)
			for _, program := range []uint32{400001, 400002, 400000} {
				if err := set(conn, program); err != nil {
					t.Fatal(err)
				}
			}
			if err := change(conn, rpcbind.ProcUnset, 400002); err != nil {
				t.Fatal(err)
			}
			p.Stop(tt.sig)
			p = serve(t, h, tt.options...)
			if got := programs(t, h); !slices.Equal(got, tt.want) {
				t.Errorf("after the restart: %v, want %v", got, tt.want)
			}
			if strings.Contains(p.Log(), "warning") {
				t.Errorf("warnings:\n%s", p.Log())
			}
		})
	}
}

// A change that can't be saved is refused, said, and not kept in memory either;
// when there is room again, changes are taken again.
func TestFullState(t *testing.T) {
	t.Parallel()
	h := lab.NewHost(t, "server")
	h.MustRun("sh", "-c", "mkdir /run/rpcward && mount -t tmpfs -o size=64k,mode=755 tmpfs /run/rpcward")
	p := serve(t, h)
	conn := connect(t, h, "unix", abstract)
	h.MustRun("sh", "-c", "dd if=/dev/zero of=/run/rpcward/filler bs=4k 2>/dev/null || true")
	var want []uint32 // what fits in the last block of the file
	for program := uint32(400000); ; program++ {
		if err := set(conn, program); err != nil {
			break
		}
		if want = append(want, program); len(want) > 200 {
			t.Fatal("SET is answered TRUE on a full disk")
		}
	}
	if got := programs(t, h); !slices.Equal(got, want) {
		t.Errorf("registered: %v, want %v", got, want)
	}
	waitLog(t, p, "a change was refused since it can't be saved: saving registrations in /run/rpcward: ")
	waitLog(t, p, "no space left on device")
	h.MustRun("rm", "/run/rpcward/filler")
	if err := set(conn, 500000); err != nil {
		t.Errorf("SET with room again: %v", err)
	}
	want = append(want, 500000)
	p.Stop(syscall.SIGKILL)
	serve(t, h)
	if got := programs(t, h); !slices.Equal(got, want) {
		t.Errorf("after the restart: %v, want %v", got, want)
	}
}

// portmap's mapping file is taken over, and lines that make no sense are named.
func TestMappingFile(t *testing.T) {
	t.Parallel()
	h := lab.NewHost(t, "server")
	h.WriteFile("/run/portmap_mapping", "100000 2 6 111 1\n100003 3 6 2049 1\n100024 1 17 40000 0\nnonsense\n100005 3 99 1 1\n100005 3 6 70000 1\n100005 3 6 0 1\n")
	h.MustRun("ln", "-s", lab.Rpcward(t).Toolbox(), "/run/portmap")
	p := h.Start("/run/portmap", "-f", "-m", "/run/portmap_mapping")
	p.WaitServing()
	want := []string{"100003 3 tcp 0.0.0.0.8.1 superuser", "100024 1 udp 0.0.0.0.156.64 unknown"}
	var got []string
	for _, m := range dump(t, h) {
		if m.Program != rpcbind.Program {
			got = append(got, fmt.Sprint(m.Program, " ", m.Version, " ", m.NetID, " ", m.Addr, " ", m.Owner))
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("taken over: %q, want %q", got, want)
	}
	for line := 4; line <= 7; line++ {
		if want := fmt.Sprintf("/run/portmap_mapping:%d: not a mapping", line); !strings.Contains(p.Log(), want) {
			t.Errorf("the log does not say %q:\n%s", want, p.Log())
		}
	}
}
