package cli

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestCell(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", ""},
		{"0.0.0.0.0.111", "0.0.0.0.0.111"},
		{"/run/rpcbind.sock", "/run/rpcbind.sock"},
		{"\x1b[2Jgone", `\x1b[2Jgone`},
		{"a\nb\tc d", `a\x0ab\x09c\x20d`},
		{`\x1b`, `\x5cx1b`},
		{"\u009b31m\u202e", `\xc2\x9b31m\xe2\x80\xae`},
		{strings.Repeat("x", maxCell), strings.Repeat("x", maxCell)},
		{strings.Repeat("x", maxCell+1), strings.Repeat("x", maxCell) + "..."},
	} {
		if got := cell(tt.in); got != tt.want {
			t.Errorf("cell(%q) = %q, want %q", tt.in, got, tt.want)
		}
	}
}

func TestASCIIWriter(t *testing.T) {
	want := "a\x1b\u007f\u009b\u202e\U0001f600\"\\<"
	var b strings.Builder
	if err := json.NewEncoder(asciiWriter{&b}).Encode(want); err != nil {
		t.Fatal(err)
	}
	for _, c := range strings.TrimSuffix(b.String(), "\n") {
		if c < ' ' || c >= 0x7f {
			t.Errorf("%q in %q", c, b.String())
		}
	}
	var got string
	if err := json.Unmarshal([]byte(b.String()), &got); err != nil || got != want {
		t.Errorf("%s reads as %q, %v, want %q", b.String(), got, err, want)
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("\x1b]0;title\a\xff\u2028")
	f.Fuzz(func(t *testing.T, s string) {
		for _, c := range []byte(cell(s)) {
			if c <= ' ' || c >= 0x7f {
				t.Fatalf("cell(%q) has %q", s, c)
			}
		}
		var b strings.Builder
		if err := json.NewEncoder(asciiWriter{&b}).Encode(s); err != nil {
			t.Fatal(err)
		}
		for _, c := range []byte(strings.TrimSuffix(b.String(), "\n")) {
			if c < ' ' || c >= 0x7f {
				t.Fatalf("JSON of %q has %q", s, c)
			}
		}
	})
}
