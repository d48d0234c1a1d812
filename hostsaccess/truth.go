package hostsaccess

// truth is a value of Kleene's three-valued logic: maybe is what can be known
// only by looking up a name, asking the client's host, or reading the mind of
// whoever wrote a broken rule.
type truth int8

const (
	no truth = iota
	maybe
	yes
)

func truthOf(b bool) truth {
	if b {
		return yes
	}
	return no
}

func (t truth) not() truth        { return yes - t }
func (t truth) and(u truth) truth { return min(t, u) }
func (t truth) or(u truth) truth  { return max(t, u) }

// eval works out a list, given what each pattern is worth. It starts at the
// innermost EXCEPT, as a loop: files decide how deep the nesting is.
func eval[P any](l *List[P], worth func(*P) truth) truth {
	value := no
	for i := len(l.Terms) - 1; i >= 0; i-- {
		term := no
		for j := range l.Terms[i].Patterns {
			term = term.or(worth(&l.Terms[i].Patterns[j]))
		}
		value = term.and(value.not())
	}
	return value
}
