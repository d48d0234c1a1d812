package rpcbind

import "testing"

func TestPrograms(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range programs {
		if got := ProgramName(p.number); got != p.name {
			t.Errorf("%d is listed as %s and as %s", p.number, got, p.name)
		}
		for _, name := range append([]string{p.name}, p.aliases...) {
			if seen[name] {
				t.Errorf("%s is listed twice", name)
			}
			seen[name] = true
			if n, ok := ProgramNumber(name); !ok || n != p.number {
				t.Errorf("ProgramNumber(%q) = %d, %v, want %d", name, n, ok, p.number)
			}
		}
	}
	for _, name := range []string{"", "NFS", "nfs ", "100003"} {
		if n, ok := ProgramNumber(name); ok {
			t.Errorf("ProgramNumber(%q) = %d", name, n)
		}
	}
	if name := ProgramName(0); name != "" {
		t.Errorf("ProgramName(0) = %q", name)
	}
}
