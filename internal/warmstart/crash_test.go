package warmstart

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rpcward/internal/registry"
	"rpcward/test/lab"
)

// childEnv makes this test program one of the processes below instead.
const childEnv = "RPCWARD_WARMSTART_CHILD"

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(childEnv) {
	case "":
		os.Exit(m.Run())
	case "register":
		err = registerForever(os.Args[1], os.Args[2])
	case "drop":
		err = dropAndSave(os.Args[1], os.Args[2], os.Args[3])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func child(what string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), childEnv+"="+what)
	cmd.Stderr = os.Stderr
	return cmd
}

// Each goroutine of registerForever has ports of its own.
const (
	registrars   = 4
	portsForEach = 64
)

// registerForever sets and unsets with several goroutines. It says "?PORT"
// before each change, and "+PORT" or "-PORT" when that is acknowledged. First
// of all it says what it loaded.
func registerForever(own, imports string) error {
	d, err := Open(own, Options{UID: os.Geteuid(), GID: os.Getegid(), ImportDir: imports})
	if err != nil {
		return err
	}
	l, err := d.Load()
	if err != nil || len(l.Notes) > 0 {
		return fmt.Errorf("loading: %q, %w", l.Notes, err)
	}
	fmt.Println(portsOf(l.Registrations))
	d.small, d.step = 1<<10, 2 // so that a compaction is under way all the time
	r := registry.New(nil, l.Registrations, d)
	failed := make(chan error)
	for g := range uint16(registrars) {
		go func() {
			for {
				if err := changeOne(r, 1+g*portsForEach+rand.N[uint16](portsForEach)); err != nil {
					failed <- err
				}
			}
		}()
	}
	return <-failed
}

// changeOne registers a port, or removes it if it is registered.
func changeOne(r *registry.Registry, port uint16) error {
	reg := ports(port)[0]
	sign, change := "+", func() (bool, error) { return r.Set(reg) }
	if r.Snapshot().Exact(reg.Key) != nil {
		sign, change = "-", func() (bool, error) { return r.Unset(reg.Program, 1, nil, "1000") }
	}
	fmt.Printf("?%d\n", port)
	if ok, err := change(); !ok || err != nil {
		return fmt.Errorf("%s%d: %v, %w", sign, port, ok, err)
	}
	fmt.Printf("%s%d\n", sign, port)
	return nil
}

// Killed at any moment, a registry has all that it acknowledged, and nothing
// else but changes that were under way.
func TestKillLosesNothing(t *testing.T) {
	dir := t.TempDir()
	last := map[int]string{} // what was said about each port last
	acknowledged := 0
	rounds := 60
	if testing.Short() {
		rounds = 10
	}
	compactions := map[string]bool{} // by what of them a kill met
	for round := 0; round < rounds || !compactions["under way"] && round < 20*rounds; round++ {
		lines := runAndKill(t, dir, time.Duration(1+rand.N(40))*time.Millisecond)
		_, err := os.Lstat(dir + "/own/" + stateFile + tempSuffix)
		compactions[map[bool]string{true: "under way", false: "none"}[err == nil]] = true
		loaded := strings.Fields(strings.Trim(lines[0], "[]"))
		for port := 1; port <= registrars*portsForEach; port++ {
			there := slices.Contains(loaded, strconv.Itoa(port))
			if said := last[port]; said != "?" && (said == "+") != there {
				t.Errorf("port %d: %q was acknowledged; registered after the kill: %v", port, said, there)
			}
			last[port] = map[bool]string{true: "+", false: "-"}[there]
		}
		for _, line := range lines[1:] {
			port, err := strconv.Atoi(line[1:])
			if err != nil {
				t.Fatalf("line %q", line)
			}
			if last[port] = line[:1]; line[0] != '?' {
				acknowledged++
			}
		}
	}
	if acknowledged < rounds || !compactions["under way"] {
		t.Errorf("only %d changes were acknowledged, compactions %v: nothing was tested", acknowledged, compactions)
	}
	t.Logf("%d changes were acknowledged, compactions met: %v", acknowledged, compactions)
}

// runAndKill starts a registry, kills it after it has worked for a while, and
// returns the whole lines that it wrote.
func runAndKill(t *testing.T, dir string, after time.Duration) []string {
	t.Helper()
	cmd := child("register", dir+"/own", dir+"/rpcbind")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	r := bufio.NewReader(out)
	for begun := false; ; {
		line, err := r.ReadString('\n')
		if err != nil { // what is left is not a whole line
			break
		}
		text.WriteString(line)
		if !begun {
			begun = true
			time.AfterFunc(after, func() { cmd.Process.Kill() })
		}
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the child was not killed, but ended: %v", err)
	}
	return strings.Split(strings.TrimSpace(text.String()), "\n")
}

// dropAndSave opens as root, becomes somebody else and works on.
func dropAndSave(own, imports, id string) error {
	uid, err := strconv.Atoi(id)
	if err != nil {
		return err
	}
	d, err := Open(own, Options{UID: uid, GID: uid, ImportDir: imports})
	if err != nil {
		return err
	}
	l, err := d.Load()
	if err != nil {
		return err
	}
	if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(uid), syscall.Setuid(uid)); err != nil {
		return err
	}
	s := snapshot(append(l.Registrations, ports(uint16(uid))...)...)
	return errors.Join(d.Save(nil, s), d.Export(s), d.Close())
}

// The folders go on working when root's rights are given up, and the next
// start may be for another user.
func TestRightsGivenUp(t *testing.T) {
	lab.NeedRoot(t)
	p := newPlace(t)
	if err := os.Chmod(filepath.Dir(p.own), 0o755); err != nil {
		t.Fatal(err)
	}
	want := ""
	for _, uid := range []int{4001, 4001, 4002} {
		if err := os.Chown(p.rpcbind, uid, 0); err != nil {
			t.Fatal(err)
		}
		if out, err := child("drop", p.own, p.rpcbind, strconv.Itoa(uid)).Output(); err != nil {
			t.Fatalf("as user %d: %v\n%s", uid, err, out)
		}
		if !strings.Contains(want, strconv.Itoa(uid)) {
			want += fmt.Sprintf(" %d", uid)
		}
		for _, path := range []string{p.own, p.own + "/" + stateFile, p.own + "/" + lockFile, p.rpcbind + "/" + rpcbindFile} {
			if info, err := os.Lstat(path); err != nil || ownerOf(info) != uid {
				t.Errorf("%s: %v, %v, want user %d", path, info, err, uid)
			}
		}
	}
	l := p.load(p.open())
	if got := fmt.Sprint(portsOf(l.Registrations)); got != fmt.Sprintf("[%s]", strings.TrimSpace(want)) {
		t.Errorf("loaded %s, want %s", got, want)
	}
}

// Nobody else can keep us out of our folder by locking what they can open of
// it, also if the lock file was once open to all.
func TestStrangerCannotLock(t *testing.T) {
	lab.NeedRoot(t)
	lab.NeedCommand(t, "flock")
	p := newPlace(t)
	parent := filepath.Dir(p.own)
	if err := errors.Join(os.Chmod(parent, 0o755), os.Chmod(filepath.Dir(parent), 0o755)); err != nil {
		t.Fatal(err)
	}
	p.ward(1, nil)
	if err := os.Chmod(p.own+"/"+lockFile, 0o666); err != nil {
		t.Fatal(err)
	}
	p.ward(2, nil)
	locked := 0
	for _, path := range []string{p.own, p.own + "/" + stateFile, p.own + "/" + lockFile} {
		cmd := exec.Command("flock", "--nonblock", path, "sh", "-c", "echo locked; read wait")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 4001, Gid: 4001}}
		hold, err1 := cmd.StdinPipe()
		out, err2 := cmd.StdoutPipe()
		if err := errors.Join(err1, err2, cmd.Start()); err != nil {
			t.Fatal(err)
		}
		if line, _ := bufio.NewReader(out).ReadString('\n'); line == "locked\n" {
			locked++
		}
		d, err := Open(p.own, p.options())
		if err != nil {
			t.Errorf("with a stranger's lock on %s: %v", path, err)
		} else {
			d.Close()
		}
		hold.Close()
		cmd.Wait()
	}
	if locked != 1 {
		t.Errorf("a stranger locked %d of the files, want the folder alone", locked)
	}
}

// A folder with something else in it is not given to the service's user.
func TestForeignFolderIsNotGivenAway(t *testing.T) {
	lab.NeedRoot(t)
	dir := t.TempDir()
	write(t, dir+"/precious", nil)
	if d, err := Open(dir, Options{UID: 4001, GID: 4001}); err == nil || !strings.Contains(err.Error(), "precious") {
		t.Errorf("opened %v, %v", d, err)
	}
	info, err := os.Stat(dir)
	if err != nil || ownerOf(info) != 0 {
		t.Errorf("owner %d, %v", ownerOf(info), err)
	}
	if files, err := os.ReadDir(dir); len(files) != 1 {
		t.Errorf("files in it now: %v, %v", files, err)
	}
}

// Exported by root, rpcbind's files are readable for rpcbind's user.
func TestExportAsRoot(t *testing.T) {
	lab.NeedRoot(t)
	p := newPlace(t)
	if err := errors.Join(os.Chmod(filepath.Dir(p.rpcbind), 0o755), os.Chown(p.rpcbind, 4003, 0)); err != nil {
		t.Fatal(err)
	}
	p.ward(1, export)
	info, err := os.Lstat(p.rpcbind + "/" + rpcbindFile)
	if err != nil || ownerOf(info) != 4003 || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

// A full disk refuses the change, keeps what was there, and is got over.
func TestFullDisk(t *testing.T) {
	h := lab.NewHost(t, "full")
	err := h.Do(func() error {
		if err := errors.Join(os.Mkdir("/run/small", 0o755), unix.Mount("tmpfs", "/run/small", "tmpfs", 0, "size=64k,mode=0755")); err != nil {
			return err
		}
		d, err := Open("/run/small", Options{})
		if err != nil {
			return err
		}
		defer d.Close()
		r := registry.New(own, nil, d)
		n := uint16(1)
		for ; err == nil && n < 10000; n++ {
			_, err = r.Set(ports(n)[0])
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Errorf("after %d: %v, want ENOSPC", n, err)
		}
		saved := r.Snapshot().Len() - len(own)
		if saved < 100 {
			t.Errorf("%d saved", saved)
		}
		if l, err := d.Load(); err != nil || len(l.Registrations) != saved {
			t.Errorf("loaded %d, %v, want %d", len(l.Registrations), err, saved)
		}
		if ok, err := r.Set(ports(n)[0]); ok || err == nil {
			t.Errorf("set on a full disk: %v, %v", ok, err)
		}
		if err := unix.Mount("", "/run/small", "", unix.MS_REMOUNT, "size=1m"); err != nil {
			return err
		}
		if ok, err := r.Set(ports(n)[0]); !ok || err != nil {
			t.Errorf("with room again: %v, %v", ok, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// onDisk returns the ports that the next start would find.
func (p *place) onDisk() []uint16 {
	p.t.Helper()
	data, err := os.ReadFile(p.own + "/" + stateFile)
	if err != nil {
		p.t.Fatal(err)
	}
	st, err := readState(bytes.NewReader(data))
	if err != nil {
		p.t.Fatal(err)
	}
	return portsOf(st.services.fit)
}

// Where nothing can be written, Open says so at once.
func TestReadOnlyFolder(t *testing.T) {
	h := lab.NewHost(t, "readonly")
	err := h.Do(func() error {
		if err := errors.Join(os.Mkdir("/run/ro", 0o755), unix.Mount("tmpfs", "/run/ro", "tmpfs", unix.MS_RDONLY, "mode=0755")); err != nil {
			return err
		}
		if d, err := Open("/run/ro", Options{}); !errors.Is(err, unix.EROFS) {
			t.Errorf("opened %v, %v", d, err)
		}
		if d, err := Open("/run/ro/state", Options{}); !errors.Is(err, unix.EROFS) {
			t.Errorf("made %v, %v", d, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
