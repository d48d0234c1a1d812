package firewall

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"rpcward/internal/ruleset"
)

// IPTables is the firewall in the filter tables of iptables and ip6tables:
// chains RPCWARD-* and one jump at the top of INPUT. Addresses are in ipsets
// where the kernel has them. A change takes effect at once in each of the two
// tables, but not in both together. Nobody else is kept from changing them.
type IPTables struct {
	view
	options  Options
	sets     *ipsets // nil for none
	families []*table
}

// table is the filter table of IPv4 or IPv6.
type table struct {
	six   bool
	jumps int // from INPUT to our chain, when read
}

// OpenIPTables looks for the programs of iptables and changes nothing yet.
func OpenIPTables(o Options) (*IPTables, error) {
	if o.Run == nil {
		o.Run = (*exec.Cmd).Run
	}
	t := &IPTables{options: o, families: []*table{{six: false}}}
	if _, err := os.Stat("/proc/sys/net/ipv6"); err == nil {
		t.families = append(t.families, &table{six: true})
	}
	for _, f := range t.families {
		for _, what := range []string{"save", "restore"} {
			if _, err := exec.LookPath(t.program(f, what)); err != nil {
				return nil, err
			}
		}
	}
	if !o.NoSets {
		var err error
		if t.sets, err = openIPSets(o.NetNS); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// Close lets go of netlink.
func (t *IPTables) Close() error {
	t.Forget()
	if t.sets != nil {
		t.sets.close()
		t.sets = nil
	}
	return nil
}

// Name returns "iptables-nft" or "iptables-legacy".
func (t *IPTables) Name() string {
	if t.options.Legacy {
		return "iptables-legacy"
	}
	return "iptables-nft"
}

// program returns the name of a program of iptables, "ip6tables-nft-save".
func (t *IPTables) program(f *table, what string) string {
	name := t.Name() + "-" + what
	if f.six {
		name = strings.Replace(name, "iptables", "ip6tables", 1)
	}
	return name
}

// run runs a program of iptables and returns its output.
func (t *IPTables) run(f *table, what string, input []byte, args ...string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(t.program(f, what), args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &stdout, &stderr
	if err := t.options.Run(cmd); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", t.program(f, what), err, firstLine(stderr.String()))
	}
	return stdout.Bytes(), nil
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}

// Apply is Firewall.Apply. If others have changed the tables since they were
// read, so that the change can't be made, it reads again, once.
func (t *IPTables) Apply(desired *ruleset.State) ([]ruleset.Batch, error) {
	fresh := t.state == nil
	steps, err := t.apply(desired, t.Read, t.do)
	if err != nil && !fresh {
		var more []ruleset.Batch
		more, err = t.apply(desired, t.Read, t.do)
		steps = append(steps, more...)
	}
	return steps, err
}

func (t *IPTables) rendering(f *table) ruleset.IPTablesOptions {
	return ruleset.IPTablesOptions{IPv6: f.six, Sets: t.sets != nil}
}

// do takes the steps of one batch: sets that are needed, then both tables, then
// sets that are not needed any more.
func (t *IPTables) do(current *ruleset.State, steps ruleset.Batch) error {
	next := current.Clone()
	for _, step := range steps {
		next.Apply(step)
	}
	if err := t.changeSets(steps, ruleset.AddSet, ruleset.EditSet); err != nil {
		return err
	}
	for _, f := range t.families {
		text := t.text(f, current, next, steps)
		if len(text) == 0 {
			continue
		}
		if _, err := t.run(f, "restore", text, "--noflush", "-w"); err != nil {
			return err
		}
		if next.Base == ruleset.GoodBase {
			f.jumps = 1
		}
	}
	return t.changeSets(steps, ruleset.DelSet, ruleset.DelStray)
}

func (t *IPTables) changeSets(steps ruleset.Batch, ops ...ruleset.Op) error {
	if t.sets == nil {
		return nil
	}
	for _, step := range steps {
		if !slices.Contains(ops, step.Op) {
			continue
		}
		if stray, ok := strings.CutPrefix(step.Name, "set "); ok && step.Op == ruleset.DelStray {
			if err := t.sets.destroy(stray); err != nil {
				return err
			}
			continue
		}
		for _, f := range t.families {
			if err := t.changeSet(step, f.six); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *IPTables) changeSet(step ruleset.Step, six bool) error {
	name := ruleset.IPSet(step.Name, six)
	switch step.Op {
	case ruleset.AddSet:
		return t.sets.create(name, six, step.Set.Family(six))
	case ruleset.EditSet:
		return t.sets.replace(name, six, step.Set.Family(six))
	case ruleset.DelSet:
		return t.sets.destroy(name)
	}
	return nil
}

// text renders a batch for restore, empty if it has nothing for the tables.
// Chains that don't change are not mentioned, so that they keep their counters.
func (t *IPTables) text(f *table, current, next *ruleset.State, steps ruleset.Batch) []byte {
	var b bytes.Buffer
	o := t.rendering(f)
	base, jump := false, false
	if slices.ContainsFunc(steps, func(s ruleset.Step) bool { return s.Op == ruleset.AddChain || s.Op == ruleset.EditChain }) {
		next.IPTablesMarks(&b)
	}
	for _, step := range steps {
		switch step.Op {
		case ruleset.AddChain, ruleset.EditChain:
			next.IPTablesService(&b, step.Name, o)
		case ruleset.EditSet:
			t.refill(&b, next, step, o)
		case ruleset.SetPort, ruleset.DropPort:
			base = true
		case ruleset.AddBase:
			base, jump = true, true
		}
	}
	if base {
		next.IPTablesBase(&b, o)
	}
	if jump {
		for range f.jumps {
			fmt.Fprintf(&b, "-D INPUT -j %s\n", ruleset.IPTablesInput)
		}
		fmt.Fprintf(&b, "-I INPUT 1 -j %s\n", ruleset.IPTablesInput)
	}
	t.deletions(&b, current, next, steps)
	if b.Len() == 0 {
		return nil
	}
	return slices.Concat([]byte("*filter\n"), b.Bytes(), []byte("COMMIT\n"))
}

// refill renders the chains that hold the addresses of a set themselves.
func (t *IPTables) refill(b *bytes.Buffer, next *ruleset.State, step ruleset.Step, o ruleset.IPTablesOptions) {
	if t.sets != nil {
		return
	}
	for _, name := range next.SortedChains() {
		if next.Chains[name].Set == step.Name {
			next.IPTablesService(b, name, o)
		}
	}
}

// deletions removes chains, with those of marks that nobody sets any more.
func (t *IPTables) deletions(b *bytes.Buffer, current, next *ruleset.State, steps ruleset.Batch) {
	var gone []string
	kept := marks(next)
	for _, step := range steps {
		switch step.Op {
		case ruleset.DelChain:
			gone = append(gone, ruleset.IPTablesChain(step.Name))
		case ruleset.DelStray:
			chain, ok := strings.CutPrefix(step.Name, "chain ")
			m, isMark := ruleset.ParseIPTablesMark(chain)
			if ok && !(isMark && kept[m]) { // nobody seemed to use it, as somebody emptied a chain
				gone = append(gone, chain)
			}
		}
	}
	if len(gone) > 0 {
		for m := range marks(current) {
			if !kept[m] {
				gone = append(gone, ruleset.IPTablesMark(m))
			}
		}
	}
	for _, chain := range gone {
		fmt.Fprintf(b, ":%s - [0:0]\n", chain) // empties it
	}
	for _, chain := range gone {
		fmt.Fprintf(b, "-X %s\n", chain)
	}
}

func marks(s *ruleset.State) map[ruleset.Mark]bool {
	set := map[ruleset.Mark]bool{}
	for _, c := range s.Chains {
		if c.Mark != (ruleset.Mark{}) {
			set[c.Mark] = true
		}
	}
	return set
}

// Remove is Firewall.Remove.
func (t *IPTables) Remove() error {
	t.Forget()
	for _, f := range t.families {
		saved, err := t.save(f)
		if err != nil {
			return err
		}
		var b bytes.Buffer
		b.WriteString("*filter\n")
		for range saved.jumps {
			fmt.Fprintf(&b, "-D INPUT -j %s\n", ruleset.IPTablesInput)
		}
		chains := slices.Sorted(saved.ours())
		if len(chains) == 0 && saved.jumps == 0 {
			continue
		}
		for _, chain := range chains {
			fmt.Fprintf(&b, ":%s - [0:0]\n", chain)
		}
		for _, chain := range chains {
			fmt.Fprintf(&b, "-X %s\n", chain)
		}
		b.WriteString("COMMIT\n")
		if _, err := t.run(f, "restore", b.Bytes(), "--noflush", "-w"); err != nil {
			return err
		}
	}
	if t.sets == nil {
		return nil
	}
	names, err := ipsetNames(t.options.NetNS)
	for _, name := range names {
		err = errors.Join(err, t.sets.destroy(name))
	}
	return err
}

// Counters is Firewall.Counters.
func (t *IPTables) Counters() (map[string]Counter, error) {
	all := map[string]Counter{}
	for _, f := range t.families {
		saved, err := t.save(f)
		if err != nil {
			return nil, err
		}
		for chain, rules := range saved.rules {
			name, ours := ruleset.ParseIPTablesChain(chain)
			if !ours {
				continue
			}
			c := all[name]
			for _, r := range rules {
				if r.text == "-j DROP" {
					c.Dropped.add(r.seen)
				} else {
					c.Allowed.add(r.seen)
				}
			}
			all[name] = c
		}
	}
	return all, nil
}

// lookAgain is how often Watch looks at what makes no events.
const lookAgain = time.Second

// Watch is Firewall.Watch. Of changes to the kernel's older tables and to
// ipsets there are no events, so it looks each second. It tells of our own
// changes too: what then is to be done is nothing.
func (t *IPTables) Watch(ctx context.Context, changed func(Foreign)) error {
	var mu sync.Mutex
	one := func(f Foreign) {
		mu.Lock()
		defer mu.Unlock()
		changed(f)
	}
	if t.options.Legacy {
		return t.poll(ctx, one)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	polled := make(chan error, 1)
	go func() {
		polled <- t.poll(ctx, one)
		cancel()
	}()
	e := nftEvents{
		netns: t.options.NetNS, changed: one,
		tables: []watchedTable{{unix.NFPROTO_IPV4, "filter"}, {unix.NFPROTO_IPV6, "filter"}},
	}
	err := e.run(ctx)
	cancel()
	if pollErr := <-polled; errors.Is(err, context.Canceled) {
		err = pollErr
	}
	return err
}

// poll looks for changes that make no events. What comes after it has told that
// watching started is noticed.
func (t *IPTables) poll(ctx context.Context, changed func(Foreign)) error {
	var sets *ipsets
	if t.sets != nil {
		var err error
		if sets, err = openIPSets(t.options.NetNS); err != nil {
			return err
		}
		defer sets.close()
	}
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	before, err := t.fingerprint(sets)
	if err == nil {
		changed(Foreign{Why: "watching started"})
	}
	for err == nil {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		var now string
		if now, err = t.fingerprint(sets); err == nil && now != before {
			before = now
			changed(Foreign{Why: "changed"})
		}
	}
	return err
}

// fingerprint is the text of the older tables, without counters, and of the sets.
func (t *IPTables) fingerprint(sets *ipsets) (string, error) {
	var b strings.Builder
	for _, f := range t.families {
		if !t.options.Legacy {
			break
		}
		out, err := t.run(f, "save", nil, "-t", "filter")
		if err != nil {
			return "", err
		}
		for line := range strings.Lines(string(out)) {
			if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, ":") {
				b.WriteString(line)
			}
		}
	}
	if sets == nil {
		return b.String(), nil
	}
	all, _, err := sets.read()
	for _, id := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintln(&b, id, ruleset.NewAddresses(all[id][false], all[id][true]).ID())
	}
	return b.String(), err
}
