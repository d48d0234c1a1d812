package accessfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"rpcward/hostsaccess"
	"rpcward/test/lab"
)

func writeFile(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestReplaceKeepsAttributes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hosts.deny")
	writeFile(t, path, "old\n", 0o640)
	if os.Geteuid() == 0 {
		if err := os.Chown(path, 12345, 54321); err != nil {
			t.Fatal(err)
		}
	}
	// An access control list: user 1 may read. acl(5), as the kernel stores it.
	acl := "\x02\x00\x00\x00" + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\x01\x00\x00\x00" +
		"\x04\x00\x04\x00\xff\xff\xff\xff" + "\x10\x00\x04\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff"
	hasACL := unix.Setxattr(path, "system.posix_acl_access", []byte(acl), 0) == nil

	r := Replacement{Path: path, Old: "old\n", New: "new\n", Backup: true}
	backup, err := r.Replace()
	if err != nil {
		t.Fatal(err)
	}
	if read(t, path) != "new\n" || read(t, backup) != "old\n" {
		t.Errorf("the file holds %q, the backup %q", read(t, path), read(t, backup))
	}
	for _, p := range []string{path, backup} {
		var s syscall.Stat_t
		if err := syscall.Stat(p, &s); err != nil {
			t.Fatal(err)
		}
		if s.Mode&0o7777 != 0o640 || os.Geteuid() == 0 && (s.Uid != 12345 || s.Gid != 54321) {
			t.Errorf("%s has mode %o, owner %d:%d", p, s.Mode&0o7777, s.Uid, s.Gid)
		}
		value := make([]byte, 100)
		if n, err := unix.Getxattr(p, "system.posix_acl_access", value); hasACL && (err != nil || string(value[:n]) != acl) {
			t.Errorf("%s has the access control list %q, %v", p, value[:max(n, 0)], err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestReplaceFollowsLinks(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "real"), filepath.Join(dir, "hosts.allow")
	writeFile(t, path, "old\n", 0o644)
	if err := os.Symlink("real", link); err != nil {
		t.Fatal(err)
	}
	if _, err := (&Replacement{Path: link, Old: "old\n", New: "new\n"}).Replace(); err != nil {
		t.Fatal(err)
	}
	if target, err := os.Readlink(link); err != nil || target != "real" || read(t, path) != "new\n" {
		t.Errorf("the link leads to %q (%v), the file holds %q", target, err, read(t, path))
	}
}

func TestReplaceRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "hosts.allow")
	writeFile(t, path, "somebody else's\n", 0o644)
	if _, err := (&Replacement{Path: path, Old: "old\n", New: "new\n", Backup: true}).Replace(); !errors.Is(err, ErrChanged) {
		t.Errorf("a file that was changed: %v", err)
	}
	if _, err := (&Replacement{Path: path, Old: "", New: "new\n"}).Replace(); !errors.Is(err, ErrChanged) {
		t.Errorf("a file that was made meanwhile: %v", err)
	}
	if _, err := (&Replacement{Path: dir, New: "new\n"}).Replace(); err == nil {
		t.Error("a directory was replaced")
	}
	if list, _ := os.ReadDir(dir); len(list) != 1 || read(t, path) != "somebody else's\n" {
		t.Errorf("something was written: %v", list)
	}
}

// TestReplaceWhenFull fills the disk: the old file stays, whole.
func TestReplaceWhenFull(t *testing.T) {
	lab.NeedRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	path := filepath.Join(dir, "hosts.deny")
	writeFile(t, path, "ALL : ALL\n", 0o644)
	r := Replacement{Path: path, Old: "ALL : ALL\n", New: strings.Repeat("ALL : 10.1.2.3\n", 10000)}
	if _, err := r.Replace(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("on a full disk: %v", err)
	}
	if list, _ := os.ReadDir(dir); len(list) != 1 || read(t, path) != "ALL : ALL\n" {
		t.Errorf("left behind: %v, and %q", list, read(t, path))
	}
}

// TestReadersNeverSeeHalf reads the file while it is replaced again and again,
// by several at once: each reader finds one text or the other, and no edit of
// those that succeeded is lost.
func TestReadersNeverSeeHalf(t *testing.T) {
	dir := t.TempDir()
	allow, deny := filepath.Join(dir, "hosts.allow"), filepath.Join(dir, "hosts.deny")
	writeFile(t, deny, "ALL : ALL EXCEPT 127.0.0.0/8 [::1]\n", 0o644)
	writeFile(t, allow, strings.Repeat("# a comment\n", 5000)+"sshd : 10.0.0.1\n", 0o644)
	service, err := ParseService("portmap")
	if err != nil {
		t.Fatal(err)
	}
	const writers, edits = 4, 20
	var readers, wait sync.WaitGroup
	done := make(chan struct{})
	readers.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			data, err := os.ReadFile(allow)
			if err != nil || !strings.HasPrefix(string(data), "# a comment\n") || data[len(data)-1] != '\n' {
				t.Errorf("a reader found %d bytes, %v", len(data), err)
				return
			}
		}
	})
	for w := range writers {
		wait.Go(func() {
			for i := range edits {
				target, _ := ParseTarget(fmt.Sprintf("10.%d.%d.1", w+1, i))
				for {
					plan, err := ReadPair(allow, deny).Plan(service, hostsaccess.Allow, []Target{target})
					if err != nil {
						t.Error(err)
						return
					}
					if _, err = plan.Replacements[0].Replace(); err == nil {
						break
					} else if !errors.Is(err, ErrChanged) {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	wait.Wait()
	close(done)
	readers.Wait()
	text := read(t, allow)
	for w := range writers {
		for i := range edits {
			if !strings.Contains(text, fmt.Sprintf(" 10.%d.%d.1", w+1, i)) {
				t.Errorf("the edit for 10.%d.%d.1 is lost", w+1, i)
			}
		}
	}
}
