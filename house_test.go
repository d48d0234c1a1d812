// Package rpcward_test polices the house: what may import what, that each
// package says what it is, and that the documents name what is there.
package rpcward_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// layers lists the packages from the top of the house to its ground. A package
// imports only what stands below it. docs/architecture.md draws the same picture.
var layers = []string{
	"cmd/rpcward",
	"internal/cli",
	"internal/daemon",
	"internal/guard",
	"internal/rollback",
	"internal/control",
	"internal/policyfile",
	"internal/accessfile",
	"internal/transport",
	"internal/sourcefilter",
	"internal/sandbox",
	"internal/warmstart",
	"internal/firewall",
	"internal/sockdiag",
	"rpcbind/client",
	"internal/rpcnames",
	"internal/effects",
	"internal/identity",
	"internal/inetd",
	"internal/portmapper",
	"internal/registry",
	"internal/tally",
	"internal/ruleset",
	"internal/policy",
	"hostsaccess",
	"rpcbind",
	"oncrpc",
	"xdr",
}

// ban keeps packages from importing what is not theirs to use.
type ban struct {
	packages []string
	imports  []string // a trailing slash bans all below it
	why      string
}

var bans = []ban{
	{
		packages: []string{"internal/portmapper", "internal/registry", "internal/tally", "internal/ruleset", "internal/policy"},
		imports:  []string{"os", "net", "log/", "log", "time", "syscall", "golang.org/x/sys/"},
		why:      "engines are pure: what they decide must not depend on the machine, so that they can be tested and reasoned about alone",
	},
	{
		packages: []string{"hostsaccess", "rpcbind", "oncrpc", "xdr"},
		imports:  []string{"os", "net", "log/", "log", "syscall", "golang.org/x/sys/"},
		why:      "languages and bytes are for everybody: they read what they are given and touch nothing",
	},
	{
		packages: []string{"xdr", "oncrpc", "rpcbind", "internal/portmapper"},
		imports:  []string{"reflect", "encoding/json", "fmt"},
		why:      "the way of a call takes no reflection",
	},
	{
		packages: []string{"internal/daemon", "internal/transport", "internal/cli"},
		imports:  []string{"net/http", "plugin", "C"},
		why:      "the port mapper starts in milliseconds and fits in a few megabytes",
	},
}

// sources calls visit with each Go file of the program, tests left out.
func sources(t *testing.T, visit func(dir, path string)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && path != "."):
			return filepath.SkipDir
		case strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go"):
			visit(filepath.ToSlash(filepath.Dir(path)), path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func imports(t *testing.T, path string) []string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, i := range f.Imports {
		name, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, name)
	}
	return list
}

func TestImportsGoDown(t *testing.T) {
	sources(t, func(dir, path string) {
		if strings.HasPrefix(dir, "test/") {
			return
		}
		at := slices.Index(layers, dir)
		if at < 0 {
			t.Errorf("%s: package %s has no place in the house: add it to layers and to docs/architecture.md", path, dir)
			return
		}
		for _, name := range imports(t, path) {
			below, ok := strings.CutPrefix(name, "rpcward/")
			if ok && slices.Index(layers, below) <= at {
				t.Errorf("%s imports %s, which does not stand below %s", path, below, dir)
			}
		}
	})
}

func TestBannedImports(t *testing.T) {
	sources(t, func(dir, path string) {
		for _, b := range bans {
			if !slices.Contains(b.packages, dir) {
				continue
			}
			for _, name := range imports(t, path) {
				if banned(b.imports, name) {
					t.Errorf("%s imports %s: %s", path, name, b.why)
				}
			}
		}
	})
}

func banned(list []string, name string) bool {
	return slices.ContainsFunc(list, func(b string) bool {
		return name == b || strings.HasSuffix(b, "/") && strings.HasPrefix(name, b)
	})
}

func TestOnePackageComment(t *testing.T) {
	comments := map[string][]string{}
	sources(t, func(dir, path string) {
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if f.Doc != nil {
			comments[dir] = append(comments[dir], path)
		} else if comments[dir] == nil {
			comments[dir] = []string{}
		}
	})
	for dir, files := range comments {
		if len(files) != 1 {
			t.Errorf("package %s has %d package comments %v, want one", dir, len(files), files)
		}
	}
}

func TestArchitectureNamesEachPackage(t *testing.T) {
	doc, err := os.ReadFile("docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range layers {
		if !strings.Contains(string(doc), dir) {
			t.Errorf("docs/architecture.md does not name %s", dir)
		}
	}
}

// TestDependenciesAreJustified compares go.mod with docs/dependencies.md.
func TestDependenciesAreJustified(t *testing.T) {
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mod)) {
		f := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
		if len(f) < 2 || !strings.HasPrefix(f[1], "v") || strings.Contains(line, "// indirect") {
			continue
		}
		if !strings.Contains(string(doc), f[0]+"` "+f[1]) {
			t.Errorf("docs/dependencies.md does not justify %s %s", f[0], f[1])
		}
	}
}
