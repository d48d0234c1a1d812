package ruleset

import (
	"fmt"
	"maps"
	"slices"
)

// Change is what becomes of one port between two states.
type Change struct {
	Port     Port
	Services string // who is, or was, on it
	Guarded  bool   // in the state before; if not, everybody got to the port
	Remains  bool   // guarded in the state after
	Before   *Addresses
	After    *Addresses
}

// Changes returns the ports whose allowed sources differ, in order. A state
// whose base is not in place guards nothing.
func Changes(current, desired *State) []Change {
	var list []Change
	ports := map[Port]bool{}
	for p := range current.Ports {
		ports[p] = true
	}
	for p := range desired.Ports {
		ports[p] = true
	}
	for _, p := range slices.SortedFunc(maps.Keys(ports), Port.Compare) {
		c := Change{Port: p}
		c.Before, c.Guarded = current.Allowed(p)
		c.After, c.Remains = desired.Allowed(p)
		if c.Guarded == c.Remains && c.Before.Equal(c.After) {
			continue
		}
		c.Services = desired.Chains[desired.Ports[p]].Services
		if c.Services == "" {
			c.Services = current.Chains[current.Ports[p]].Services
		}
		list = append(list, c)
	}
	return list
}

// String words the change: "tcp 20048 (mountd): was not guarded, now open to 10.0.0.0/8".
func (c Change) String() string {
	s := c.Port.String()
	if c.Services != "" {
		s += " (" + c.Services + ")"
	}
	switch {
	case !c.Remains:
		return fmt.Sprintf("%s: was open to %v, now not guarded", s, c.Before)
	case !c.Guarded:
		return fmt.Sprintf("%s: was not guarded, now open to %v", s, c.After)
	}
	gained, lost := c.After.Minus(c.Before), c.Before.Minus(c.After)
	switch {
	case lost.Len() == 0:
		return fmt.Sprintf("%s: opens to %v", s, gained)
	case gained.Len() == 0:
		return fmt.Sprintf("%s: closes to %v", s, lost)
	}
	return fmt.Sprintf("%s: opens to %v, closes to %v", s, gained, lost)
}
