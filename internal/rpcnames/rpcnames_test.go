package rpcnames

import (
	"os"
	"slices"
	"strings"
	"testing"

	"rpcward/rpcbind"
)

func TestRead(t *testing.T) {
	table := read(strings.NewReader("# names\nnfs\t100003 nfsprog other # comment\n\nshort\nbad x\nbig 4294967296\nnfs 7\nseven 7\nlast 8"))
	for name, want := range map[string]uint32{"nfs": 100003, "nfsprog": 100003, "other": 100003, "seven": 7, "last": 8} {
		if got, ok := table.numbers[name]; !ok || got != want {
			t.Errorf("%s = %d, %v, want %d", name, got, ok, want)
		}
	}
	for number, want := range map[uint32]string{100003: "nfs", 7: "nfs", 8: "last"} {
		if got := table.names[number]; got != want {
			t.Errorf("%d = %q, want %q", number, got, want)
		}
	}
	for _, name := range []string{"short", "bad", "big", "#", "comment"} {
		if n, ok := table.numbers[name]; ok {
			t.Errorf("%s = %d", name, n)
		}
	}
}

type endless struct{ n int }

func (e *endless) Read(p []byte) (int, error) {
	e.n += len(p)
	for i := range p {
		p[i] = "n 1\n"[i%4]
	}
	return len(p), nil
}

func TestReadIsBounded(t *testing.T) {
	var e endless
	read(&e)
	if e.n > 2*maxFile {
		t.Errorf("read %d bytes", e.n)
	}
}

// The built-in table must not contradict the file that Debian ships.
func TestWellKnownMatchesHost(t *testing.T) {
	f, err := os.Open(Path)
	if err != nil {
		t.Skip("needs ", Path)
	}
	defer f.Close()
	for number, name := range read(f).names {
		if got := rpcbind.ProgramName(number); got != "" && got != name {
			t.Errorf("%d: built in as %s, in %s as %s", number, got, Path, name)
		}
	}
	if got := Name(100000); got != "portmapper" {
		t.Errorf("Name(100000) = %q", got)
	}
}

// What admins write for a service is one of its names.
func TestNames(t *testing.T) {
	for number, names := range map[uint32]string{
		100001: "rstatd rpc.rstatd 100001", 100003: "nfs nfsd rpc.nfsd 100003", 100004: "ypserv 100004",
		100005: "mountd rpc.mountd mount 100005 ganesha.nfsd", 100007: "ypbind", 100011: "rquotad rpc.rquotad",
		100021: "nlockmgr lockd rpc.lockd", 100024: "status statd rpc.statd", 100227: "nfs_acl nfs nfsd",
		391002: "sgi_fam fam rpc.famd", 395183: "vxi11", 4711: "4711",
	} {
		got := Names(number)
		for _, name := range strings.Fields(names) {
			if !slices.Contains(got, name) {
				t.Errorf("%d: %q is none of %q", number, name, got)
			}
		}
		if slices.Contains(Names(100005), "nfsd") {
			t.Error("mountd is called nfsd")
		}
	}
	if got := Names(100005)[0]; got != "mountd" {
		t.Errorf("the usual name of 100005 is %q", got)
	}
}
