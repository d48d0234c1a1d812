package rollback

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rpcward/internal/accessfile"
	"rpcward/internal/ruleset"
)

// example is a state with something in each of its parts.
func example() *ruleset.State {
	s := (&ruleset.State{Base: ruleset.GoodBase}).Clone()
	for i, list := range [][]netip.Prefix{{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}, nil} {
		set := ruleset.NewAddresses(list)
		name := []string{"nfs_1", "tombstone_2"}[i]
		s.Sets[set.ID()] = set
		s.Chains[name] = ruleset.Chain{Set: set.ID(), Mark: ruleset.Mark{Value: uint32(1 - i), Mask: 0xff}, Services: "nfs"}
		s.Ports[ruleset.Port{Proto: ruleset.UDP, Port: uint16(2049 + i)}] = name
	}
	return s
}

// TestRecord wants a state to be the same after it was written down.
func TestRecord(t *testing.T) {
	for name, s := range map[string]*ruleset.State{"nothing": {}, "an example": example()} {
		data, err := json.Marshal(toRecord(s))
		if err != nil {
			t.Fatal(err)
		}
		var r record
		if err := json.Unmarshal(data, &r); err != nil {
			t.Fatal(err)
		}
		if got := r.state(); !got.Equal(s) || !s.Equal(got) || got.String() != s.String() {
			t.Errorf("%s: %v\nwas written down as %s", name, s, data)
		}
	}
}

// TestRestorable wants no promise about what others have put there.
func TestRestorable(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*ruleset.State)
		want   bool
	}{
		{"ours", func(*ruleset.State) {}, true},
		{"the base was changed", func(s *ruleset.State) { s.Base = ruleset.WrongBase }, false},
		{"something else is there", func(s *ruleset.State) { s.Strays = []string{"chain x"} }, false},
		{"a set was changed", func(s *ruleset.State) { s.Sets["x"] = nil }, false},
		{"a chain was changed", func(s *ruleset.State) { s.Chains["nfs_1"] = ruleset.Chain{Set: ruleset.Unknown} }, false},
		{"a port leads nowhere", func(s *ruleset.State) { s.Ports[ruleset.Port{}] = ruleset.Unknown }, false},
	} {
		s := example()
		if tt.change(s); restorable(s) != tt.want {
			t.Errorf("%s: restorable: %v", tt.name, !tt.want)
		}
	}
	if !restorable(&ruleset.State{}) {
		t.Error("nothing can't be brought back")
	}
}

// TestRestoreFile wants the old text, or no file, and the edit of another kept.
func TestRestoreFile(t *testing.T) {
	const missing = "(missing)"
	for _, tt := range []struct {
		name, before, now, want string
		err                     error
	}{
		{"replaced", "old", "new", "old", nil},
		{"not replaced yet", "old", "old", "old", nil},
		{"made", missing, "new", missing, nil},
		{"not made yet", missing, missing, missing, nil},
		{"edited since", "old", "edited", "edited", accessfile.ErrChanged},
		{"made and edited since", missing, "edited", "edited", accessfile.ErrChanged},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "hosts.allow")
			f := File{Replacement: accessfile.Replacement{Path: path, Old: tt.before, New: "new"}, Kept: path + ".bak"}
			if tt.before == missing {
				f.Old, f.Missing, f.Kept = "", true, ""
			} else if err := os.WriteFile(f.Kept, []byte(tt.before), 0o600); err != nil {
				t.Fatal(err)
			}
			if tt.now != missing {
				if err := os.WriteFile(path, []byte(tt.now), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := f.restore(); !errors.Is(err, tt.err) {
				t.Errorf("error %v, want %v", err, tt.err)
			}
			got, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) {
				got = []byte(missing)
			}
			if string(got) != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
			if _, err := os.Stat(path + ".bak"); tt.err == nil && err == nil {
				t.Error("the backup is left behind")
			}
		})
	}
}

// TestFolderOfOthers wants no record where others could write one.
func TestFolderOfOthers(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := (&Book{Dir: dir}).Confirm(); err == nil || !strings.Contains(err.Error(), "others may write") {
		t.Errorf("a folder of everybody: %v", err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(t.TempDir(), link); err != nil {
		t.Fatal(err)
	}
	if _, err := (&Book{Dir: link}).Confirm(); err == nil {
		t.Error("a link is taken")
	}
}
