package policyfile

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"rpcward/internal/policy"
)

// inner is set in the process that TestWithoutInotify starts.
const inner = "RPCWARD_TEST_WITHOUT_INOTIFY"

// TestWithoutInotify runs itself in a user namespace that may have no inotify
// instance, as on a host where others have used them all up.
func TestWithoutInotify(t *testing.T) {
	if os.Getenv(inner) != "" {
		withoutInotify(t)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestWithoutInotify$", "-test.v")
	cmd.Env = append(os.Environ(), inner+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if len(out) == 0 && err != nil { // not even started
		if os.Getenv("RPCWARD_TEST_REQUIRED") != "" {
			t.Fatal("needs user namespaces: ", err)
		}
		t.Skip("needs user namespaces: ", err)
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func withoutInotify(t *testing.T) {
	must(t, os.WriteFile("/proc/sys/user/max_inotify_instances", []byte("0"), 0))
	b := watch(t, t.TempDir(), policy.Options{})
	if !strings.Contains(b.log.String(), eventPolling) {
		t.Fatalf("inotify works here:\n%s", b.log)
	}
	write(t, b.allow, opens)
	b.waitFor("created", 3*pollBlind, func() bool { return b.answers(friend) })
	replace(t, b.allow, "portmap: 10.9.\n")
	b.waitFor("replaced", 3*pollBlind, func() bool { return b.answers(stranger) })
	must(t, os.Rename(b.allow, filepath.Join(filepath.Dir(b.allow), "x")))
	b.waitFor("moved away", 3*pollBlind, func() bool { return !b.answers(stranger) })
}
