package guard

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"rpcward/internal/ruleset"
	"rpcward/internal/sockdiag"
)

// Client is an address that is using a port of this host right now.
type Client struct {
	Addr     netip.Addr
	Port     ruleset.Port
	Services string        // that are on the port
	Flows    int           // connections, and exchanges of datagrams that the kernel remembers
	Silent   time.Duration // since it was last heard, at most; -1 if that is not known
}

// Clients lists who uses a port: open TCP connections, and whatever connection
// tracking remembers. Without that, which only some firewalls turn on, nobody
// knows who sends datagrams; tracked tells. This host itself is left out.
func Clients(ports map[ruleset.Port]string) (list []Client, tracked bool, err error) {
	own, err := ownAddresses()
	if err != nil {
		return nil, false, err
	}
	c := census{ports: ports, own: own, found: map[clientKey]*Client{}}
	for port := range ports {
		if port.Proto != ruleset.TCP {
			continue
		}
		flows, err := sockdiag.Flows(port.Port)
		if err != nil {
			return nil, false, err
		}
		for _, f := range flows {
			c.add(f.Remote.Addr(), port, f.Silent)
		}
	}
	tracked, err = c.track()
	for _, client := range c.found {
		list = append(list, *client)
	}
	slices.SortFunc(list, func(a, b Client) int {
		return cmp.Or(a.Addr.Compare(b.Addr), a.Port.Compare(b.Port))
	})
	return list, tracked, err
}

type clientKey struct {
	addr netip.Addr
	port ruleset.Port
}

// census counts clients.
type census struct {
	ports map[ruleset.Port]string
	own   map[netip.Addr]bool
	found map[clientKey]*Client
}

// isOwn reports whether an address is this host's.
func (c *census) isOwn(a netip.Addr) bool { return a.IsLoopback() || c.own[a.WithZone("")] }

func (c *census) add(from netip.Addr, port ruleset.Port, silent time.Duration) {
	from = from.Unmap()
	if c.isOwn(from) {
		return
	}
	k := clientKey{from, port}
	client := c.found[k]
	if client == nil {
		client = &Client{Addr: from, Port: port, Services: c.ports[port], Silent: silent}
		c.found[k] = client
	}
	client.Flows++
	if silent >= 0 && (client.Silent < 0 || silent < client.Silent) {
		client.Silent = silent
	}
}

// timeouts is where the kernel keeps how long it remembers flows, in seconds.
const timeouts = "/proc/sys/net/netfilter/nf_conntrack_"

// track adds the flows of datagrams that the kernel remembers, and reports
// whether it remembers any. Those of TCP are known better from their sockets.
func (c *census) track() (bool, error) {
	count, err := readNumber(timeouts + "count")
	if errors.Is(err, fs.ErrNotExist) || err == nil && count == 0 {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for tracked connections: %w", err)
	}
	longest, err := readNumber(timeouts + "udp_timeout_stream")
	if err != nil {
		longest = -1
	}
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return false, fmt.Errorf("listing tracked connections: %w", err)
		}
		for _, f := range flows {
			c.addTracked(f, longest)
		}
	}
	return true, nil
}

func (c *census) addTracked(f *netlink.ConntrackFlow, longest int) {
	// The answer's source is where the packets really went, whatever was translated.
	port := ruleset.Port{Proto: ruleset.Proto(f.Forward.Protocol), Port: f.Reverse.SrcPort}
	if _, wanted := c.ports[port]; !wanted || port.Proto == ruleset.TCP {
		return
	}
	from, ok := netip.AddrFromSlice(f.Forward.SrcIP)
	to, ok2 := netip.AddrFromSlice(f.Reverse.SrcIP)
	if !ok || !ok2 || !c.isOwn(to.Unmap()) {
		return // forwarded
	}
	silent := time.Duration(-1)
	// A flow that was never answered has a shorter time left, so this is the most.
	if left := int(f.TimeOut); port.Proto == ruleset.UDP && left <= longest {
		silent = time.Duration(longest-left) * time.Second
	}
	c.add(from, port, silent)
}

func readNumber(path string) (int, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}
