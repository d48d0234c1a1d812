package sandbox_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"rpcward/internal/sandbox"
	"rpcward/test/lab"
)

const childEnv = "RPCWARD_TEST_SANDBOX"

// TestMain is the process that gives up rights, when it is started as one.
func TestMain(m *testing.M) {
	if os.Getenv(childEnv) == "" {
		os.Exit(m.Run())
	}
	if err := sandbox.KeepCapabilities(unix.CAP_NET_ADMIN); err != nil {
		os.Stdout.WriteString("error: " + err.Error())
		return
	}
	data, _ := os.ReadFile("/proc/self/status")
	os.Stdout.Write(data)
}

// Each thread keeps what is named, and nothing else; and says so if it can't.
func TestKeepCapabilities(t *testing.T) {
	lab.NeedRoot(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=1")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(out), "error: giving up capabilities: operation not supported") {
		return // linked with C, as this test may be
	}
	for _, want := range []string{"CapPrm:\t0000000000001000", "CapEff:\t0000000000001000", "NoNewPrivs:\t1"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}
