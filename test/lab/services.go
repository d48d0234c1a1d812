package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// AllIP is every netid over IP.
const AllIP = "udp,tcp,udp6,tcp6"

// ExportedText is in the file that the NFS server exports.
const ExportedText = "read through a port mapper\n"

// StartGanesha starts NFS-Ganesha on h with an export, on ports of the
// kernel's choice save 2049, and returns the exported folder. It has one file,
// named hello.
func StartGanesha(t testing.TB, h *Host) (*Process, string) {
	t.Helper()
	NeedCommand(t, "ganesha.nfsd")
	dir := PublicDir(t) // on the disk: the VFS back end wants file handles
	if err := os.WriteFile(filepath.Join(dir, "hello"), []byte(ExportedText), 0o644); err != nil {
		t.Fatal(err)
	}
	h.WriteFile("/etc/ganesha/ganesha.conf", fmt.Sprintf(`
NFS_CORE_PARAM { Protocols = 3,4; Enable_NLM = true; Enable_RQUOTA = true; mount_path_pseudo = false; }
NFSV4 { Graceless = true; }
EXPORT {
	Export_Id = 1; Path = %s; Pseudo = /export; Protocols = 3,4; Transports = UDP,TCP;
	Access_Type = RW; Squash = No_Root_Squash; SecType = sys,none; FSAL { Name = VFS; }
}
`, dir))
	p := h.Start("ganesha.nfsd", "-F", "-L", "STDERR", "-f", "/etc/ganesha/ganesha.conf", "-p", "/run/ganesha.pid", "-N", "NIV_EVENT")
	p.WaitLog("NFS SERVER INITIALIZED")
	return p, dir
}

// PublicDir returns a temporary folder on the disk that every user can enter.
func PublicDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rpcward-lab")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Registrations returns the lines of rpcinfo's short listing on h, with single
// spaces: "100003 4,3 tcp6,udp6,tcp,udp nfs superuser".
func Registrations(t testing.TB, h *Host) []string {
	t.Helper()
	var lines []string
	for line := range strings.Lines(h.MustRun("rpcinfo", "-s")) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return lines
}

// WaitRegistered waits until rpcinfo on h lists the program with all versions
// and on all netids.
func WaitRegistered(t testing.TB, h *Host, program, versions, netids string) {
	t.Helper()
	Eventually(t, "registration of "+program, func() error {
		list := Registrations(t, h)
		for _, line := range list {
			f := strings.Fields(line)
			if len(f) >= 3 && f[0] == program && hasAll(f[1], versions) && hasAll(f[2], netids) {
				return nil
			}
		}
		return fmt.Errorf("versions %s on %s not in\n%s", versions, netids, strings.Join(list, "\n"))
	})
}

// hasAll reports whether the comma-separated list has every element of want.
func hasAll(list, want string) bool {
	for e := range strings.SplitSeq(want, ",") {
		if !strings.Contains(","+list+",", ","+e+",") {
			return false
		}
	}
	return true
}
