package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// report is what a part of the bench found.
type report struct {
	tables []table
	plots  []plot
}

// table is a table with a text before it.
type table struct {
	text string
	head []string
	rows [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (r *report) markdown() string {
	var b strings.Builder
	for _, t := range r.tables {
		fmt.Fprintf(&b, "\n%s\n\n| %s |\n|%s\n", t.text, strings.Join(t.head, " | "), strings.Repeat("---|", len(t.head)))
		for _, row := range t.rows {
			fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
		}
	}
	for _, p := range r.plots {
		fmt.Fprintf(&b, "\n![%s](%s)\n", p.title, p.file)
	}
	return b.String()
}

const docs = "../../../docs/"

// write puts the report into docs/performance.md, between the marks of its
// part, and the plots beside it. What people wrote stays.
func (r *report) write(t testing.TB, part string) {
	t.Helper()
	path := filepath.Join(docs, "performance.md")
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text, err := between(string(old), part, r.markdown())
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, p := range r.plots {
		if err := os.WriteFile(filepath.Join(docs, p.file), p.svg(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// between replaces what stands between the marks of a part.
func between(text, part, generated string) (string, error) {
	begin, end := fmt.Sprintf("<!-- bench %s: begin -->\n", part), fmt.Sprintf("<!-- bench %s: end -->", part)
	before, rest, ok := strings.Cut(text, begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return "", fmt.Errorf("no place for %s: %q and %q", part, begin, end)
	}
	return before + begin + generated + "\n" + end + after, nil
}

// median of what several runs found.
func median(list []float64) float64 {
	if len(list) == 0 {
		return 0
	}
	list = slices.Sorted(slices.Values(list))
	return (list[(len(list)-1)/2] + list[len(list)/2]) / 2
}

// samples keeps what several runs found under names.
type samples map[string][]float64

func (s samples) add(v float64, key ...any) { s[fmt.Sprint(key...)] = append(s[fmt.Sprint(key...)], v) }
func (s samples) median(key ...any) float64 { return median(s[fmt.Sprint(key...)]) }
func (s samples) show(key ...any) string    { return number(s.median(key...)) }
func (s samples) micros(key ...any) string  { return fmt.Sprintf("%.0f µs", s.median(key...)) }

// ratio is the median of a run's a by the same run's b: what else the machine
// does meets both alike. 0 where nothing was measured.
func (s samples) ratio(a, b string) float64 {
	var list []float64
	for i, whole := range s[b] {
		if i < len(s[a]) && whole > 0 {
			list = append(list, s[a][i]/whole)
		}
	}
	return median(list)
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%.0f ms", d.Seconds()*1e3) }
func megabytes(kilobytes float64) string  { return fmt.Sprintf("%.1f MB", kilobytes/1024) }

// percent and times word a ratio.
func percent(ratio float64) string { return fmt.Sprintf("%.0f %%", 100*ratio) }
func times(ratio float64) string   { return fmt.Sprintf("%.1f x", ratio) }

// number writes an integer with separators.
func number(f float64) string {
	s := fmt.Sprintf("%.0f", f)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
