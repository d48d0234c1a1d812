package cli

import (
	"io"
	"path/filepath"
)

// Main runs the command that args[0] names, whatever folder it is called from:
// one of the programs whose place rpcward takes, and otherwise the toolbox. It
// returns the exit code.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		args = []string{"rpcward"}
	}
	if calledAsTcpd() {
		return tcpdMain(args, stderr)
	}
	switch filepath.Base(args[0]) {
	case "rpcbind":
		return rpcbindMain(args[1:], stdout, stderr)
	case "portmap":
		return portmapMain(args[1:], stdout, stderr)
	case "rpcinfo":
		return rpcinfoMain(args, stdout, stderr)
	case "pmap_dump":
		return pmapDumpMain(args, stdout, stderr)
	case "pmap_set":
		return pmapSetMain(args, stdin, stderr)
	case "tcpd":
		return tcpdMain(args, stderr)
	case "tcpdmatch":
		return tcpdmatchMain(args, stdout, stderr)
	case "tcpdchk":
		return tcpdchkMain(args, stdout, stderr)
	}
	return toolbox(args[1:], stdin, stdout, stderr)
}
