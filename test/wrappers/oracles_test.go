package wrappers

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"rpcward/test/lab"
)

var update = flag.Bool("update", false, "rewrite the transcripts in testdata")

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// hosts is the hosts file of the lab: a name with an alias, one with several
// addresses, one of both families, and an address whose name is a number.
const hosts = `127.0.0.1 localhost
::1 localhost ip6-localhost
10.5.5.1 real.test alias.test
10.5.5.2 multi.test
10.5.5.3 multi.test
fd00::5 dual.test
10.5.5.5 dual.test
fd00::6 six.test
10.5.5.9 10.9.9.9
10.5.5.10 other.test odd.test
10.5.5.11 odd.test
`

// TestOracles runs tcpdmatch and tcpdchk over the files of each archive in
// testdata/oracles, and compares what they print with the transcript in it and,
// save for lines that start with "~", with what Debian's print.
func TestOracles(t *testing.T) {
	t.Parallel()
	h := newOracleHost(t)
	ours, stock := ourTools(t), stockTools(t)
	archives, err := filepath.Glob("testdata/oracles/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatal(archives, err)
	}
	for _, path := range archives {
		name := strings.TrimSuffix(filepath.Base(path), ".txtar")
		t.Run(name, func(t *testing.T) { compareTools(t, h, path, "/run/"+name, ours, stock) })
	}
}

func compareTools(t *testing.T, h *lab.Host, path, dir string, ours, stock tools) {
	archive, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	commands, want := unpack(h, archive, dir)
	var got strings.Builder
	for line := range strings.Lines(commands) {
		line, differs := strings.CutPrefix(strings.TrimSpace(line), "~")
		words := strings.Fields(line)
		out := ours.transcript(t, h, dir, words)
		got.WriteString(out)
		if differs {
			continue
		}
		if diff := cmp.Diff(stock.transcript(t, h, dir, words), out); diff != "" {
			t.Errorf("Debian's (-) and ours (+):\n%s", diff)
		}
	}
	if *update {
		rewrite(t, path, archive, got.String())
	} else if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Errorf("transcript (-) and ours (+):\n%s", diff)
	}
}

// unpack writes the files of an archive, and returns those that are none.
func unpack(h *lab.Host, archive *txtar.Archive, dir string) (commands, transcript string) {
	for _, f := range archive.Files {
		data := string(f.Data)
		switch f.Name {
		case "commands":
			commands = data
		case "transcript":
			transcript = data
		default:
			// What an archive can't hold as it is.
			data = strings.NewReplacer("<NO NEWLINE>\n", "", "<CR>", "\r", "<NUL>", "\x00").Replace(data)
			h.WriteFile(filepath.Join(dir, f.Name), data)
		}
	}
	return commands, transcript
}

func rewrite(t *testing.T, path string, archive *txtar.Archive, transcript string) {
	t.Helper()
	files := archive.Files[:0]
	for _, f := range archive.Files {
		if f.Name != "transcript" {
			files = append(files, f)
		}
	}
	archive.Files = append(files, txtar.File{Name: "transcript", Data: []byte(transcript)})
	if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
		t.Fatal(err)
	}
}

// tools runs tcpdmatch and tcpdchk of one make.
type tools struct {
	dir string
	env []string
}

func ourTools(t *testing.T) tools {
	t.Helper()
	dir := publicDir(t)
	for _, name := range []string{"tcpdmatch", "tcpdchk"} {
		if err := os.Symlink(lab.Rpcward(t).Toolbox(), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return tools{dir: dir}
}

func stockTools(t *testing.T) tools {
	t.Helper()
	lab.NeedCommand(t, "tcpdmatch", "tcpdchk", "gcc")
	library := filepath.Join(publicDir(t), "fakelog.so")
	if out, err := exec.Command("gcc", "-shared", "-fPIC", "-o", library, "testdata/fakelog.c").CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	return tools{dir: "/usr/sbin", env: []string{"LD_PRELOAD=" + library}}
}

// publicDir returns a temporary folder that hosts see too.
func publicDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rpcward-wrappers")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// transcript runs a tool and returns what a person sees of it.
func (s tools) transcript(t *testing.T, h *lab.Host, dir string, words []string) string {
	t.Helper()
	var out, stderr strings.Builder
	cmd := h.Command(context.Background(), filepath.Join(s.dir, words[0]), words[1:]...)
	cmd.Args[0] = words[0]
	cmd.Dir, cmd.Env = dir, append([]string{"PATH=/usr/bin:/bin"}, s.env...)
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err := h.Do(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	fmt.Fprintf(&out, "%s", stderr.String())
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		fmt.Fprintf(&out, "[exit %d]\n", exit.ExitCode())
	} else if err != nil {
		t.Fatal(err)
	}
	shown := strings.NewReplacer("\r", "<CR>", "\x00", "<NUL>").Replace(out.String())
	return "$ " + strings.Join(words, " ") + "\n" + shown + "\n"
}
