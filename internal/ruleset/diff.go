package ruleset

import (
	"fmt"
	"slices"
)

// Op says what a step does.
type Op uint8

// The steps, in the order in which they are taken.
const (
	AddSet    Op = iota // a new set Name with Set, which nothing uses yet
	EditSet             // make Set the content of set Name again
	AddChain            // a new chain Name like Chain, which no port points to yet
	EditChain           // make chain Name like Chain again
	SetPort             // Port points to chain Name from now on
	AddBase             // put the base in place, or put it right
	DropPort            // Port is not guarded any more
	DelChain            // remove chain Name, which no port points to any more
	DelSet              // remove set Name, which nothing uses any more
	DelStray            // remove what is not ours
)

// Step is one change. It is small enough that each state between two steps is
// safe, see Diff.
type Step struct {
	Op    Op
	Name  string
	Port  Port
	Chain Chain      // of AddChain and EditChain
	Set   *Addresses // of AddSet and EditSet
}

// Batch is a list of steps to be taken in one transaction, where the kernel has
// such, or one after the other.
type Batch []Step

// Diff returns the steps from one state to another, none if they are equal, in
// at most three batches: new sets; chains and ports; what is unused then. Sets
// come in a batch of their own because the kernel publishes the content of a
// new interval set a moment after the rules of the same batch (measured on
// Linux 6.18: allowed packets were dropped for that moment).
//
// After each step, each port is open to no source that both states close it to,
// and closed to none that both open it to. A port that becomes guarded is so
// before any other changes or opens. Where somebody changed what a set or chain
// of ours holds, this counts from what it held before: it is put right in place.
func Diff(current, desired *State) []Batch {
	var sets, change, rest Batch
	for _, id := range desired.SortedSets() {
		now, there := current.Sets[id]
		switch set := desired.Sets[id]; {
		case !there:
			sets = append(sets, Step{Op: AddSet, Name: id, Set: set})
		case now == nil || !now.Equal(set):
			change = append(change, Step{Op: EditSet, Name: id, Set: set})
		}
	}
	for _, name := range desired.SortedChains() {
		now, there := current.Chains[name]
		switch chain := desired.Chains[name]; {
		case !there:
			change = append(change, Step{Op: AddChain, Name: name, Chain: chain})
		case !now.same(chain):
			change = append(change, Step{Op: EditChain, Name: name, Chain: chain})
		}
	}
	change = append(change, diffPorts(current, desired)...)
	for _, name := range current.SortedChains() {
		if _, wanted := desired.Chains[name]; !wanted {
			rest = append(rest, Step{Op: DelChain, Name: name})
		}
	}
	for _, id := range current.SortedSets() {
		if _, wanted := desired.Sets[id]; !wanted {
			rest = append(rest, Step{Op: DelSet, Name: id})
		}
	}
	for _, stray := range current.Strays {
		if !slices.Contains(desired.Strays, stray) {
			rest = append(rest, Step{Op: DelStray, Name: stray})
		}
	}
	return slices.DeleteFunc([]Batch{sets, change, rest}, func(b Batch) bool { return len(b) == 0 })
}

// diffPorts returns the steps about ports: first those that become guarded,
// then those that move. While the base is not in place no port is guarded, so
// it comes when all ports are right.
func diffPorts(current, desired *State) Batch {
	var added, moved, dropped, base Batch
	for _, port := range desired.SortedPorts() {
		name := desired.Ports[port]
		switch now, there := current.Ports[port]; {
		case !there:
			added = append(added, Step{Op: SetPort, Port: port, Name: name})
		case now != name:
			moved = append(moved, Step{Op: SetPort, Port: port, Name: name})
		}
	}
	for _, port := range current.SortedPorts() {
		if _, wanted := desired.Ports[port]; !wanted {
			dropped = append(dropped, Step{Op: DropPort, Port: port})
		}
	}
	if desired.Base == GoodBase && current.Base != GoodBase {
		base = Batch{{Op: AddBase}}
		return slices.Concat(added, moved, dropped, base)
	}
	return slices.Concat(added, moved, dropped)
}

// Apply takes one step in s.
func (s *State) Apply(step Step) {
	switch step.Op {
	case AddSet, EditSet:
		s.Sets[step.Name] = step.Set
	case AddChain, EditChain:
		s.Chains[step.Name] = step.Chain
	case SetPort:
		s.Ports[step.Port] = step.Name
	case DropPort:
		delete(s.Ports, step.Port)
	case AddBase:
		s.Base = GoodBase
	case DelChain:
		delete(s.Chains, step.Name)
	case DelSet:
		delete(s.Sets, step.Name)
	case DelStray:
		s.Strays = slices.DeleteFunc(slices.Clone(s.Strays), func(x string) bool { return x == step.Name })
	}
}

// String words the step.
func (s Step) String() string {
	switch s.Op {
	case AddSet:
		return fmt.Sprintf("add set %s: %v", s.Name, s.Set)
	case EditSet:
		return fmt.Sprintf("put set %s right: %v", s.Name, s.Set)
	case AddChain:
		return fmt.Sprintf("add chain %s with set %s", s.Name, s.Chain.Set)
	case EditChain:
		return fmt.Sprintf("put chain %s right with set %s", s.Name, s.Chain.Set)
	case SetPort:
		return fmt.Sprintf("guard %v by chain %s", s.Port, s.Name)
	case AddBase:
		return "put the base in place"
	case DropPort:
		return fmt.Sprintf("guard %v no more", s.Port)
	case DelChain:
		return "remove chain " + s.Name
	case DelSet:
		return "remove set " + s.Name
	}
	return "remove " + s.Name
}
