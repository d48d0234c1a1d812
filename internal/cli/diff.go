package cli

import (
	"bytes"
	"io"
	"strings"

	"github.com/rogpeppe/go-internal/diff"

	"rpcward/internal/accessfile"
)

// writeDiff shows what a replacement changes, in the form of diff -u.
func writeDiff(w io.Writer, r *accessfile.Replacement) error {
	d := diff.Diff(r.Path, []byte(r.Old), r.Path, []byte(r.New))
	_, d, _ = bytes.Cut(d, []byte("\n")) // the command line, which nobody typed
	for line := range strings.Lines(string(d)) {
		if _, err := io.WriteString(w, escaped(strings.TrimSuffix(line, "\n"))+"\n"); err != nil {
			return err
		}
	}
	return nil
}

// changedLines returns the lines that a replacement takes out and puts in, with
// "-" and "+" in front.
func changedLines(r *accessfile.Replacement) (lines []string) {
	d := string(diff.Diff(r.Path, []byte(r.Old), r.Path, []byte(r.New)))
	for line := range strings.Lines(d) {
		header := strings.HasPrefix(line, "--- "+r.Path) || strings.HasPrefix(line, "+++ "+r.Path)
		if !header && (line[0] == '-' || line[0] == '+') {
			lines = append(lines, escaped(strings.TrimRight(line, "\r\n")))
		}
	}
	return lines
}
