package policyfile

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"rpcward/internal/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	stranger = "10.9.9.9"
	friend   = "10.1.1.1"
	opens    = "portmap: 10.1.\n"
	opensAll = "portmap: ALL\n"
	refusing = "portmap: 10.9.\n"
	broken   = "portmap: 10.1\n"
)

// bench is a Watcher on files in a directory of its own.
type bench struct {
	*Watcher
	t           *testing.T
	allow, deny string // paths
	log         *logBuffer
}

// logBuffer is a log that may be read while it is written.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// watch starts a Watcher on hosts.allow and hosts.deny under dir.
func watch(t *testing.T, dir string, o policy.Options) *bench {
	t.Helper()
	b := &bench{t: t, allow: filepath.Join(dir, "hosts.allow"), deny: filepath.Join(dir, "hosts.deny"), log: &logBuffer{}}
	b.Watcher = New(b.allow, b.deny, o, slog.New(slog.NewTextHandler(b.log, nil)))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { b.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
		if t.Failed() {
			t.Logf("log:\n%s", b.log)
		}
	})
	// Changes made before Run watches are noticed too, but this test wants
	// to see the kernel tell of them.
	time.Sleep(20 * time.Millisecond)
	return b
}

func (b *bench) answers(source string) bool {
	o := policy.Origin{Source: netip.AddrPortFrom(netip.MustParseAddr(source), 700)}
	return b.Current().Decide(&o).Verdict == policy.Answer
}

// wait waits until source is answered, or not. An inotify event takes effect
// in a tenth of a second; only the poll would take a whole one.
func (b *bench) wait(what, source string, want bool) {
	b.t.Helper()
	b.waitFor(what, 800*time.Millisecond, func() bool { return b.answers(source) == want })
}

func (b *bench) waitFor(what string, most time.Duration, done func() bool) {
	b.t.Helper()
	for end := time.Now().Add(most); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("%s: nothing happened within %v; faults %v", what, most, b.Faults())
		}
	}
}

// never says that source stays unanswered for a while.
func (b *bench) never(what, source string, d time.Duration) {
	b.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if b.answers(source) {
			b.t.Fatalf("%s: %s is answered", what, source)
		}
	}
}

func write(t *testing.T, path, data string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}

// replace puts a new file in the place of the old, as careful editors do.
func replace(t *testing.T, path, data string) {
	t.Helper()
	write(t, path+".new", data)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFilesAppearChangeAndGo(t *testing.T) {
	t.Parallel()
	b := watch(t, t.TempDir(), policy.Options{})
	if b.answers(friend) || len(b.Faults()) != 0 {
		t.Fatalf("without files: friend is answered or there are faults %v", b.Faults())
	}
	write(t, b.allow, opens)
	b.wait("created", friend, true)
	write(t, b.allow, "portmap: 10.9.\n")
	b.wait("rewritten", stranger, true)
	b.wait("rewritten", friend, false)
	replace(t, b.allow, opens)
	b.wait("renamed over", friend, true)
	replace(t, b.allow, "sshd: ALL\n")
	b.wait("renamed over again", friend, false)
	replace(t, b.allow, opens)
	b.wait("renamed over once more", friend, true)
	must(t, os.Remove(b.allow))
	b.wait("removed", friend, false)
	if f := b.Faults(); len(f) != 0 {
		t.Errorf("faults %v", f)
	}
}

func TestSummaryIsLogged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "hosts.allow"), opens)
	b := watch(t, dir, policy.Options{})
	if want := `msg="policy in force" answering="this host and 10.1. (hosts.allow:1)"`; !strings.Contains(b.log.String(), want) {
		t.Errorf("log lacks %s:\n%s", want, b.log)
	}
}

func TestBadEditKeepsLastGoodPolicy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "hosts.allow"), opens)
	b := watch(t, dir, policy.Options{})
	good := b.Current()
	replace(t, b.allow, opensAll+broken)
	b.waitFor("a bad edit", time.Second, func() bool { return len(b.Faults()) > 0 })
	if b.Current() != good {
		t.Error("a bad edit changed the policy")
	}
	f := b.Faults()[0]
	if !strings.HasSuffix(f.Message, `hosts.allow:2:10: "10.1" is not a whole IPv4 address`) || f.Hint != "write 10.1.0.0/16" {
		t.Errorf("fault %+v", f)
	}
	if want := "level=ERROR msg=\"" + eventFault; !strings.Contains(b.log.String(), want) {
		t.Errorf("log lacks %s:\n%s", want, b.log)
	}
	replace(t, b.allow, opensAll)
	b.wait("a good edit", stranger, true)
	if f := b.Faults(); len(f) != 0 {
		t.Errorf("faults %v stay after a good edit", f)
	}
}

func TestBadEditUndone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "hosts.allow"), opens)
	b := watch(t, dir, policy.Options{})
	replace(t, b.allow, broken)
	b.waitFor("a bad edit", time.Second, func() bool { return len(b.Faults()) > 0 })
	replace(t, b.allow, opens)
	b.waitFor("undone", time.Second, func() bool { return len(b.Faults()) == 0 })
	if !b.answers(friend) {
		t.Error("friend is not answered")
	}
}

func TestNoGoodPolicyYet(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "hosts.allow"), opensAll)
	write(t, filepath.Join(dir, "hosts.deny"), broken)
	b := watch(t, dir, policy.Options{Default: policy.Allow})
	if b.answers(friend) {
		t.Error("a network client is answered by a policy that was never good")
	}
	own := policy.Origin{Channel: policy.Unix}
	if d := b.Current().Decide(&own); d.Verdict != policy.Answer {
		t.Errorf("this host: %+v", d)
	}
	must(t, os.Remove(b.deny))
	b.wait("the wrong file is gone", friend, true)
}

func TestUnreadable(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		put  func(t *testing.T, path string)
		want string
	}{
		{"directory", func(t *testing.T, path string) { must(t, os.Mkdir(path, 0o755)) }, "is not a file"},
		{"named pipe", func(t *testing.T, path string) { must(t, syscall.Mkfifo(path, 0o644)) }, "is not a file"},
		{"link to itself", func(t *testing.T, path string) { must(t, os.Symlink(path, path)) }, "too many levels of symbolic links"},
		{"too large", func(t *testing.T, path string) {
			write(t, path, "# x\n")
			must(t, os.Truncate(path, maxSize+1))
		}, "has more than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			write(t, filepath.Join(dir, "hosts.allow"), opensAll)
			write(t, filepath.Join(dir, "hosts.deny"), refusing)
			b := watch(t, dir, policy.Options{})
			must(t, os.Remove(b.deny))
			tt.put(t, b.deny)
			b.waitFor(tt.name, 2*time.Second, func() bool { return len(b.Faults()) > 0 })
			if f := b.Faults()[0]; !strings.Contains(f.Message, tt.want) || !strings.Contains(f.Message, b.deny) {
				t.Errorf("fault %+v", f)
			}
			if !b.answers(friend) {
				t.Error("the last good policy is not in force")
			}
			must(t, os.RemoveAll(b.deny))
			replace(t, b.deny, "")
			b.waitFor("a file again", 2*time.Second, func() bool { return len(b.Faults()) == 0 })
		})
	}
}

// asNobody runs the calling test again in a process of user 65534, since root
// reads everything.
func asNobody(t *testing.T) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestUnreadableByRights(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		asNobody(t)
		return
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "hosts.allow"), opensAll)
	b := watch(t, dir, policy.Options{})
	must(t, os.Chmod(b.allow, 0))
	b.waitFor("no right to read", time.Second, func() bool { return len(b.Faults()) > 0 })
	if !b.answers(friend) {
		t.Error("the last good policy is not in force")
	}
}

func TestDevNullIsEmpty(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	must(t, os.Symlink("/dev/null", filepath.Join(dir, "hosts.deny")))
	write(t, filepath.Join(dir, "hosts.allow"), opens)
	b := watch(t, dir, policy.Options{})
	if len(b.Faults()) != 0 || !b.answers(friend) {
		t.Errorf("faults %v", b.Faults())
	}
}

// TestRewriteInPlaceNeverOpens plays the editor that empties a file and writes
// it again, with time in between, where the default is to answer.
func TestRewriteInPlaceNeverOpens(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "hosts.deny"), refusing)
	b := watch(t, dir, policy.Options{Default: policy.Allow})
	if !b.answers(friend) || b.answers(stranger) {
		t.Fatal("not the policy of the file")
	}
	for range 3 {
		must(t, os.Truncate(b.deny, 0))
		b.never("emptied", stranger, 200*time.Millisecond)
		f, err := os.OpenFile(b.deny, os.O_WRONLY, 0)
		must(t, err)
		_, err = f.WriteString("portmap: 10.8.") // a whole rule, but no newline yet
		must(t, err)
		b.never("half written", stranger, 200*time.Millisecond)
		_, err = f.WriteString(" 10.9.\n")
		must(t, err)
		must(t, f.Close())
		b.wait("written", "10.8.0.1", false)
		b.never("written", stranger, 100*time.Millisecond)
		replace(t, b.deny, refusing)
		b.wait("as before", "10.8.0.1", true)
	}
	must(t, os.Rename(b.deny, b.deny+"~"))
	b.never("moved away", stranger, 200*time.Millisecond)
	must(t, os.Rename(b.deny+"~", b.deny))
	b.never("moved back", stranger, 200*time.Millisecond)
}

func TestEmptiedForGoodIsBelieved(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "hosts.deny"), refusing)
	b := watch(t, dir, policy.Options{Default: policy.Allow})
	must(t, os.Truncate(b.deny, 0))
	b.waitFor("emptied", grace+time.Second, func() bool { return b.answers(stranger) })
}

func TestReloadBelievesAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "hosts.deny"), refusing)
	b := watch(t, dir, policy.Options{Default: policy.Allow})
	must(t, os.Truncate(b.deny, 0))
	b.Reload(t.Context())
	if !b.answers(stranger) {
		t.Error("the file was not read, or not believed")
	}
}

func TestEmptiedAllowCloses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "hosts.allow"), opens)
	b := watch(t, dir, policy.Options{})
	must(t, os.Truncate(b.allow, 0))
	b.wait("emptied", friend, false)
}

// TestLinks follows files through links as Kubernetes lays them out: the file
// links to ..data/hosts.allow, and ..data is swapped to another directory.
func TestLinks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	swap := func(version, data string) {
		t.Helper()
		must(t, os.Mkdir(filepath.Join(dir, version), 0o755))
		write(t, filepath.Join(dir, version, "hosts.allow"), data)
		must(t, os.Symlink(version, filepath.Join(dir, "..data.new")))
		must(t, os.Rename(filepath.Join(dir, "..data.new"), filepath.Join(dir, "..data")))
	}
	swap("..1", opens)
	must(t, os.Symlink("..data/hosts.allow", filepath.Join(dir, "hosts.allow")))
	b := watch(t, dir, policy.Options{})
	if !b.answers(friend) {
		t.Fatal("the link was not followed")
	}
	swap("..2", "portmap: 10.9.\n")
	b.wait("swapped", stranger, true)
	b.wait("swapped", friend, false)
	swap("..3", opens)
	b.wait("swapped again", friend, true)
	write(t, filepath.Join(dir, "..3", "hosts.allow"), "portmap: 10.9.\n")
	b.wait("file behind the links rewritten", stranger, true)
}

func TestLinkedDirectory(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(top, "real"), 0o755))
	must(t, os.Symlink("real", filepath.Join(top, "etc")))
	b := watch(t, filepath.Join(top, "etc"), policy.Options{})
	write(t, filepath.Join(top, "real", "hosts.allow"), opens)
	b.wait("created behind the link", friend, true)
	must(t, os.Mkdir(filepath.Join(top, "other"), 0o755))
	must(t, os.Symlink("other", filepath.Join(top, "etc.new")))
	must(t, os.Rename(filepath.Join(top, "etc.new"), filepath.Join(top, "etc")))
	b.wait("another directory", friend, false)
	write(t, filepath.Join(top, "other", "hosts.allow"), opens)
	b.wait("created there", friend, true)
}

// TestMissingDirectory has nothing that inotify could watch at first.
func TestMissingDirectory(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "not", "yet")
	b := watch(t, dir, policy.Options{})
	time.Sleep(pollBlind + pollBlind/5) // past the first look
	must(t, os.MkdirAll(dir, 0o755))
	write(t, filepath.Join(dir, "hosts.allow"), opens)
	b.waitFor("directory made", 3*pollBlind, func() bool { return b.answers(friend) })
	replace(t, b.allow, "portmap: 10.9.\n")
	b.waitFor("watched from now on", 3*pollBlind, func() bool { return b.answers(stranger) })
	must(t, os.RemoveAll(dir))
	b.waitFor("directory removed", 3*pollBlind, func() bool { return !b.answers(stranger) })
}

// TestOtherFilesDoNotMatter keeps the files from being read for each change in
// a directory as busy as /etc.
func TestOtherFilesDoNotMatter(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "hosts.allow"), opens)
	b := watch(t, dir, policy.Options{})
	before := b.log.String()
	for range 20 {
		replace(t, filepath.Join(dir, "resolv.conf"), "x")
	}
	write(t, b.allow, opens) // the same again
	time.Sleep(4 * settle)
	if after := b.log.String(); after != before {
		t.Errorf("log grew by %s", strings.TrimPrefix(after, before))
	}
}

func TestManyChangesAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := watch(t, dir, policy.Options{})
	stop := time.Now().Add(2 * longestSettle)
	for i := 0; time.Now().Before(stop); i++ {
		replace(t, b.allow, "# "+strings.Repeat("x", i%50)+"\n"+opens)
		time.Sleep(settle / 10)
		if time.Until(stop) < longestSettle/2 && !b.answers(friend) {
			t.Fatal("a file that keeps changing is never read")
		}
	}
}
