// Package firewall brings a ruleset.State into the kernel, reads it back and
// notices when others change it. There are two ways into the kernel: nftables
// over netlink (OpenNFT) and the chains of iptables (OpenIPTables). Detect says
// which one a host's own firewall uses.
//
//	fw, err := firewall.OpenNFT(firewall.Options{})
//	steps, err := fw.Apply(desired) // first reads what is there
//	...
//	steps, err = fw.Apply(next) // only what differs, from what Apply left
//
// Needs CAP_NET_ADMIN in the network namespace; iptables needs more, see
// docs/architecture.md. What was applied stays when the
// process ends, however that happens; Remove takes it away. A Firewall is used
// by one goroutine at a time, save for Watch, which may run beside. Nothing is
// logged: errors and return values tell all.
package firewall

import (
	"context"
	"errors"
	"os/exec"

	"rpcward/internal/ruleset"
)

// Options say where the firewall is. The zero value is the calling process's
// own network namespace.
type Options struct {
	// NetNS is a file descriptor of another network namespace, 0 for none. It
	// must stay open as long as the Firewall is used.
	NetNS int
	// Run runs a program to its end, as (*exec.Cmd).Run does, which is the
	// default. With NetNS it must run it there.
	Run func(*exec.Cmd) error
	// Legacy picks the older kernel interface of iptables.
	Legacy bool
	// NoSets keeps addresses in the rules of iptables instead of in ipsets.
	NoSets bool
	// Look reads also a table that another process owns, which can't be changed.
	Look bool
}

// Firewall is a way into the kernel.
type Firewall interface {
	// Name returns "nft", "iptables-nft" or "iptables-legacy".
	Name() string
	// Read returns what the kernel holds of ours.
	Read() (*ruleset.State, error)
	// Apply changes the kernel to the desired state, in the order of
	// ruleset.Diff, and returns what it did. It starts from what the last Apply
	// or Read left, and after an error or Forget from what it reads first.
	// After an error the kernel is somewhere between two steps, and the batches
	// returned are those that were done. The caller must not change desired
	// afterwards. A desired state has a Base of ruleset.GoodBase.
	Apply(desired *ruleset.State) ([]ruleset.Batch, error)
	// Forget makes the next Apply read first: somebody may have changed the kernel.
	Forget()
	// Counters returns what the chains have seen since they are in the kernel.
	Counters() (map[string]Counter, error)
	// Remove takes everything of ours out of the kernel.
	Remove() error
	// Watch calls changed whenever somebody else may have changed our part of
	// the kernel, until ctx ends, and once at the start. Changes in quick
	// succession come as one call. It returns ctx's error, or another one if it
	// can't watch any more.
	Watch(ctx context.Context, changed func(Foreign)) error
	// Close lets go of the kernel. What was applied stays.
	Close() error
}

// Counter counts the packets that a service's chain decided on.
type Counter struct {
	Allowed, Dropped Count
}

// Count is a number of packets and their bytes.
type Count struct{ Packets, Bytes uint64 }

func (c *Count) add(d Count) { c.Packets += d.Packets; c.Bytes += d.Bytes }

// Foreign says what is known of a change that was not ours.
type Foreign struct {
	PID     uint32 // process that made it, 0 if not known
	Process string // its name, as the kernel has it
	Why     string // "changed", "events were lost", "watching started", "looked again"
}

// ErrOwned says that another process owns the table: a guard that is running.
var ErrOwned = errors.New("another process owns the table " + ruleset.NFTTable)

// view is what a Firewall knows of the kernel: nil for nothing.
type view struct{ state *ruleset.State }

func (v *view) Forget() { v.state = nil }

// apply does what Firewall.Apply says, with the parts that differ.
func (v *view) apply(desired *ruleset.State, read func() (*ruleset.State, error), do func(current *ruleset.State, b ruleset.Batch) error) ([]ruleset.Batch, error) {
	current := v.state
	if current == nil {
		var err error
		if current, err = read(); err != nil {
			return nil, err
		}
	}
	v.state = nil
	batches := ruleset.Diff(current, desired)
	if len(batches) > 0 {
		current = current.Clone()
	}
	for i, b := range batches {
		if err := do(current, b); err != nil {
			return batches[:i], err
		}
		for _, step := range b {
			current.Apply(step)
		}
	}
	v.state = desired
	return batches, nil
}
