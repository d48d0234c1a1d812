package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"rpcward/internal/ruleset"
)

// NFT is the firewall in nftables: one table of family inet. Where the kernel
// can (Linux 6.9), the connection owns the table: "nft flush ruleset" of others
// leaves it alone and their changes are refused. It stays when its owner is
// gone, and the next NFT owns it.
type NFT struct {
	view
	options Options

	conn  *nftables.Conn // to read
	raw   *netlink.Conn  // the same connection, to write
	owned bool           // by this connection
	there bool           // the table, since the last Read
	old   bool           // the kernel knows no owners that leave the table behind
	// replace says that the table can't be mended step by step: it is not ours
	// to own, or has things in it that we don't know.
	replace bool

	mu  sync.Mutex
	ids []uint32 // port ids of our connections, for Watch
}

// OpenNFT connects to nftables and changes nothing yet.
func OpenNFT(o Options) (*NFT, error) {
	n := &NFT{options: o}
	if err := n.connect(); err != nil {
		return nil, err
	}
	return n, nil
}

// buffer is large enough for a transaction with some 200,000 prefixes, in bytes.
// With the kernel's default, 10,000 don't fit, and of the answers some are lost.
const buffer = 32 << 20

func (n *NFT) connect() error {
	if n.conn != nil {
		return nil
	}
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(n.options.NetNS), nftables.WithSockOptions(func(c *netlink.Conn) error {
		n.raw = c
		return errors.Join(c.SetReadBuffer(buffer), c.SetWriteBuffer(buffer))
	}))
	if err != nil {
		return fmt.Errorf("connecting to nftables: %w", err)
	}
	n.conn, n.owned = conn, false
	n.mu.Lock()
	n.ids = append(n.ids, n.raw.PID())
	n.mu.Unlock()
	return nil
}

// Close lets go of the table, which stays.
func (n *NFT) Close() error {
	n.Forget()
	if n.conn == nil {
		return nil
	}
	conn := n.conn
	n.conn, n.owned = nil, false
	return conn.CloseLasting()
}

// Name returns "nft".
func (n *NFT) Name() string { return "nft" }

// Owned reports whether the table is safe from others.
func (n *NFT) Owned() bool { return n.owned }

// check drops the connection after an error: what answers are still to come on
// it is not known.
func (n *NFT) check(err error) error {
	if err == nil {
		return nil
	}
	n.Close()
	if errors.Is(err, unix.EPERM) && !errors.Is(err, ErrOwned) {
		return fmt.Errorf("%w, or the right to change it is missing: %w", ErrOwned, err)
	}
	return err
}

// Apply is Firewall.Apply.
func (n *NFT) Apply(desired *ruleset.State) ([]ruleset.Batch, error) {
	if n.state == nil {
		if _, err := n.Read(); err != nil {
			return nil, err
		}
	}
	if !n.owned && !n.there && !n.replace {
		if err := n.own(); err != nil {
			return nil, n.check(err)
		}
		n.there = true
	}
	if n.replace {
		steps := ruleset.Diff(n.state, desired)
		if err := n.rebuild(desired); err != nil {
			return nil, n.check(err)
		}
		n.state, n.replace = desired, false
		return steps, nil
	}
	steps, err := n.apply(desired, n.Read, func(current *ruleset.State, steps ruleset.Batch) error {
		return n.do(ruleset.NFTTable, current, steps)
	})
	return steps, n.check(err)
}

// own makes the table ours, or new.
func (n *NFT) own() error {
	flags := uint32(tableOwner | tablePersist)
	if n.old {
		flags = 0
	}
	b := newBatch()
	b.addTable(flags)
	err := b.send(n.raw)
	if !n.old && (errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL)) {
		n.old = true
		return n.own()
	}
	n.owned = err == nil && !n.old
	return err
}

// rebuild replaces the table by a new one. A spare with the desired state stands
// beside the old table before that goes, and until the new one is there, so that
// nothing is open in between, and nothing closed that need not be. If the table
// is not there but a spare is, somebody was interrupted: the spare stays until
// the end.
func (n *NFT) rebuild(desired *ruleset.State) error {
	there, err := n.tables()
	if err != nil {
		return err
	}
	if there[ruleset.NFTTable] {
		if err := n.standIn(there[ruleset.NFTSpare], desired); err != nil {
			return err
		}
	}
	if err := n.own(); err != nil {
		return err
	}
	if err := n.fillTable(ruleset.NFTTable, desired); err != nil {
		return err
	}
	return n.removeTable(ruleset.NFTSpare)
}

// standIn puts a spare in the place of the table.
func (n *NFT) standIn(there bool, desired *ruleset.State) error {
	if there {
		if err := n.removeTable(ruleset.NFTSpare); err != nil {
			return err
		}
	}
	b := newBatch()
	b.table = ruleset.NFTSpare
	b.addTable(0)
	if err := b.send(n.raw); err != nil {
		return err
	}
	if err := n.fillTable(ruleset.NFTSpare, desired); err != nil {
		return err
	}
	return n.removeTable(ruleset.NFTTable)
}

// fillTable takes an empty table to the desired state.
func (n *NFT) fillTable(table string, desired *ruleset.State) error {
	current := (&ruleset.State{}).Clone()
	for _, steps := range ruleset.Diff(current, desired) {
		if err := n.do(table, current, steps); err != nil {
			return err
		}
		for _, step := range steps {
			current.Apply(step)
		}
	}
	return nil
}

// tables says which tables of family inet there are.
func (n *NFT) tables() (map[string]bool, error) {
	list, err := n.conn.ListTablesOfFamily(nftables.TableFamilyINet)
	there := map[string]bool{}
	for _, t := range list {
		there[t.Name] = true
	}
	return there, err
}

// removeTable removes a table, if it is there.
func (n *NFT) removeTable(name string) error {
	there, err := n.tables()
	if err != nil || !there[name] {
		return err
	}
	b := newBatch()
	b.table = name
	b.delTable()
	return b.send(n.raw)
}

// do takes the steps of one batch: in one transaction, except that new sets are
// filled before, in pieces.
func (n *NFT) do(table string, current *ruleset.State, steps ruleset.Batch) error {
	b := newBatch()
	b.table = table
	if len(current.Ports) == 0 {
		b.addPorts() // may not be there yet
	}
	for _, step := range steps {
		if step.Op == ruleset.AddSet {
			if err := n.addSet(table, step); err != nil {
				return err
			}
			continue
		}
		b.step(current, step)
	}
	return b.send(n.raw)
}

// perMessage is how many elements fit into the 64 KiB of an attribute, at 36
// bytes for an IPv6 one; perTransaction is how many are sent at once.
const (
	perMessage     = 1500
	perTransaction = 8 * perMessage
)

func (n *NFT) addSet(table string, step ruleset.Step) error {
	for _, six := range []bool{false, true} {
		name := ruleset.NFTSet(step.Name, six)
		rest := intervals(step.Set.Family(six))
		b := newBatch()
		b.table = table
		b.addInterval(name, six)
		for first := true; first || len(rest) > 0; first = false {
			k := min(len(rest), perTransaction)
			b.fill(name, rest[:k])
			rest = rest[k:]
			if err := b.send(n.raw); err != nil {
				return err
			}
			b = newBatch()
			b.table = table
		}
	}
	return nil
}

// fill adds elements.
func (b *batch) fill(set string, list []element) {
	for part := range slices.Chunk(list, perMessage) {
		b.elements(unix.NFT_MSG_NEWSETELEM, set, part)
	}
}

// The numbers by which nft knows types, datatype.h of nftables, and 6 bits
// apart those of the parts of a concatenation.
const (
	typeIPv4  = 7
	typeIPv6  = 8
	typePorts = 12<<6 | 13 // inet_proto . inet_service
	byteOrder = 0          // NFTNL_UDATA_SET_KEYBYTEORDER
	bigEndian = 2
)

func (b *batch) addInterval(name string, six bool) {
	kind, length := uint32(typeIPv4), uint32(4)
	if six {
		kind, length = typeIPv6, 16
	}
	b.addSet(name, unix.NFT_SET_INTERVAL, kind, length, userData)
}

// userData tells nft in which order to print keys.
func userData(ae *netlink.AttributeEncoder) {
	ae.Bytes(unix.NFTA_SET_USERDATA, append([]byte{byteOrder, 4}, native(bigEndian)...))
}

// addPorts adds the map of ports, or leaves the one that is there.
func (b *batch) addPorts() {
	b.addSet(ruleset.NFTPorts, unix.NFT_SET_MAP, typePorts, 8, func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.NFTA_SET_DATA_TYPE, unix.NFT_DATA_VERDICT)
		ae.Uint32(unix.NFTA_SET_DATA_LEN, 0)
		userData(ae)
	})
}

// step appends what a step takes.
func (b *batch) step(current *ruleset.State, step ruleset.Step) {
	switch step.Op {
	case ruleset.AddSet, ruleset.EditSet:
		for _, six := range []bool{false, true} {
			name := ruleset.NFTSet(step.Name, six)
			b.addInterval(name, six)
			if step.Op == ruleset.EditSet {
				b.flushSet(name)
			}
			b.fill(name, intervals(step.Set.Family(six)))
		}
	case ruleset.AddChain, ruleset.EditChain:
		chain := ruleset.NFTChain(step.Name)
		b.addChain(chain)
		b.rules(chain, step.Op == ruleset.EditChain, serviceRules(step.Chain))
	case ruleset.SetPort:
		chain := ruleset.NFTPort(step.Port)
		b.addChain(chain)
		b.rules(chain, true, portRules(step.Name))
		b.elements(unix.NFT_MSG_NEWSETELEM, ruleset.NFTPorts, []element{{key: portKey(step.Port), chain: chain}})
	case ruleset.DropPort:
		chain := ruleset.NFTPort(step.Port)
		b.elements(unix.NFT_MSG_DELSETELEM, ruleset.NFTPorts, []element{{key: portKey(step.Port), chain: chain}})
		b.flushChain(chain)
		b.delChain(chain)
	case ruleset.AddBase:
		b.addPorts()
		b.addBaseChain()
		b.rules(ruleset.NFTInput, current.Base != ruleset.NoBase, baseRules())
	case ruleset.DelChain:
		b.flushChain(ruleset.NFTChain(step.Name))
		b.delChain(ruleset.NFTChain(step.Name))
	case ruleset.DelSet:
		b.delSet(ruleset.NFTSet(step.Name, false))
		b.delSet(ruleset.NFTSet(step.Name, true))
	}
}

// rules fills a chain, after emptying it if something is in it.
func (b *batch) rules(chain string, flush bool, rules [][]expr.Any) {
	if flush {
		b.flushChain(chain)
	}
	for _, r := range rules {
		b.addRule(chain, r)
	}
}

// Remove is Firewall.Remove. A table that is not there is no error.
func (n *NFT) Remove() error {
	n.Forget()
	if err := n.connect(); err != nil {
		return err
	}
	n.there, n.owned = false, false
	err := n.removeTable(ruleset.NFTTable)
	if err == nil {
		err = n.removeTable(ruleset.NFTSpare)
	}
	return n.check(err)
}

// readTries bounds how often Read starts again because others changed the
// ruleset in the meantime.
const readTries = 10

// Read is Firewall.Read.
func (n *NFT) Read() (*ruleset.State, error) {
	n.Forget()
	if err := n.connect(); err != nil {
		return nil, err
	}
	if err := n.raw.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	for range readTries {
		before, err := n.generation()
		if err != nil {
			return nil, n.check(err)
		}
		r, err := n.readTable()
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINTR) {
			return nil, n.check(fmt.Errorf("reading the table: %w", err))
		}
		after, genErr := n.generation()
		if genErr != nil {
			return nil, n.check(genErr)
		}
		if err == nil && before == after {
			n.state, n.replace, n.there = r.state, r.replace, false
			return r.state, nil
		}
	}
	return nil, n.check(errors.New("reading the table: others change the ruleset all the time"))
}

// generation returns the number of the ruleset, which grows with each change.
func (n *NFT) generation() (uint32, error) {
	answer, err := n.raw.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: netlink.Request},
		Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0},
	})
	if err != nil || len(answer) == 0 || len(answer[0].Data) < 4 {
		return 0, fmt.Errorf("asking for the generation: %w", err)
	}
	g, err := parseGeneration(answer[0].Data)
	return g.id, err
}

// reading is what is read of the table.
type reading struct {
	state   *ruleset.State
	replace bool
	// for the base
	ports, input bool
}

func (n *NFT) readTable() (reading, error) {
	r := reading{state: (&ruleset.State{}).Clone()}
	tables, err := n.conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return r, err
	}
	i := slices.IndexFunc(tables, func(t *nftables.Table) bool { return t.Name == ruleset.NFTTable })
	r.replace = slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == ruleset.NFTSpare })
	if i < 0 {
		return r, nil
	}
	table := tables[i]
	// The library reads the flags in the wrong byte order.
	flags := binary.BigEndian.Uint32(native(table.Flags))
	switch {
	case flags&tableOwner != 0 && !n.owned && !n.options.Look:
		return r, ErrOwned
	case flags&tablePersist == 0 && !n.old:
		r.replace = true
	}
	if err := n.readSets(&r, table); err != nil {
		return r, err
	}
	if err := n.readChains(&r, table); err != nil {
		return r, err
	}
	switch {
	case r.input && r.ports && flags&tableDormant == 0:
		r.state.Base = ruleset.GoodBase
	default:
		r.state.Base = ruleset.WrongBase
	}
	r.replace = r.replace || len(r.state.Strays) > 0
	return r, nil
}

func (n *NFT) readSets(r *reading, table *nftables.Table) error {
	sets, err := n.conn.GetSets(table)
	if err != nil {
		return err
	}
	found := map[string]map[bool][]netip.Prefix{} // by key, then by whether IPv6
	for _, s := range sets {
		if s.Name == ruleset.NFTPorts && s.IsMap {
			if err := n.readPorts(r, s); err != nil {
				return err
			}
			continue
		}
		six := s.KeyType.Bytes == 16
		id, ours := ruleset.ParseNFTSet(s.Name, six)
		if !ours || !s.Interval || s.IsMap || s.HasTimeout || s.Dynamic || s.Concatenation {
			r.state.Strays = append(r.state.Strays, "set "+s.Name)
			continue
		}
		elements, err := n.conn.GetSetElements(s)
		if err != nil {
			return err
		}
		if found[id] == nil {
			found[id] = map[bool][]netip.Prefix{}
		}
		found[id][six] = prefixesOf(elements)
	}
	for id, families := range found {
		r.state.Sets[id] = nil
		if len(families) == 2 {
			r.state.Sets[id] = ruleset.NewAddresses(families[false], families[true])
		}
	}
	return nil
}

// prefixesOf returns the prefixes that the elements of an interval set hold.
func prefixesOf(elements []nftables.SetElement) []netip.Prefix {
	slices.SortFunc(elements, func(a, b nftables.SetElement) int {
		if c := slices.Compare(a.Key, b.Key); c != 0 || a.IntervalEnd == b.IntervalEnd {
			return c
		}
		if a.IntervalEnd {
			return -1
		}
		return 1
	})
	list := []netip.Prefix{}
	for i, e := range elements {
		first, ok := netip.AddrFromSlice(e.Key)
		if e.IntervalEnd || !ok {
			continue
		}
		end := last(netip.PrefixFrom(first, 0))
		if i+1 < len(elements) {
			next, _ := netip.AddrFromSlice(elements[i+1].Key)
			end = next.Prev()
		}
		list = append(list, prefixes(first, end)...)
	}
	return list
}

func (n *NFT) readPorts(r *reading, s *nftables.Set) error {
	elements, err := n.conn.GetSetElements(s)
	if err != nil {
		return err
	}
	r.ports = !s.Interval && !s.HasTimeout && !s.Dynamic
	for _, e := range elements {
		port, ok := parsePortKey(e.Key)
		chain, jumps := jumpTarget(e.Val)
		if !ok || !jumps || chain != ruleset.NFTPort(port) {
			r.state.Strays = append(r.state.Strays, "element of "+s.Name)
			continue
		}
		r.state.Ports[port] = ruleset.Unknown // until its chain is read
	}
	return nil
}

// jumpTarget reads a verdict: the content of NFTA_DATA_VERDICT.
func jumpTarget(b []byte) (chain string, jumps bool) {
	ad, err := attributes(b)
	if err != nil {
		return "", false
	}
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_VERDICT_CODE:
			jumps = int32(ad.Uint32()) == unix.NFT_JUMP
		case unix.NFTA_VERDICT_CHAIN:
			chain = ad.String()
		}
	}
	return chain, jumps && ad.Err() == nil
}

func (n *NFT) readChains(r *reading, table *nftables.Table) error {
	chains, err := n.conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return err
	}
	for _, c := range chains {
		if c.Table.Name != ruleset.NFTTable {
			continue
		}
		rules, err := n.readRules(table, c)
		if err != nil {
			return err
		}
		name, ours := ruleset.ParseNFTChain(c.Name)
		port, isPort := ruleset.ParseNFTPort(c.Name)
		switch {
		case c.Name == ruleset.NFTInput:
			r.input = isBase(c) && sameRules(rules, baseRules())
			r.replace = r.replace || !isBase(c)
		case isPort && c.Hooknum == nil && r.state.Ports[port] != "":
			r.state.Ports[port] = portChain(rules)
		case ours && c.Hooknum == nil:
			r.state.Chains[name] = chainOf(rules)
		default:
			r.state.Strays = append(r.state.Strays, "chain "+c.Name)
		}
	}
	return nil
}

func isBase(c *nftables.Chain) bool {
	return c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookInput && c.Priority != nil && *c.Priority == ruleset.NFTPriority &&
		c.Type == nftables.ChainTypeFilter && c.Policy != nil && *c.Policy == nftables.ChainPolicyAccept
}

func (n *NFT) readRules(t *nftables.Table, c *nftables.Chain) ([][]expr.Any, error) {
	rules, err := n.conn.GetRules(t, c)
	if err != nil {
		return nil, err
	}
	list := make([][]expr.Any, len(rules))
	for i, r := range rules {
		list[i] = r.Exprs
	}
	return list, nil
}

// Counters is Firewall.Counters.
func (n *NFT) Counters() (map[string]Counter, error) {
	if err := n.connect(); err != nil {
		return nil, err
	}
	if err := n.raw.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	chains, err := n.conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, n.check(err)
	}
	all := map[string]Counter{}
	for _, c := range chains {
		name, ours := ruleset.ParseNFTChain(c.Name)
		if !ours || c.Table.Name != ruleset.NFTTable {
			continue
		}
		rules, err := n.readRules(c.Table, c)
		if err != nil {
			return nil, n.check(err)
		}
		all[name] = countRules(rules)
	}
	return all, nil
}

func countRules(rules [][]expr.Any) (c Counter) {
	for _, rule := range rules {
		var seen Count
		for _, e := range rule {
			switch e := e.(type) {
			case *expr.Counter:
				seen = Count{e.Packets, e.Bytes}
			case *expr.Verdict:
				if e.Kind == expr.VerdictDrop {
					c.Dropped.add(seen)
				} else {
					c.Allowed.add(seen)
				}
			}
		}
	}
	return c
}
