// Package control is the local control socket of the port mapper: HTTP with
// JSON over a unix socket, for the guard, for status and for whoever wants to
// follow the registrations.
//
//	GET /v1/registrations?epoch=E&after=N   what changed after N, waiting until something did
//	    &guard=1                            ... and everything up to N is guarded
//	GET /v1/status                          who is registered, and whether the guard is in step
//
// Everybody on this host may ask, as over the port mapper's own unix socket; a
// guard must be root or the user that the port mapper works as.
//
// A Feed stands between the registry and its store. It tells a guard of a
// change when that is saved but not yet published, and lets the guard have a
// bounded time to close the port to strangers before anybody is told about it.
package control

import (
	"rpcward/internal/registry"
	"rpcward/rpcbind"
)

// Registration is a registration in JSON.
type Registration struct {
	Program uint32 `json:"program"`
	Version uint32 `json:"version"`
	NetID   string `json:"netid"`
	Addr    string `json:"addr"`  // universal address or path, as registered
	Owner   string `json:"owner"` // "superuser", "unknown" or a user's number
}

// Key names a registration in JSON.
type Key struct {
	Program uint32 `json:"program"`
	Version uint32 `json:"version"`
	NetID   string `json:"netid"`
}

// Update is the answer to a request for registrations.
type Update struct {
	Epoch string `json:"epoch"` // of this port mapper; another one knows nothing of its numbers
	Seq   uint64 `json:"seq"`   // number of the last change in here
	// Full: Set has all registrations, and others are gone. Else Set and Unset
	// are what changed, in the order of Changes.
	Full    bool     `json:"full,omitempty"`
	Changes []Change `json:"changes"`
}

// Change is one step: some registrations were made, or some removed.
type Change struct {
	Set   []Registration `json:"set,omitempty"`
	Unset []Key          `json:"unset,omitempty"`
}

// States of the guard, in Status.
const (
	GuardNone   = "none"    // none has come, or it has gone
	GuardBehind = "behind"  // it has not guarded the last changes yet
	GuardInStep = "in step" // everything registered is guarded
)

// Status is the answer to a request for the status.
type Status struct {
	Guard         string             `json:"guard"`
	Registrations []RegistrationInfo `json:"registrations"`
}

// RegistrationInfo is a registration with what is known about it.
type RegistrationInfo struct {
	Registration
	Guarded bool `json:"guarded"` // its port is closed to those whom the policy refuses
	Stale   bool `json:"stale"`   // no socket is bound to its port
}

func toJSON(r *registry.Registration) Registration {
	return Registration{Program: r.Program, Version: r.Version, NetID: r.NetID.String(), Addr: r.Addr, Owner: r.Owner}
}

// Parse returns the registration that r describes. It is not ok if r's netid or
// address is none that the port mapper could have.
func (r *Registration) Parse() (reg registry.Registration, ok bool) {
	n := rpcbind.ParseNetID(r.NetID)
	if n == rpcbind.NoNetID {
		return reg, false
	}
	reg = registry.Registration{Key: registry.Key{Program: r.Program, Version: r.Version, NetID: n}, Addr: r.Addr, Owner: r.Owner}
	if !n.IsLocal() {
		reg.IP, ok = rpcbind.ParseUAddr([]byte(r.Addr))
		return reg, ok
	}
	return reg, true
}

// Parse returns the key that k describes, not ok if it can't be one.
func (k *Key) Parse() (registry.Key, bool) {
	n := rpcbind.ParseNetID(k.NetID)
	return registry.Key{Program: k.Program, Version: k.Version, NetID: n}, n != rpcbind.NoNetID
}

func changeJSON(c registry.Change) Change {
	var out Change
	if c.Set != nil {
		out.Set = []Registration{toJSON(c.Set)}
	}
	for _, r := range c.Unset {
		out.Unset = append(out.Unset, Key{Program: r.Program, Version: r.Version, NetID: r.NetID.String()})
	}
	return out
}
