package rpcward_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"rpcward/test/differential"
)

// offTheWire are the headings of docs/differences.md that the differential test
// can't meet, each with the reason.
var offTheWire = map[string]string{
	"names":                  "it is about what the policy files may say; hostsaccess and test/peers test it",
	"addresses-only":         "it is about what the policy files may say; hostsaccess tests it",
	"changes-are-saved":      "it is about what survives a crash; internal/registry and internal/warmstart test it",
	"forward-no-credentials": "the service sees it, not the caller",
	"both-protocols":         "it is about which sockets are open",
	"only-passed-sockets":    "it is about which sockets are open",
	"log-rate":               "it is about the log",
	"rates":                  "it is about many calls; internal/policy and internal/daemon test it",
	"floods":                 "it is about many calls; internal/transport tests it",
	"portmap-options":        "it is about the command line",
	"guarded-first":          "it is about the kernel firewall; test/guard tests it",
}

// TestDifferencesAreDocumented compares what the differential test tolerates
// with docs/differences.md.
func TestDifferencesAreDocumented(t *testing.T) {
	documented := headings(t)
	tolerated := differential.Names()
	for _, name := range tolerated {
		if !slices.Contains(documented, name) {
			t.Errorf("test/differential tolerates %q, which docs/differences.md does not explain", name)
		}
	}
	for _, name := range documented {
		_, off := offTheWire[name]
		if off == slices.Contains(tolerated, name) {
			t.Errorf("docs/differences.md: %q must be either in the table of test/differential or in offTheWire", name)
		}
	}
	for name := range offTheWire {
		if !slices.Contains(documented, name) {
			t.Errorf("offTheWire has %q, which docs/differences.md does not", name)
		}
	}
}

// headings returns the names of the differences in docs/differences.md, without
// those of the programs that ask.
func headings(t *testing.T) []string {
	t.Helper()
	doc, err := os.ReadFile("docs/differences.md")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	tools := false
	for line := range strings.Lines(string(doc)) {
		if section, ok := strings.CutPrefix(line, "## "); ok {
			tools = strings.HasPrefix(section, "rpcinfo")
		}
		if name, ok := strings.CutPrefix(line, "### "); ok && !tools {
			names = append(names, strings.TrimSpace(name))
		}
	}
	return names
}
