package cli

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rpcward/rpcbind"
	"rpcward/test/lab"
)

func TestParseMapping(t *testing.T) {
	for _, tt := range []struct {
		line string
		want rpcbind.Mapping
		ok   bool
	}{
		{"    100003    3   tcp   2049  nfs", rpcbind.Mapping{Program: 100003, Version: 3, Prot: 6, Port: 2049}, true},
		{"100003 3 udp 2049", rpcbind.Mapping{Program: 100003, Version: 3, Prot: 17, Port: 2049}, true},
		{"1 2 132 4 and more words", rpcbind.Mapping{Program: 1, Version: 2, Prot: 132, Port: 4}, true},
		{"", rpcbind.Mapping{}, false},
		{"100003 3 tcp", rpcbind.Mapping{}, false},
		{"100003 3 sctp 2049", rpcbind.Mapping{}, false},
		{"100003 3 tcp 65536", rpcbind.Mapping{}, false},
		{"100003 -3 tcp 2049", rpcbind.Mapping{}, false},
		{"4294967296 3 tcp 2049", rpcbind.Mapping{}, false},
	} {
		if got, ok := parseMapping(tt.line); got != tt.want || ok != tt.ok {
			t.Errorf("parseMapping(%q) = %v, %v, want %v, %v", tt.line, got, ok, tt.want, tt.ok)
		}
	}
}

// runWith runs a program on h with text as its standard input.
func runWith(t *testing.T, h *lab.Host, input, program, name string, args ...string) outcome {
	t.Helper()
	cmd := h.Command(t.Context(), program, args...)
	cmd.Args[0] = name
	cmd.Stdin = strings.NewReader(input)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := h.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	cmd.Wait() // its code is in the state
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// A dump of one port mapper restores another.
func TestPmapRoundTrip(t *testing.T) {
	program := lab.Rpcward(t).Toolbox()
	h := lab.NewHost(t, "server")
	want := outcome{"", "pmap_dump: RPC: Remote system error - Connection refused\n", 1}
	if d := cmp.Diff(want, runAs(t, h, program, "pmap_dump")); d != "" {
		t.Errorf("without a port mapper: %s", d)
	}
	lab.StartPortMapper(t, h, lab.Stock(t))
	own := runAs(t, h, program, "pmap_dump")
	if !strings.HasPrefix(own.Stdout, "    100000    4   tcp    111  portmapper\n") || own.Code != 0 {
		t.Fatalf("%+v", own)
	}
	more := "    100003    3   tcp   2049  nfs\n    100003    3   udp   2049  nfs\n       201    7   tcp     80  \n"
	if o := runWith(t, h, own.Stdout+more, program, "pmap_set"); o != (outcome{}) {
		t.Errorf("pmap_set: %+v", o)
	}
	if d := cmp.Diff(outcome{Stdout: own.Stdout + more}, runAs(t, h, program, "rpcward", "pmap", "dump")); d != "" {
		t.Error(d)
	}
}

func TestPmapSetRefused(t *testing.T) {
	program := lab.Rpcward(t).Toolbox()
	h := lab.NewHost(t, "server")
	lab.StartPortMapper(t, h, lab.Stock(t))
	tests := []struct {
		name, input, stderr string
		code                int
	}{
		{"taken", "100000 2 tcp 999\n", "not registered: 100000 2 tcp 999\n", 0},
		{"not a mapping", "300 1 tcp 1\n\x1b[2J\n301 1 tcp 1\n", "pmap_set: malformed line: \\x1b[2J\n", 1},
		{"too long", strings.Repeat("1 ", maxPmapLine), "pmap_set: malformed line: longer than 4096 bytes\n", 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if d := cmp.Diff(outcome{"", tt.stderr, tt.code}, runWith(t, h, tt.input, program, "pmap_set")); d != "" {
				t.Error(d)
			}
		})
	}
	dump := runAs(t, h, program, "pmap_dump").Stdout
	if !strings.Contains(dump, "  300 ") || strings.Contains(dump, "  301 ") {
		t.Errorf("lines before the malformed one, and only those, are registered:\n%s", dump)
	}
	o := runWith(t, h, "100000 2 tcp 999", program, "rpcward", "pmap", "set")
	if d := cmp.Diff(outcome{"", "rpcward: not registered: 100000 2 tcp 999\n", 1}, o); d != "" {
		t.Error(d)
	}
	o = runWith(t, h, "x", program, "rpcward", "pmap", "set")
	if d := cmp.Diff(outcome{"", "rpcward: error: malformed line: x\n", 1}, o); d != "" {
		t.Error(d)
	}
}
