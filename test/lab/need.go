package lab

import (
	"os"
	"os/exec"
	"testing"
)

// RequiredEnv names the environment variable that turns every missing
// requirement into a failure. CI sets it to 1: there a skipped test is a test
// that nobody runs.
const RequiredEnv = "RPCWARD_TEST_REQUIRED"

// missing skips the test, by the name of what it lacks.
func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv(RequiredEnv) == "1" {
		t.Fatalf("required (%s=1) but missing: %s", RequiredEnv, what)
	}
	t.Skipf("missing: %s", what)
}

// NeedRoot skips the test unless it runs as root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, "root")
	}
}

// NeedCommand skips the test unless all these programs are installed.
func NeedCommand(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			missing(t, "command "+name)
		}
	}
}

// NeedFeature skips the test if probe fails: it tries what name says, such as
// a feature of the kernel or a library's header.
func NeedFeature(t testing.TB, name string, probe func() error) {
	t.Helper()
	if err := probe(); err != nil {
		missing(t, name+": "+err.Error())
	}
}

// HasFile is a probe for [NeedFeature]: a file that is there.
func HasFile(path string) func() error {
	return func() error {
		_, err := os.Stat(path)
		return err
	}
}
