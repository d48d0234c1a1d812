package firewall

import (
	"errors"
	"fmt"
	"os/exec"

	"golang.org/x/sys/unix"
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
	gates, err := nativeGates(o)
	if err != nil || len(gates) == 0 {
		return "", err
	}
	return fmt.Sprintf("chain %s in table %s", gates[0].Chain, gates[0].Table), nil
}

// iptablesFilter reports whether iptables filters input, and why we think so.
func iptablesFilter(o Options, legacy bool) (bool, string) {
	gates, err := iptablesGates(o, legacy)
	switch {
	case err != nil:
		return false, notInstalled
	case len(gates) == 0:
		return false, ""
	case gates[0].Drops:
		return true, gates[0].Program + "-save shows that INPUT drops by default"
	}
	return true, fmt.Sprintf("%s-save shows %d rules for INPUT", gates[0].Program, gates[0].Rules)
}
