package hostsaccess

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "write the golden files")

// machine is what Check is told of a machine in tests.
var machine = Surroundings{
	ReadFile: func(path string) ([]byte, error) {
		switch path {
		case "/etc/friends":
			return []byte("192.168.7.\n[2001:db8:7::]/48 .example.com\n"), nil
		case "/etc/commented":
			return []byte("# do not forget: ALL of them\n192.168.7.1/24\nEXCEPT\n"), nil
		case "/etc/loop":
			return []byte("10.1.\n/etc/loop2\n"), nil
		case "/etc/loop2":
			return []byte("10.2.\n/etc/loop\n"), nil
		case "/etc/directory":
			return nil, &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("is a directory")}
		}
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	},
	Ignores: func(daemon string) string {
		switch daemon {
		case "nfsd":
			return "is part of the kernel, which never reads these files"
		case "ypserv":
			return "(/usr/sbin/ypserv) is not built with libwrap"
		}
		return ""
	},
}

// TestCheck compares what is found in the pairs of files in testdata.
func TestCheck(t *testing.T) {
	paths, err := filepath.Glob("testdata/TestCheck/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			allow, deny := Parse("hosts.allow", archive.Files[0].Data), Parse("hosts.deny", unended(archive.Files[1].Data))
			got := describe(Check(allow, deny, machine))
			want := &archive.Files[2].Data
			if *update {
				*want = []byte(got)
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(string(*want), got); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}

// unended is a file that ends in a mark for the end of a line without newline:
// a txtar file cannot hold one.
func unended(data []byte) []byte { return []byte(strings.TrimSuffix(string(data), "<end>\n")) }

func describe(found []Diagnostic) string {
	var b strings.Builder
	for _, d := range found {
		fmt.Fprintf(&b, "%v [%s]\n    %s\n    %s\n", d, d.Code, d.Consequence, d.Hint)
	}
	return b.String()
}
