package registry

import (
	"math/bits"
	"slices"
)

// trie is an ordered map of 64-bit keys that can be kept as it is while a copy
// of it goes on changing: a change copies the nodes on its way, at most eleven
// of them, and shares all others. It is a bitmapped trie (Bagwell, Ideal Hash
// Trees, 2001) over the keys themselves instead of hashes, so that it keeps
// their order and nobody can choose keys that collide. Levels on which all
// keys agree are left out. The zero trie is empty.
//
// A trie is written to under an edition, a number. Nodes that were made under
// the same one are changed in place: they are in no trie that was kept.
type trie[V any] struct{ root *node[V] }

// fanout is how many bits of the key a node looks at.
const fanout = 6

// node holds the keys that agree with prefix above bit shift+fanout. Each but
// the root has two children at least, and so the shape depends on the keys
// alone.
type node[V any] struct {
	shift   uint8      // of the bits that choose a child
	leaves  uint64     // the children that are entries, a bit each
	inner   uint64     // the children that are nodes; the two have no bit in common
	kids    []*node[V] // in the order of the bits, as entries are
	entries []entry[V]
	prefix  uint64 // the lower bits are 0
	edition uint64
	_       [32]byte // makes it 128 bytes, of which a look-up reads one cache line
}

type entry[V any] struct {
	key   uint64
	value V
}

// child returns the bit of key's child.
func (n *node[V]) child(key uint64) uint64 { return 1 << (key >> n.shift & (1<<fanout - 1)) }

// below returns how many bits of set are lower than bit.
func below(set, bit uint64) int { return bits.OnesCount64(set & (bit - 1)) }

// get returns the value of key, which nobody may write to, or nil. It does not
// allocate.
func (t *trie[V]) get(key uint64) *V {
	for n := t.root; n != nil; {
		bit := n.child(key)
		if n.leaves&bit != 0 {
			if e := &n.entries[below(n.leaves, bit)]; e.key == key {
				return &e.value
			}
			return nil
		}
		if n.inner&bit == 0 {
			return nil
		}
		n = n.kids[below(n.inner, bit)]
	}
	return nil
}

// put sets the value of key.
func (t *trie[V]) put(edition, key uint64, value V) {
	t.root = t.root.put(edition, entry[V]{key, value})
}

func (n *node[V]) put(edition uint64, e entry[V]) *node[V] {
	switch {
	case n == nil:
		return newNode[V](edition, e.key, 0).insert(e)
	case n.size() == 1: // the root
		return join(edition, n.entries[0], e)
	}
	if differ := e.key ^ n.prefix; differ>>n.shift>>fanout != 0 {
		return newNode[V](edition, e.key, level(differ)).insert(e).adopt(n)
	}
	n = n.writable(edition)
	bit := n.child(e.key)
	switch i := below(n.leaves, bit); {
	case n.inner&bit != 0:
		kid := &n.kids[below(n.inner, bit)]
		*kid = (*kid).put(edition, e)
	case n.leaves&bit == 0:
		n.insert(e)
	case n.entries[i].key == e.key:
		n.entries[i] = e
	default:
		n.adopt(join(edition, n.remove(bit), e))
	}
	return n
}

// join returns a node of both entries, or of the second if the key is the same.
func join[V any](edition uint64, a, b entry[V]) *node[V] {
	if a.key == b.key {
		return newNode[V](edition, b.key, 0).insert(b)
	}
	return newNode[V](edition, b.key, level(a.key^b.key)).insert(a).insert(b)
}

// delete removes key, which is there.
func (t *trie[V]) delete(edition, key uint64) {
	if t.root = t.root.delete(edition, key); t.root.size() == 0 {
		t.root = nil
	}
}

func (n *node[V]) delete(edition, key uint64) *node[V] {
	n = n.writable(edition)
	bit := n.child(key)
	if n.leaves&bit != 0 {
		n.remove(bit)
	} else {
		i := below(n.inner, bit)
		if kid := n.kids[i].delete(edition, key); len(kid.entries) == 1 && len(kid.kids) == 0 {
			n.disown(bit)
			n.insert(kid.entries[0])
		} else {
			n.kids[i] = kid
		}
	}
	if len(n.entries) == 0 && len(n.kids) == 1 {
		return n.kids[0]
	}
	return n
}

func newNode[V any](edition, key uint64, shift uint8) *node[V] {
	return &node[V]{edition: edition, shift: shift, prefix: key >> shift >> fanout << fanout << shift}
}

// level returns the shift of the node in which keys that differ so part.
func level(differ uint64) uint8 { return uint8((bits.Len64(differ) - 1) / fanout * fanout) }

// writable returns n, or a copy of it that edition may change, with room for
// one more child.
func (n *node[V]) writable(edition uint64) *node[V] {
	if n.edition == edition {
		return n
	}
	c := *n
	c.edition = edition
	c.entries = append(make([]entry[V], 0, len(n.entries)+1), n.entries...)
	c.kids = append(make([]*node[V], 0, len(n.kids)+1), n.kids...)
	return &c
}

func (n *node[V]) size() int { return len(n.entries) + len(n.kids) }

func (n *node[V]) insert(e entry[V]) *node[V] {
	bit := n.child(e.key)
	n.entries = slices.Insert(n.entries, below(n.leaves, bit), e)
	n.leaves |= bit
	return n
}

func (n *node[V]) remove(bit uint64) entry[V] {
	i := below(n.leaves, bit)
	e := n.entries[i]
	n.entries = slices.Delete(n.entries, i, i+1)
	n.leaves &^= bit
	return e
}

func (n *node[V]) adopt(kid *node[V]) *node[V] {
	bit := n.child(kid.prefix)
	n.kids = slices.Insert(n.kids, below(n.inner, bit), kid)
	n.inner |= bit
	return n
}

func (n *node[V]) disown(bit uint64) {
	i := below(n.inner, bit)
	n.kids = slices.Delete(n.kids, i, i+1)
	n.inner &^= bit
}

// min returns the value of the lowest key. The trie is not empty, here and in max.
func (t *trie[V]) min() V {
	for n := t.root; ; n = n.kids[0] {
		if all := n.leaves | n.inner; n.leaves&(all&-all) != 0 {
			return n.entries[0].value
		}
	}
}

// max returns the value of the highest key.
func (t *trie[V]) max() V {
	for n := t.root; ; n = n.kids[len(n.kids)-1] {
		if n.leaves > n.inner {
			return n.entries[len(n.entries)-1].value
		}
	}
}

// from calls yield with the entries from key on, in the order of keys, until it
// returns false.
func (t *trie[V]) from(key uint64, yield func(key uint64, value V) bool) {
	if t.root != nil {
		t.root.from(key, yield)
	}
}

func (n *node[V]) from(key uint64, yield func(uint64, V) bool) bool {
	todo := n.leaves | n.inner
	switch {
	case key>>n.shift>>fanout > n.prefix>>n.shift>>fanout:
		return true
	case key > n.prefix:
		todo &= -n.child(key)
	}
	for ; todo != 0; todo &= todo - 1 {
		bit := todo & -todo
		if n.inner&bit != 0 {
			if !n.kids[below(n.inner, bit)].from(key, yield) {
				return false
			}
		} else if e := &n.entries[below(n.leaves, bit)]; e.key >= key && !yield(e.key, e.value) {
			return false
		}
	}
	return true
}
