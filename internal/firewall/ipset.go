package firewall

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	vishvananda "github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"rpcward/internal/ruleset"
)

// ipsets are the sets of addresses that rules of iptables refer to, over
// netlink: the program ipset is rarely installed.
type ipsets struct {
	handle *vishvananda.Handle
	netns  int
}

// openIPSets returns nil if the kernel has no ipset.
func openIPSets(ns int) (*ipsets, error) {
	at := netns.None()
	if ns != 0 {
		at = netns.NsHandle(ns)
	}
	h, err := vishvananda.NewHandleAt(at, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("connecting to ipset: %w", err)
	}
	if _, _, err := h.IpsetProtocol(); err != nil {
		h.Close()
		return nil, nil
	}
	return &ipsets{h, ns}, nil
}

func (s *ipsets) close() { s.handle.Close() }

const setType = "hash:net"

// create makes a set and fills it, unless it is there with the right content.
func (s *ipsets) create(name string, six bool, list []netip.Prefix) error {
	family := uint8(unix.AF_INET)
	if six {
		family = unix.AF_INET6
	}
	entries := setEntries(list)
	if err := s.handle.IpsetCreate(name, setType, vishvananda.IpsetCreateOptions{Family: family, MaxElements: uint32(max(len(entries), 1))}); err != nil {
		return fmt.Errorf("creating ipset %s: %w", name, err)
	}
	for _, p := range entries {
		if err := s.handle.IpsetAdd(name, &vishvananda.IPSetEntry{IP: p.Addr().AsSlice(), CIDR: uint8(p.Bits())}); err != nil {
			return fmt.Errorf("adding %v to ipset %s: %w", p, name, err)
		}
	}
	return nil
}

// setEntries returns the prefixes in a form that hash:net can hold: it has no
// prefix of length 0.
func setEntries(list []netip.Prefix) []netip.Prefix {
	if len(list) != 1 || list[0].Bits() > 0 {
		return list
	}
	low := netip.PrefixFrom(list[0].Addr(), 1)
	return []netip.Prefix{low, netip.PrefixFrom(last(low).Next(), 1)}
}

// spare is the name of the set in which a new content is made ready.
const spare = "rpcward-new"

// replace gives a set a new content at once; rules that use it don't notice.
func (s *ipsets) replace(name string, six bool, list []netip.Prefix) error {
	if err := s.destroy(spare); err != nil {
		return err
	}
	if err := s.create(spare, six, list); err != nil {
		return err
	}
	names, err := ipsetNames(s.netns)
	if err != nil {
		return err
	}
	if !slices.Contains(names, name) {
		if err := s.create(name, six, nil); err != nil {
			return err
		}
	}
	if err := s.handle.IpsetSwap(spare, name); err != nil {
		return fmt.Errorf("swapping ipset %s: %w", name, err)
	}
	return s.destroy(spare)
}

// destroy removes a set; one that is not there is no error.
func (s *ipsets) destroy(name string) error {
	err := s.handle.IpsetDestroy(name)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("removing ipset %s: %w", name, err)
	}
	return nil
}

// read returns our sets, by key and by whether they are IPv6, and what else has
// a name like ours.
func (s *ipsets) read() (sets map[string]map[bool][]netip.Prefix, strays []string, err error) {
	names, err := ipsetNames(s.netns)
	if err != nil {
		return nil, nil, err
	}
	sets = map[string]map[bool][]netip.Prefix{}
	for _, name := range names {
		id, four := ruleset.ParseIPSet(name, false)
		id6, six := ruleset.ParseIPSet(name, true)
		if !four && !six {
			strays = append(strays, "set "+name)
			continue
		}
		if six {
			id = id6
		}
		r, err := s.handle.IpsetList(name)
		if errors.Is(err, unix.ENOENT) {
			continue // removed since its name was listed
		}
		if err != nil {
			return nil, nil, fmt.Errorf("reading ipset %s: %w", name, err)
		}
		if sets[id] == nil {
			sets[id] = map[bool][]netip.Prefix{}
		}
		if list, ok := entryPrefixes(r); ok {
			sets[id][six] = list
		}
	}
	return sets, strays, nil
}

func entryPrefixes(r *vishvananda.IPSetResult) ([]netip.Prefix, bool) {
	list := []netip.Prefix{}
	for _, e := range r.Entries {
		a, ok := netip.AddrFromSlice(e.IP)
		if !ok {
			return nil, false
		}
		bits := int(e.CIDR)
		if bits == 0 {
			bits = a.BitLen()
		}
		list = append(list, netip.PrefixFrom(a, bits))
	}
	return list, r.TypeName == setType && r.Timeout == nil
}

// Numbers of linux/netfilter/ipset/ip_set.h.
const (
	ipsetProtocol    = 6
	ipsetFlagNames   = 1 << 1 // IPSET_FLAG_LIST_SETNAME
	ipsetNamesPrefix = "rpcward-"
)

// ipsetNames lists the sets whose names begin like ours.
func ipsetNames(ns int) ([]string, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: ns})
	if err != nil {
		return nil, fmt.Errorf("listing ipsets: %w", err)
	}
	defer conn.Close()
	ae := netlink.NewAttributeEncoder()
	ae.Uint8(nl.IPSET_ATTR_PROTOCOL, ipsetProtocol)
	ae.Bytes(nl.IPSET_ATTR_FLAGS|unix.NLA_F_NET_BYTEORDER, []byte{0, 0, 0, ipsetFlagNames})
	data, err := ae.Encode()
	if err != nil {
		return nil, err
	}
	answer, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_IPSET<<8 | nl.IPSET_CMD_LIST, Flags: netlink.Request | netlink.Dump},
		Data:   append([]byte{unix.AF_INET, unix.NFNETLINK_V0, 0, 0}, data...),
	})
	if err != nil {
		return nil, fmt.Errorf("listing ipsets: %w", err)
	}
	var names []string
	for _, m := range answer {
		if len(m.Data) < 4 {
			continue
		}
		ad, err := attributes(m.Data[4:])
		if err != nil {
			return nil, fmt.Errorf("listing ipsets: %w", err)
		}
		for ad.Next() {
			if ad.Type() == nl.IPSET_ATTR_SETNAME && strings.HasPrefix(ad.String(), ipsetNamesPrefix) {
				names = append(names, ad.String())
			}
		}
	}
	return names, nil
}
