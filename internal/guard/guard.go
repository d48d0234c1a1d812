// Package guard keeps the kernel firewall in step with what is registered and
// with the two policy files: each port of an RPC service is open to those whom
// the files allow, from before the registration is published until no socket
// is left on the port.
//
// A Guard is one loop over what may happen: registrations change, the policy
// does, somebody else changes the firewall, a port that was given up becomes
// free. Each time it works out the state that the firewall should be in and
// takes the smallest steps there. Its rules stay in the kernel when it ends.
package guard

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"rpcward/internal/firewall"
	"rpcward/internal/policy"
	"rpcward/internal/policyfile"
	"rpcward/internal/registry"
	"rpcward/internal/ruleset"
)

// Config says what a Guard works with.
type Config struct {
	Firewall firewall.Firewall
	Source   Source
	Policy   *policyfile.Watcher // is run by somebody else
	Default  policy.Default      // for clients that no rule matches
	Names    func(program uint32) []string
	Mark     ruleset.Mark
	Own      uint16 // the port mapper's port
	Log      *slog.Logger
	// Ready is called when the firewall is in place for the first time; may be nil.
	Ready func()
}

// Guard is a Config at work. Use New.
type Guard struct {
	Config
	policy        *ruleset.Policy
	policyChanged <-chan struct{}
	findings      map[string]bool // that are in the log, for this policy

	registered []registry.Registration
	known      bool // registered is what the port mapper has
	tombstones map[ruleset.Port]bool
	state      *ruleset.State // of the firewall, as last read or applied
	failing    bool           // the last Apply did
}

const (
	// sourcePatience is how long the rules of an earlier guard stay as they are
	// while the port mapper can't be asked.
	sourcePatience = 5 * time.Second
	retryEvery     = time.Second // after an error of the firewall
	graveEvery     = time.Second // between looks at the ports that were given up
)

// New returns a Guard. It has no effect before Run.
func New(c Config) *Guard {
	return &Guard{Config: c, tombstones: map[ruleset.Port]bool{}}
}

// registrations is what a Source says, and where the outcome goes.
type registrations struct {
	list []registry.Registration
	done chan bool
}

// Run keeps the firewall until ctx is done. An error means that it can't.
func (g *Guard) Run(ctx context.Context) error {
	if err := g.begin(ctx); err != nil {
		return err
	}
	var workers sync.WaitGroup
	defer workers.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changes, foreign := make(chan registrations), make(chan firewall.Foreign)
	failed := make(chan error, 2)
	workers.Go(func() { failed <- g.Source.Follow(ctx, ask(ctx, changes)) })
	workers.Go(func() { failed <- g.Firewall.Watch(ctx, pass(ctx, foreign)) })
	return g.loop(ctx, changes, foreign, failed)
}

// ask returns a function that has the loop guard a list, and waits for it.
func ask(ctx context.Context, changes chan<- registrations) func([]registry.Registration) bool {
	return func(list []registry.Registration) bool {
		r := registrations{list, make(chan bool, 1)}
		select {
		case changes <- r:
		case <-ctx.Done():
			return false
		}
		select {
		case ok := <-r.done:
			return ok
		case <-ctx.Done():
			return false
		}
	}
}

// pass returns a function that hands what it is given to the loop.
func pass[T any](ctx context.Context, to chan<- T) func(T) {
	return func(v T) {
		select {
		case to <- v:
		case <-ctx.Done():
		}
	}
}

// begin takes over what an earlier guard left, or without any closes the port
// mapper's own port.
func (g *Guard) begin(ctx context.Context) error {
	g.readPolicy()
	var err error
	if g.state, err = g.Firewall.Read(); err != nil {
		return fmt.Errorf("reading the firewall: %w", err)
	}
	if g.state.Base == ruleset.GoodBase {
		return nil // a port that was open stays so until we know what is registered
	}
	if !g.apply(ctx) {
		return fmt.Errorf("the firewall can't be changed")
	}
	return nil
}

func (g *Guard) loop(ctx context.Context, changes <-chan registrations, foreign <-chan firewall.Foreign, failed <-chan error) error {
	graves := time.NewTicker(graveEvery)
	defer graves.Stop()
	retry := time.NewTimer(sourcePatience)
	defer retry.Stop()
	for {
		ok := true
		select {
		case r := <-changes:
			first := !g.known
			g.registered, g.known = r.list, true
			ok = g.apply(ctx)
			r.done <- ok
			if first && ok && g.Ready != nil {
				g.Ready()
			}
		case <-g.policyChanged:
			g.readPolicy()
			ok = g.applyIfKnown(ctx)
		case f := <-foreign:
			ok = g.repair(ctx, f)
		case <-graves.C:
			if g.dig() {
				ok = g.apply(ctx)
			}
		case <-retry.C:
			g.known = true // as far as will be
			ok = g.apply(ctx)
		case err := <-failed:
			if ctx.Err() != nil {
				return nil
			}
			return err
		case <-ctx.Done():
			return nil
		}
		if !ok {
			retry.Reset(retryEvery)
		}
	}
}

// applyIfKnown applies, unless all that would be known is the rules of an
// earlier guard.
func (g *Guard) applyIfKnown(ctx context.Context) bool { return !g.known || g.apply(ctx) }

// readPolicy takes the policy that is in force now. While there was never one,
// nobody but this host is let in.
func (g *Guard) readPolicy() {
	allow, deny, changed := g.Policy.Files()
	g.policyChanged = changed
	p, _, err := ruleset.NewPolicy(allow, deny, ruleset.PolicyOptions{Default: g.Default, Names: g.Names})
	if allow == nil || err != nil {
		p = ruleset.BuiltIn(g.Names)
	}
	g.policy, g.findings = p, map[string]bool{}
}

// apply brings the firewall into the state it should be in, and reports whether
// it is.
func (g *Guard) apply(ctx context.Context) bool {
	list := make([]ruleset.Registration, 0, len(g.registered))
	for _, r := range g.registered {
		list = append(list, ruleset.Registration{Program: r.Program, NetID: r.NetID, At: r.IP})
	}
	g.bury(list)
	desired, findings := g.policy.Desired(list, ruleset.Options{Mark: g.Mark, Own: g.Own, Tombstones: g.graves()})
	for _, f := range findings {
		if text := f.String(); !g.findings[text] {
			g.findings[text] = true
			g.Log.WarnContext(ctx, "rule for a guarded service", "finding", text, "consequence", f.Consequence)
		}
	}
	batches, err := g.Firewall.Apply(desired)
	if err != nil {
		if !g.failing {
			g.Log.ErrorContext(ctx, "the firewall can't be changed; ports that are registered now may be open", "err", err)
		}
		g.failing = true
		return false
	}
	if g.failing {
		g.Log.InfoContext(ctx, "the firewall is in step again")
		g.failing = false
	}
	g.state = desired
	g.logSteps(ctx, batches)
	g.cut(ctx, batches)
	return true
}

func (g *Guard) logSteps(ctx context.Context, batches []ruleset.Batch) {
	for _, b := range batches {
		for _, s := range b {
			switch s.Op {
			case ruleset.SetPort, ruleset.DropPort:
				g.Log.InfoContext(ctx, "firewall: "+s.String(), "services", g.state.Chains[s.Name].Services)
			default:
				g.Log.DebugContext(ctx, "firewall: "+s.String())
			}
		}
	}
}

// repair puts right what somebody else did to the firewall.
func (g *Guard) repair(ctx context.Context, f firewall.Foreign) bool {
	g.Firewall.Forget()
	if !g.known {
		return true
	}
	before := g.state
	now, err := g.Firewall.Read()
	if err == nil && before != nil && len(ruleset.Diff(now, before)) > 0 {
		g.Log.ErrorContext(ctx, "somebody changed the firewall's rules for RPC services; they are put right", "why", f.Why, "by", f.Process, "pid", f.PID)
	}
	return g.apply(ctx)
}
