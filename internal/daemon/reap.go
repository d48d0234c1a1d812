package daemon

import (
	"context"
	"log/slog"
	"time"

	"rpcward/internal/registry"
	"rpcward/internal/sockdiag"
	"rpcward/rpcbind"
)

// reapEvery is how often a reaper looks. What it finds no socket for twice is
// stale: a service that restarts has that long to come back.
const reapEvery = 10 * time.Second

// reaper removes registrations whose services are gone: no socket is bound to
// their ports. It sees the sockets of its own network namespace only, and is for
// hosts whose services all live in it.
type reaper struct {
	registry *registry.Registry
	log      *slog.Logger
	missed   map[registry.Key]bool // had no socket when it last looked
}

// run looks once in a while, until ctx is done.
func (r *reaper) run(ctx context.Context) {
	t := time.NewTicker(reapEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			r.look()
		case <-ctx.Done():
			return
		}
	}
}

// look removes what has no socket for the second time.
func (r *reaper) look() {
	table, err := sockdiag.Waiting()
	if err != nil {
		r.log.Warn("stale registrations can't be told", "err", err)
		return
	}
	missed := map[registry.Key]bool{}
	for reg := range r.registry.Snapshot().Services() {
		switch {
		case reg.NetID.IsLocal() || table.Bound(reg.NetID, reg.IP):
		case !r.missed[reg.Key]:
			missed[reg.Key] = true
		default:
			r.remove(reg)
		}
	}
	r.missed = missed
}

func (r *reaper) remove(reg *registry.Registration) {
	done, err := r.registry.Unset(reg.Program, reg.Version, []rpcbind.NetID{reg.NetID}, registry.Superuser)
	if !done || err != nil {
		r.log.Warn("a stale registration could not be removed", "program", reg.Program, "err", err)
		return
	}
	r.log.Info("removed a stale registration: no socket is bound to its port",
		"program", reg.Program, "version", reg.Version, "netid", reg.NetID, "address", reg.Addr, "owner", reg.Owner)
}

// stale returns a function that reports whether a registration has no socket
// now; without the kernel's word none is said to have none.
func stale() func(*registry.Registration) bool {
	table, err := sockdiag.Waiting()
	return func(r *registry.Registration) bool {
		return err == nil && !r.NetID.IsLocal() && !table.Bound(r.NetID, r.IP)
	}
}
