// Package guard keeps the kernel firewall in step with what is registered and
// with the two policy files: each port of an RPC service is open to those whom
// the files allow, from before the registration is published until no socket
// of the service is left on the port.
//
// A Guard is one loop over what may happen: registrations change, the policy
// does, somebody else changes the firewall, a port is given up or taken by
// others. Each time it works out the state that the firewall should be in and
// takes the smallest steps there. Its rules stay in the kernel when it ends, and
// the next Guard takes them over.
package guard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"rpcward/internal/firewall"
	"rpcward/internal/policy"
	"rpcward/internal/policyfile"
	"rpcward/internal/registry"
	"rpcward/internal/ruleset"
	"rpcward/internal/sockdiag"
	"rpcward/rpcbind"
)

// Config says what a Guard works with.
type Config struct {
	Firewall firewall.Firewall
	Source   Source
	Policy   *policyfile.Watcher // is run by somebody else
	Default  policy.Default      // for clients that no rule matches
	Names    func(program uint32) []string
	Mark     ruleset.Mark
	Own      uint16 // the port mapper's port, 0 for 111
	Log      *slog.Logger
	// Ready is called when the port mapper's port and what an earlier Guard
	// guarded are guarded, which does not wait for the port mapper; may be nil.
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
	claims     claims
	graves     graves
	state      *ruleset.State // of the firewall, as last read or applied
	failing    bool           // the last Apply did
	todo       chore
}

const (
	retryEvery = time.Second // after an error of the firewall
	// lookFirst is how soon after a port was given up its sockets are looked at:
	// the service is about to close them, and until that is seen its clients get
	// no answer, not even that it is gone. After that, ever later.
	lookFirst = 50 * time.Millisecond
	lookEvery = time.Second
)

// New returns a Guard. It has no effect before Run.
func New(c Config) *Guard {
	if c.Own == 0 {
		c.Own = rpcbind.Port
	}
	return &Guard{Config: c, claims: newClaims(sockdiag.Held), graves: newGraves()}
}

// registrations is what a Source says, and where the outcome goes.
type registrations struct {
	list []registry.Registration
	done chan bool
}

// errNoFirewall ends a Guard that could not begin; the log says why.
var errNoFirewall = errors.New("the firewall can't be changed")

// Run keeps the firewall until ctx is done. An error means that it can't.
func (g *Guard) Run(ctx context.Context) error {
	g.readPolicy()
	var err error
	if g.state, err = g.Firewall.Read(); err != nil {
		return fmt.Errorf("reading the firewall: %w", err)
	}
	if !g.apply(ctx) {
		return errNoFirewall
	}
	if g.Ready != nil {
		g.Ready()
	}
	var workers sync.WaitGroup
	defer workers.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changes, foreign := make(chan registrations), make(chan firewall.Foreign)
	failed := make(chan error, 1)
	workers.Go(func() { failed <- g.Source.Follow(ctx, ask(ctx, changes)) })
	workers.Go(func() { g.watch(ctx, pass(ctx, foreign)) })
	h := &hand{log: g.Log, held: sockdiag.Held, chores: make(chan chore), seen: make(chan sighting)}
	workers.Go(func() { h.run(ctx) })
	return g.loop(ctx, changes, foreign, failed, h)
}

// watch watches the firewall until ctx is done. While that fails nobody's changes
// are noticed, but registrations go on being guarded.
func (g *Guard) watch(ctx context.Context, changed func(firewall.Foreign)) {
	for ctx.Err() == nil {
		if err := g.Firewall.Watch(ctx, changed); ctx.Err() == nil {
			g.Log.ErrorContext(ctx, "changes of the firewall by others are not noticed for a moment", "err", err)
		}
		pause(ctx, retryEvery)
	}
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

func (g *Guard) loop(ctx context.Context, changes <-chan registrations, foreign <-chan firewall.Foreign, failed <-chan error, h *hand) error {
	look := time.NewTimer(lookFirst)
	defer look.Stop()
	after := lookFirst
	var retry <-chan time.Time
	for {
		var chores chan<- chore // nil, which waits for ever, while there is nothing to do
		if !g.todo.empty() {
			chores = h.chores
		}
		ok := true
		select {
		case r := <-changes:
			old := len(g.graves.inodes)
			ok = g.take(ctx, r)
			if len(g.graves.inodes) > old {
				after = lookFirst
				look.Reset(after)
			}
		case <-g.policyChanged:
			g.readPolicy()
			ok = g.apply(ctx)
		case f := <-foreign:
			ok = g.repair(ctx, f)
		case <-look.C:
			g.lookAgain()
			after = min(2*after, lookEvery)
			look.Reset(after)
			continue
		case chores <- g.todo:
			g.todo = chore{}
			continue
		case s := <-h.seen:
			if !g.notice(ctx, s) {
				continue
			}
			ok = g.apply(ctx)
		case <-retry:
			ok = g.apply(ctx)
		case err := <-failed:
			if ctx.Err() != nil {
				return nil
			}
			return err
		case <-ctx.Done():
			return nil
		}
		retry = nil
		if !ok {
			retry = time.After(retryEvery)
		}
	}
}

// take takes what is registered now.
func (g *Guard) take(ctx context.Context, r registrations) bool {
	first := !g.known
	g.registered, g.known = r.list, true
	ok := g.apply(ctx)
	r.done <- ok
	if first {
		g.Log.InfoContext(ctx, "guarding the registered services", "registrations", len(r.list), "ports", len(g.state.Ports))
	}
	return ok
}

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

// lookAgain has the ports looked at that are not surely the registered
// services'.
func (g *Guard) lookAgain() {
	g.todo.look(g.graves.ports()...)
	g.todo.look(g.claims.ports()...)
}

// notice takes what was seen on some ports, and reports whether there is
// something to do.
func (g *Guard) notice(ctx context.Context, s sighting) bool {
	free := g.graves.dig(s)
	for _, port := range free {
		g.forget(port)
	}
	return g.claims.review(ctx, g.Log, s) || len(free) > 0
}

// apply brings the firewall into the state it should be in, and reports whether
// it is.
func (g *Guard) apply(ctx context.Context) bool {
	desired := g.desired(ctx)
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
	g.noteClosed(batches)
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
	now, err := g.Firewall.Read()
	if err == nil && !g.failing && len(ruleset.Diff(now, g.state)) > 0 {
		g.Log.ErrorContext(ctx, "somebody changed the firewall's rules for RPC services; they are put right", "why", f.Why, "by", f.Process, "pid", f.PID)
	}
	return g.apply(ctx)
}
