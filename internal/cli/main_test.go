package cli

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"rpcward/test/lab"
)

// labRun runs the tests with what package lab needs.
type labRun struct{ m *testing.M }

func (r labRun) Run() int { return lab.Main(r.m) }

func TestMain(m *testing.M) {
	as := func(name string) func() {
		return func() {
			os.Exit(Main(append([]string{name}, os.Args[1:]...), os.Stdin, os.Stdout, os.Stderr))
		}
	}
	testscript.Main(labRun{m}, map[string]func(){
		"rpcward":   as("rpcward"),
		"rpcinfo":   as("rpcinfo"),
		"pmap_dump": as("pmap_dump"),
		"pmap_set":  as("pmap_set"),
		"tcpd":      as("tcpd"),
		"tcpdmatch": as("tcpdmatch"),
		"tcpdchk":   as("tcpdchk"),
	})
}

// TestScripts runs the scripts in testdata. With UPDATE_SCRIPTS=1 the outputs
// that they expect are written anew.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script", UpdateScripts: os.Getenv("UPDATE_SCRIPTS") == "1"})
}
