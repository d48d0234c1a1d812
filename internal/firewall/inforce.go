package firewall

import (
	"slices"
	"strings"

	"github.com/google/nftables"

	"rpcward/internal/ruleset"
)

// InForce returns the backends that have anything of ours in the kernel, in a
// fixed order. It changes nothing, and loads nothing into the kernel.
func InForce(o Options) ([]string, error) {
	conn, err := nftables.New(nftables.WithNetNSFd(o.NetNS))
	if err != nil {
		return nil, err
	}
	var list []string
	chains, err := conn.ListChains()
	if err == nil { // else the kernel has no nftables
		tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(tables, func(t *nftables.Table) bool {
			return t.Name == ruleset.NFTTable || t.Name == ruleset.NFTSpare
		}) {
			list = append(list, BackendNFT)
		}
		if slices.ContainsFunc(chains, func(c *nftables.Chain) bool {
			return c.Table.Family != nftables.TableFamilyINet && strings.HasPrefix(c.Name, ourChains)
		}) {
			list = append(list, BackendIPTablesNFT)
		}
	}
	if legacyInForce(o) {
		list = append(list, BackendIPTablesLegacy)
	}
	return list, nil
}

// legacyInForce looks into the older tables that there are.
func legacyInForce(o Options) bool {
	o.Legacy, o.NoSets = true, true
	t, err := OpenIPTables(o)
	if err != nil {
		return false
	}
	for _, f := range t.families {
		// Without a table's name only those that are there are read.
		out, err := t.run(f, "save", nil)
		if err == nil && strings.Contains(string(out), "\n:"+ourChains) {
			return true
		}
	}
	return false
}
