package daemon

import (
	"os"
	"strings"

	"rpcward/rpcbind"
)

// ipTransports are the transports that a port mapper serves over IP.
var ipTransports = []rpcbind.NetID{rpcbind.UDP, rpcbind.TCP, rpcbind.UDP6, rpcbind.TCP6}

// visibleTransports returns the IP transports that netconfig(5) has with the
// flag "v". Admins turn IPv6 off for RPC by taking its lines out of that file.
// Without the file, or with one that has none of ours, all are served.
func visibleTransports(path string) []rpcbind.NetID {
	data, err := os.ReadFile(path)
	if err != nil {
		return ipTransports
	}
	visible := map[rpcbind.NetID]bool{}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) >= 3 && !strings.HasPrefix(f[0], "#") && strings.Contains(f[2], "v") {
			visible[rpcbind.ParseNetID(f[0])] = true
		}
	}
	var list []rpcbind.NetID
	for _, n := range ipTransports {
		if visible[n] {
			list = append(list, n)
		}
	}
	if len(list) == 0 {
		return ipTransports
	}
	return list
}
