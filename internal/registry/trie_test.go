package registry

import (
	"maps"
	"math/bits"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// keysOfTrie are close together, far apart, and at both ends.
var keysOfTrie = rapid.OneOf(
	rapid.Uint64Range(0, 200),
	rapid.Map(rapid.Uint64Range(0, 40), func(n uint64) uint64 { return n << 58 }),
	rapid.Map(rapid.Uint64Range(0, 200), func(n uint64) uint64 { return ^n }),
	rapid.Uint64(),
)

// A trie is its slow twin, a map, and so is each trie that was kept before.
func TestTrie(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type version struct {
			trie[int]
			twin map[uint64]int
		}
		now := version{twin: map[uint64]int{}}
		var kept []version
		edition := uint64(0)
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				key, value := keysOfTrie.Draw(t, "key"), rapid.Int().Draw(t, "value")
				now.put(edition, key, value)
				now.twin[key] = value
			},
			"delete": func(t *rapid.T) {
				if len(now.twin) == 0 {
					t.Skip()
				}
				key := rapid.SampledFrom(slices.Sorted(maps.Keys(now.twin))).Draw(t, "key")
				now.delete(edition, key)
				delete(now.twin, key)
			},
			"keep": func(t *rapid.T) {
				edition++
				kept = append(kept, version{now.trie, maps.Clone(now.twin)})
			},
			"go back": func(t *rapid.T) {
				if len(kept) == 0 {
					t.Skip()
				}
				edition++
				old := rapid.SampledFrom(kept).Draw(t, "version")
				now = version{old.trie, maps.Clone(old.twin)}
			},
			"": func(t *rapid.T) {
				key := keysOfTrie.Draw(t, "key")
				sameAsMap(t, &now.trie, now.twin, key)
				if len(kept) > 0 {
					old := rapid.SampledFrom(kept).Draw(t, "version")
					sameAsMap(t, &old.trie, old.twin, key)
				}
			},
		})
	})
}

func sameAsMap(t *rapid.T, tr *trie[int], twin map[uint64]int, key uint64) {
	checkShape(t, tr.root, true)
	got := tr.get(key)
	if want, ok := twin[key]; (got != nil) != ok || ok && *got != want {
		t.Fatalf("get(%#x) = %v, want %d, %v", key, got, want, ok)
	}
	keys := slices.Sorted(maps.Keys(twin))
	for _, from := range []uint64{0, key} {
		at, _ := slices.BinarySearch(keys, from)
		rest := keys[at:]
		tr.from(from, func(k uint64, v int) bool {
			if len(rest) == 0 || k != rest[0] || v != twin[k] {
				t.Fatalf("from %#x: %#x, want the rest %#x", from, k, rest)
			}
			rest = rest[1:]
			return true
		})
		if len(rest) > 0 {
			t.Fatalf("from %#x: %#x are missing", from, rest)
		}
	}
	if len(keys) > 0 && (tr.min() != twin[keys[0]] || tr.max() != twin[keys[len(keys)-1]]) {
		t.Fatalf("min %d, max %d of %v", tr.min(), tr.max(), twin)
	}
}

// checkShape checks what node promises.
func checkShape(t *rapid.T, n *node[int], root bool) {
	switch {
	case n == nil && root:
		return
	case n.leaves&n.inner != 0, len(n.entries) != bits.OnesCount64(n.leaves), len(n.kids) != bits.OnesCount64(n.inner):
		t.Fatalf("children do not fit the bits: %+v", n)
	case n.size() < 2 && !root, n.size() < 1, len(n.entries) == 0 && len(n.kids) == 1:
		t.Fatalf("too few children: %+v", n)
	}
	for _, e := range n.entries {
		if n.leaves&n.child(e.key) == 0 || (e.key^n.prefix)>>n.shift>>fanout != 0 {
			t.Fatalf("key %#x in %+v", e.key, n)
		}
	}
	for _, kid := range n.kids {
		if n.inner&n.child(kid.prefix) == 0 || (kid.prefix^n.prefix)>>n.shift>>fanout != 0 || kid.shift >= n.shift {
			t.Fatalf("%+v in %+v", kid, n)
		}
		checkShape(t, kid, false)
	}
}
