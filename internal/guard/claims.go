package guard

import (
	"context"
	"log/slog"
	"slices"
	"strconv"

	"rpcward/internal/registry"
	"rpcward/internal/ruleset"
	"rpcward/internal/sockdiag"
)

// claim is what the owner of a registration says is his.
type claim struct {
	port  ruleset.Port
	owner string
}

// claims judges whose ports are the owners'. Every user may register every port
// from 1024 on, also one that another service of the host is on: if that were
// guarded, the user would shut out that service's clients.
//
// The superuser may say what he likes, and is not asked whose the sockets are:
// services drop their rights. Nor is an owner whom the port mapper does not
// know. An ordinary user's port is guarded while a socket of his is on it and
// none of root's, and while nobody's is: he may be about to come.
type claims struct {
	held held
	good map[claim]bool
}

func newClaims(h held) claims { return claims{h, map[claim]bool{}} }

// sift returns the registrations whose ports are to be guarded.
func (c *claims) sift(ctx context.Context, log *slog.Logger, all []registry.Registration) []ruleset.Registration {
	list := make([]ruleset.Registration, 0, len(all))
	made := map[claim]bool{}
	for _, r := range all {
		reg := ruleset.Registration{Program: r.Program, NetID: r.NetID, At: r.IP}
		port, ok := reg.Key()
		_, err := strconv.ParseUint(r.Owner, 10, 32)
		if !ok || err != nil { // superuser or unknown
			list = append(list, reg)
			continue
		}
		cl := claim{port, r.Owner}
		if made[cl] = true; c.judge(ctx, log, cl) {
			list = append(list, reg)
		}
	}
	for cl := range c.good {
		if !made[cl] {
			delete(c.good, cl)
		}
	}
	return list
}

// judge reports whether a claim is good. When it is seen for the first time
// that waits for the kernel: whoever claims again and again must not close a
// port for a moment each time.
func (c *claims) judge(ctx context.Context, log *slog.Logger, cl claim) bool {
	if good, known := c.good[cl]; known {
		return good
	}
	c.good[cl] = true
	if list, err := c.held.on(cl.port); err == nil {
		c.decide(ctx, log, cl, list)
	}
	return c.good[cl]
}

// decide judges a claim by the sockets on its port, and reports whether that
// changes something.
func (c *claims) decide(ctx context.Context, log *slog.Logger, cl claim, list []sockdiag.Socket) bool {
	uid, _ := strconv.ParseUint(cl.owner, 10, 32) // as sift has seen
	before, good := c.good[cl], ownerHolds(list, uint32(uid))
	c.good[cl] = good
	if before && !good {
		log.WarnContext(ctx, "not guarded: the port is somebody else's than the user's who registered it", "port", cl.port, "owner", cl.owner, "user", list[0].UID)
	}
	if !before && good {
		log.InfoContext(ctx, "guarded: the port is the user's who registered it", "port", cl.port, "owner", cl.owner)
	}
	return good != before
}

// ownerHolds reports whether an ordinary user may close a port with these
// sockets on it.
func ownerHolds(list []sockdiag.Socket, uid uint32) bool {
	if slices.ContainsFunc(list, func(s sockdiag.Socket) bool { return s.UID == 0 }) {
		return false
	}
	return len(list) == 0 || slices.ContainsFunc(list, func(s sockdiag.Socket) bool { return s.UID == uid })
}

// ports returns the ports of all claims.
func (c *claims) ports() []ruleset.Port {
	var list []ruleset.Port
	for cl := range c.good {
		list = append(list, cl.port)
	}
	return list
}

// review judges the claims on ports that were looked at, and reports whether
// that changes something.
func (c *claims) review(ctx context.Context, log *slog.Logger, seen sighting) bool {
	changed := false
	for cl := range c.good {
		if list, looked := seen[cl.port]; looked {
			changed = c.decide(ctx, log, cl, list) || changed
		}
	}
	return changed
}

// lost reports whether a port is registered, but only by users whose it is not.
func (c *claims) lost(port ruleset.Port) bool {
	for cl, good := range c.good {
		if cl.port == port && !good {
			return true
		}
	}
	return false
}
