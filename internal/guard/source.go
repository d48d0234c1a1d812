package guard

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"time"

	"rpcward/internal/control"
	"rpcward/internal/registry"
	"rpcward/rpcbind"
	"rpcward/rpcbind/client"
)

// Source tells what is registered.
type Source interface {
	// Follow calls guard with all registrations, at first and whenever they
	// change, until ctx is done. When guard returns true they are guarded.
	Follow(ctx context.Context, guard func([]registry.Registration) bool) error
}

const (
	// retryAfter is how long a source is left alone when what it said could not
	// be guarded.
	retryAfter = time.Second
	// comeBack is how long a port mapper that is away is left alone. Short, for
	// what is registered after its restart and before we ask is not guarded.
	comeBack = 20 * time.Millisecond
)

// Served is the Source of a port mapper of ours: it waits for us before it
// publishes a registration.
type Served struct {
	Socket string // path of its control socket
	Log    *slog.Logger
}

// Follow implements Source. A port mapper that is away may come again.
func (s *Served) Follow(ctx context.Context, guard func([]registry.Registration) bool) error {
	c := control.NewClient(s.Socket)
	defer c.Close()
	f := follower{known: map[registry.Key]registry.Registration{}}
	away := false
	for ctx.Err() == nil {
		u, err := c.Follow(ctx, f.epoch, f.seq, true)
		if err != nil {
			if !away && ctx.Err() == nil {
				s.Log.Warn("the port mapper is away: what it had registered stays guarded", "err", err)
			}
			away = true
			c.Close()
			pause(ctx, comeBack)
			continue
		}
		if away {
			s.Log.Info("the port mapper is there again")
			away = false
		}
		if !f.take(&u) {
			continue
		}
		for !guard(f.list()) && ctx.Err() == nil {
			pause(ctx, retryAfter) // and the port mapper does not wait so long
		}
	}
	return ctx.Err()
}

// pause waits for d, or until ctx is done.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// follower puts updates together.
type follower struct {
	epoch string
	seq   uint64
	known map[registry.Key]registry.Registration
}

// take takes an update, and reports whether there was anything in it.
func (f *follower) take(u *control.Update) bool {
	f.epoch, f.seq = u.Epoch, u.Seq
	if u.Full {
		clear(f.known)
	}
	for _, c := range u.Changes {
		for _, r := range c.Set {
			if reg, ok := r.Parse(); ok {
				f.known[reg.Key] = reg
			}
		}
		for _, k := range c.Unset {
			if key, ok := k.Parse(); ok {
				delete(f.known, key)
			}
		}
	}
	return u.Full || len(u.Changes) > 0
}

func (f *follower) list() []registry.Registration {
	return slices.Collect(maps.Values(f.known))
}

// Polled is the Source of any port mapper of this host, asked over its unix
// socket once in a while.
type Polled struct {
	Socket string
	Every  time.Duration
	Log    *slog.Logger
}

// Follow implements Source. What a port mapper that is away had registered
// stays registered, as far as this tells.
func (p *Polled) Follow(ctx context.Context, guard func([]registry.Registration) bool) error {
	var last []registry.Registration
	asked, away := false, false
	for ctx.Err() == nil {
		list, err := p.dump(ctx)
		switch {
		case err != nil:
			if !away && ctx.Err() == nil {
				p.Log.Warn("the port mapper can't be asked: what it had registered stays guarded", "err", err)
			}
			away = true
		case away:
			p.Log.Info("the port mapper can be asked again")
			away = false
			fallthrough
		default:
			if !asked || !slices.Equal(list, last) {
				asked = guard(list)
				last = list
			}
		}
		pause(ctx, p.Every)
	}
	return ctx.Err()
}

func (p *Polled) dump(ctx context.Context) ([]registry.Registration, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := client.Dialer{}.DialLocal(ctx, p.Socket)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	all, err := c.Dump(ctx, rpcbind.Version4)
	if err != nil {
		return nil, fmt.Errorf("asking for registrations: %w", err)
	}
	var list []registry.Registration
	for _, m := range all {
		r := control.Registration{Program: m.Program, Version: m.Version, NetID: m.NetID, Addr: m.Addr, Owner: m.Owner}
		if reg, ok := r.Parse(); ok {
			list = append(list, reg)
		}
	}
	return list, nil
}

// Either is the Source of whichever port mapper is there: one of ours if its
// control socket answers, else any other. It looks again once in a while, for
// the one may take the other's place.
type Either struct {
	Control string // path of the control socket
	Socket  string // path of the unix socket of any port mapper
	Log     *slog.Logger
}

const (
	lookForOurs   = 50 * time.Millisecond
	lookForOthers = 2 * time.Second
	pollEvery     = time.Second
)

// Follow implements Source.
func (e *Either) Follow(ctx context.Context, guard func([]registry.Registration) bool) error {
	ours, told := answers(e.Control), false
	for ctx.Err() == nil {
		switch {
		case ours:
			e.Log.Info("beside rpcward serve: registrations wait for the guard")
		case answers(e.Socket):
			e.Log.Info("beside another port mapper: its registrations are asked for every second")
		case !told:
			e.Log.Warn("no port mapper answers yet", "control", e.Control, "socket", e.Socket)
			told = true
		}
		ours = e.followOne(ctx, ours, guard)
	}
	return ctx.Err()
}

// followOne follows one kind of port mapper until there is the other, and
// reports which one it is then.
func (e *Either) followOne(ctx context.Context, ours bool, guard func([]registry.Registration) bool) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var source Source = &Polled{Socket: e.Socket, Every: pollEvery, Log: e.Log}
	every := lookForOurs
	if ours {
		source, every = &Served{Socket: e.Control, Log: e.Log}, lookForOthers
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		source.Follow(ctx, guard)
	}()
	for ctx.Err() == nil {
		pause(ctx, every)
		if there := answers(e.Control); there != ours && (there || answers(e.Socket)) {
			ours = there
			break
		}
	}
	cancel()
	<-ended
	return ours
}

// answers reports whether somebody listens on a unix socket.
func answers(path string) bool {
	c, err := net.DialTimeout("unix", path, retryAfter)
	if err != nil {
		return false
	}
	c.Close()
	return true
}
