package firewall

import (
	"errors"
	"strings"
	"testing"

	"rpcward/internal/ruleset"
	"rpcward/test/lab"
)

// A table that a guard owns is safe from others, outlives the guard, and is
// taken over by the next one.
func TestTableIsOwned(t *testing.T) {
	h := lab.NewHost(t, "server")
	s := desired(t, lan, ruleset.Options{}, nfs...)
	first, err := OpenNFT(optionsOn(h))
	if err != nil {
		t.Fatal(err)
	}
	apply(t, first, s)
	if !first.Owned() {
		t.Fatal("the table is not owned")
	}
	h.MustRun("nft", "flush", "ruleset")
	wantState(t, first, s)
	for _, cmd := range []string{"delete table inet rpcward", "flush table inet rpcward", "add rule inet rpcward input accept", "add chain inet rpcward x"} {
		if out, err := h.Run(t.Context(), "nft", strings.Fields(cmd)...); err == nil {
			t.Errorf("nft %s was possible: %s", cmd, out)
		}
	}
	wantState(t, first, s)
	second := backends[0].on(t, h)
	if _, err := second.Apply(s); !errors.Is(err, ErrOwned) {
		t.Errorf("a second guard: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	wantState(t, second, s)
	if second.(*NFT).replace {
		t.Error("taking over would replace the table")
	}
	if steps := apply(t, second, s); len(steps) > 0 {
		t.Errorf("taking over: %v", steps)
	}
	if !second.(*NFT).Owned() {
		t.Error("taking over did not make it ours")
	}
}
