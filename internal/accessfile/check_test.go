package accessfile

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rpcward/test/lab"
)

func TestWhyIgnored(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	program, err := exec.LookPath("true")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"frobd": string(data), "rpc.quxd": string(data), "scriptd": "#!/bin/sh\n"} {
		writeFile(t, filepath.Join(dir, name), text, 0o755)
	}
	for daemon, want := range map[string]string{
		"frobd": "(" + dir + "/frobd) is not built with libwrap", "quxd": "(" + dir + "/rpc.quxd) is not built with libwrap",
		"scriptd": "", "no-such-daemon": "", "in.frobd": "", "/frobd": "", "portmap": "",
		"nfsd": "is part of the kernel, which never reads these files", "LOCKD": "is part of the kernel, which never reads these files",
	} {
		if got := WhyIgnored(daemon); got != want {
			t.Errorf("%s: %q, want %q", daemon, got, want)
		}
	}
}

// TestRealDaemons looks at daemons as Debian builds them.
func TestRealDaemons(t *testing.T) {
	lab.NeedFeature(t, "rpc.mountd", lab.HasFile("/usr/sbin/rpc.mountd"))
	lab.NeedFeature(t, "ypserv", lab.HasFile("/usr/sbin/ypserv"))
	if why := WhyIgnored("mountd"); why != "" {
		t.Errorf("mountd %s", why)
	}
	if WhyIgnored("ypserv") == "" {
		t.Error("Debian's ypserv is said to use libwrap")
	}
}

func TestCheckOfThePortMapper(t *testing.T) {
	found := pairOf("portmap: .example.com root@10.1.2.3\nportmap: 10. : spawn x\nportmapper: 10.\nportmap mountd: 11.\nrpcbind: 11.1.\n", "").Check()
	var got []string
	for _, d := range found {
		got = append(got, fmt.Sprintf("%d:%d %v %s", d.Pos.Line, d.Pos.Column, d.Severity, d.Code))
	}
	want := []string{
		"1:1 info portmap-name",
		"1:10 warning name-pattern",
		"1:23 warning user-pattern",
		"2:16 warning runs-command",
		"3:1 warning lookalike-name",
		"5:1 warning never-acts",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}

func TestCheckOfWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	for role, pair := range map[string]Pair{"allow": ReadPair(dir, ""), "deny": ReadPair("", dir)} {
		found := pair.Check()
		if len(found) != 1 || found[0].Pos.Line != 0 || string(found[0].Code) != "not-a-file" {
			t.Fatalf("%s: %v", role, found)
		}
		if opens := strings.Contains(found[0].Consequence, "everybody gets in"); opens != (role == "deny") {
			t.Errorf("%s: %s", role, found[0].Consequence)
		}
	}
	if found := ReadPair(dir+"/none", "/dev/null").Check(); len(found) > 0 {
		t.Errorf("files without rules: %v", found)
	}
}
