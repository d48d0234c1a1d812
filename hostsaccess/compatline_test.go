package hostsaccess

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCompatLines(t *testing.T) {
	long := strings.Repeat("x", compatBuffer)
	for _, tt := range []struct {
		name, source string
		lines        []int
		texts        []string
	}{
		{"empty", "", nil, nil},
		{"plain", "a\nb\n", []int{1, 2}, []string{"a\n", "b\n"}},
		{"joined", "a\\\nb\nc\n", []int{2, 3}, []string{"ab\n", "c\n"}},
		{"no newline", "a\nb", []int{1, 1}, []string{"a\n", "b"}},
		{"backslash at the end", "a\\\n", []int{1}, []string{"a"}},
		{"nothing joined", "\\\n", nil, nil},
		{"NUL glues", "a\x00b\nc\n", []int{1}, []string{"ac\n"}},
		{"too long", long + "\n", []int{0, 1}, []string{long[:compatBuffer-1], "x\n"}},
	} {
		var lines []int
		var texts []string
		for n, text := range CompatLines(tt.source) {
			lines, texts = append(lines, n), append(texts, text)
		}
		if diff := cmp.Diff(tt.lines, lines) + cmp.Diff(tt.texts, texts); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}
