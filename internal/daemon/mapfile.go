package daemon

import (
	"fmt"
	"net/netip"
	"os"
	"strings"

	"rpcward/internal/registry"
	"rpcward/rpcbind"
)

// readMapFile takes over the mappings that portmap(8) left: lines of program,
// version, protocol number, port, and 1 if a privileged port made the mapping.
func (d *daemon) readMapFile() []registry.Registration {
	data, err := os.ReadFile(d.MapFile)
	if err != nil {
		d.log.Warn("reading portmap's mapping file", "err", err)
		return nil
	}
	var list []registry.Registration
	number := 0
	for text := range strings.Lines(string(data)) {
		number++
		reg, ok := parseMapLine(text)
		if !ok {
			d.log.Warn(fmt.Sprintf("%s:%d: not a mapping: %q", d.MapFile, number, strings.TrimSpace(text)))
			continue
		}
		if reg.Program != rpcbind.Program {
			list = append(list, reg)
		}
	}
	return list
}

func parseMapLine(text string) (registry.Registration, bool) {
	var program, version, prot, privileged uint32
	var port uint16
	if n, err := fmt.Sscan(text, &program, &version, &prot, &port, &privileged); err != nil || n != 5 {
		return registry.Registration{}, false
	}
	n := rpcbind.FromProt(prot)
	if n == rpcbind.NoNetID || port == 0 {
		return registry.Registration{}, false
	}
	ap := netip.AddrPortFrom(netip.IPv4Unspecified(), port)
	owner := registry.Unknown
	if privileged != 0 {
		owner = registry.Superuser
	}
	return registry.Registration{
		Key:  registry.Key{Program: program, Version: version, NetID: n},
		Addr: rpcbind.UAddr(ap), IP: ap, Owner: owner,
	}, true
}
