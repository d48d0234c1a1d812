package firewall

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"rpcward/internal/ruleset"
)

// The backends by name.
const (
	BackendNFT            = "nft"
	BackendIPTablesNFT    = "iptables-nft"
	BackendIPTablesLegacy = "iptables-legacy"
	BackendAuto           = "auto" // what Detect says
)

// Open opens a backend by its name.
func Open(backend string, o Options) (Firewall, error) {
	if backend == BackendAuto {
		d, err := Detect(o)
		if err != nil {
			return nil, err
		}
		backend = d.Backend
	}
	switch backend {
	case BackendNFT:
		return OpenNFT(o)
	case BackendIPTablesNFT, BackendIPTablesLegacy:
		o.Legacy = backend == BackendIPTablesLegacy
		return OpenIPTables(o)
	}
	return nil, fmt.Errorf("no backend is called %q", backend)
}

// Detection is the backend that suits a host.
type Detection struct {
	Backend string
	Why     string // for people
}

// Detect finds out by what the host filters the packets that come in, so that
// our rules are where its admin looks. Where rules of nftables filter them
// (firewalld, nftables.conf), or nothing does, that is nftables, which also is
// the only one that keeps others from taking our rules away. It changes nothing.
func Detect(o Options) (Detection, error) {
	if o.Run == nil {
		o.Run = (*exec.Cmd).Run
	}
	native, err := nativeFilter(o)
	noNFT := errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL)
	if err != nil && !noNFT {
		return Detection{}, fmt.Errorf("looking for nftables: %w", err)
	}
	if native != "" {
		return Detection{BackendNFT, native + " of nftables filters what comes in"}, nil
	}
	legacy, why := iptablesFilter(o, true)
	if legacy {
		return Detection{BackendIPTablesLegacy, why}, nil
	}
	if noNFT {
		if why == notInstalled {
			return Detection{}, errors.New("the kernel has no nftables, and iptables is not installed")
		}
		return Detection{BackendIPTablesLegacy, "the kernel has no nftables"}, nil
	}
	if used, why := iptablesFilter(o, false); used {
		return Detection{BackendIPTablesNFT, why}, nil
	}
	return Detection{BackendNFT, "nothing filters what comes in"}, nil
}

const notInstalled = "not installed"

// nativeFilter names a base chain that filters input and was not made by
// iptables or us; "" if there is none.
func nativeFilter(o Options) (string, error) {
	conn, err := nftables.New(nftables.WithNetNSFd(o.NetNS))
	if err != nil {
		return "", err
	}
	chains, err := conn.ListChains()
	if err != nil {
		return "", err
	}
	for _, c := range chains {
		input := c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookInput && c.Type == nftables.ChainTypeFilter
		family := slices.Contains([]nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyIPv4, nftables.TableFamilyIPv6}, c.Table.Family)
		ours := c.Table.Name == ruleset.NFTTable || c.Table.Name == ruleset.NFTSpare
		iptables := c.Table.Family != nftables.TableFamilyINet && c.Name == "INPUT"
		if !input || !family || ours || iptables {
			continue
		}
		rules, err := conn.GetRules(c.Table, c)
		if err != nil {
			return "", err
		}
		if len(rules) > 0 || c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
			return fmt.Sprintf("chain %s in table %s", c.Name, c.Table.Name), nil
		}
	}
	return "", nil
}

// iptablesFilter reports whether iptables filters input, and why we think so.
// The save programs read, without a table's name, only tables that are there.
func iptablesFilter(o Options, legacy bool) (bool, string) {
	o.Legacy, o.NoSets = legacy, true
	t, err := OpenIPTables(o)
	if err != nil {
		return false, notInstalled
	}
	for _, f := range t.families {
		out, err := t.run(f, "save", nil)
		if err != nil {
			continue
		}
		rules := 0
		table := ""
		for line := range strings.Lines(string(out)) {
			line = strings.TrimSpace(line)
			switch {
			case strings.HasPrefix(line, "*"):
				table = line
			case table != "*filter":
			case strings.HasPrefix(line, ":INPUT DROP"):
				return true, t.program(f, "save") + " shows that INPUT drops by default"
			case strings.HasPrefix(line, "-A INPUT ") && !strings.HasSuffix(line, " "+ruleset.IPTablesInput):
				rules++
			}
		}
		if rules > 0 {
			return true, fmt.Sprintf("%s shows %d rules for INPUT", t.program(f, "save"), rules)
		}
	}
	return false, ""
}
