package inetd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const xinetdConf = `# defaults come first or last
defaults
{
	instances = 60
	disabled  = shut
}
service finger
{
	protocol    = tcp
	flags       = NAMEINARGS NOLIBWRAP
	server      = /usr/sbin/tcpd
	server_args = /usr/sbin/in.fingerd -l
}
service plain {
	server      = /usr/sbin/plaind
	server_args = -a -b
	server_args -= -a
}
service shut
{
	server = /bin/shut
}
service named
{
	id      = other
	disable = yes
	server  = /bin/named
}
service internal
{
	type = INTERNAL
}
service open
{
	server = /bin/open
`

func TestXinetd(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	included := write("d/included", "service more\n{\n\tserver = /bin/more\n}\n")
	write("d/passed.over", "service passed\n{\n\tserver = /bin/passed\n}\n")
	path := filepath.Join(dir, "xinetd.conf")
	// It includes itself, and a folder.
	write("xinetd.conf", "includedir "+filepath.Join(dir, "d")+"\ninclude "+filepath.Join(dir, "rest")+"\n")
	rest := write("rest", xinetdConf)

	c, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	want := []Service{
		{File: included, Line: 4, Name: "more", Program: "/bin/more", Process: "more", Checks: "more"},
		{File: rest, Line: 13, Name: "finger", Protocol: "tcp", Program: "/usr/sbin/tcpd", Process: "/usr/sbin/in.fingerd", Argument: "-l"},
		{File: rest, Line: 18, Name: "plain", Program: "/usr/sbin/plaind", Process: "plaind", Argument: "-b", Checks: "plaind"},
	}
	if diff := cmp.Diff(want, c.Services); diff != "" {
		t.Errorf("services (-want +got):\n%s", diff)
	}
}

func TestXinetdIncludesItself(t *testing.T) {
	path := filepath.Join(t.TempDir(), "xinetd.conf")
	text := "service a\n{\n\tserver = /bin/a\n}\ninclude " + path + "\ninclude " + path + "\n"
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := Read(path)
	if err != nil || len(c.Services) != mostIncluded {
		t.Errorf("%d services, %v, want %d", len(c.Services), err, mostIncluded)
	}
}

func TestReadErrors(t *testing.T) {
	if _, err := Read(filepath.Join(t.TempDir(), "nosuch")); !os.IsNotExist(err) {
		t.Errorf("Read of nothing: %v", err)
	}
	if c, err := Read(t.TempDir()); err != nil || len(c.Services) != 0 {
		t.Errorf("Read of a folder: %v, %v", c, err)
	}
}

// FuzzRead looks for configurations that can't be read to their end.
func FuzzRead(f *testing.F) {
	f.Add(xinetdConf)
	f.Add("finger stream tcp nowait nobody /usr/sbin/tcpd in.fingerd\nx \\\n y\n")
	f.Fuzz(func(t *testing.T, source string) {
		if strings.Contains(source, "include") {
			return // what it names is no business of a fuzzer
		}
		c := &Config{File: "f"}
		c.readInetd(source)
		for _, s := range c.Services {
			if s.Program == "" || s.Line < 0 {
				t.Errorf("service %+v", s)
			}
		}
		x := &xinetdReader{config: &Config{File: "f"}}
		x.file("f", source)
		x.finish()
	})
}
