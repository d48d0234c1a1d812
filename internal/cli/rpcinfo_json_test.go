package cli

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rpcward/test/lab"
)

var update = flag.Bool("update", false, "write golden files")

// The JSON of each form is what programs rely on.
func TestRPCInfoJSON(t *testing.T) {
	s := newSite(t, lab.Rpcward(t).Toolbox())
	lab.StartPortMapper(t, s.net.Server, lab.Stock(t), "-r")
	s.register(t)
	tests := []struct {
		name string
		c    liveCase
		code int
	}{
		{"registrations", run("--json"), 0},
		{"programs", run("-s --json 127.0.0.1"), 0},
		{"mappings", run("-p --json"), 0},
		{"addresses", run("-l --json 127.0.0.1 100000 4"), 0},
		{"no-addresses", run("-l --json 127.0.0.1 100000 9"), 0},
		{"pings", run("--json -t 127.0.0.1 100000"), 0},
		{"failed-ping", run("--json -T tcp 127.0.0.1 391002 1"), 1},
		{"answers", remote("--json -b --timeout 3 100000 2"), 0},
		{"statistics", run("--json -m"), 0},
		{"deleted", run("--json -d 391002 1"), 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := s.run(t, tt.c)
			if o.Code != tt.code || !json.Valid([]byte(o.Stdout)) {
				t.Fatalf("%+v", o)
			}
			golden(t, tt.name+".json", o.Stdout)
		})
	}
}

// golden compares with a file of the test's own.
func golden(t *testing.T, name, got string) {
	t.Helper()
	test, _, _ := strings.Cut(t.Name(), "/")
	path := filepath.Join("testdata", test, name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Error(d)
	}
}
