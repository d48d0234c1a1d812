package cli

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestGetopt(t *testing.T) {
	long := []string{"json", "timeout:"}
	tests := []struct {
		name     string
		short    string
		args     []string
		want     []option
		operands []string
		err      string
	}{
		{name: "none", short: "ab:"},
		{name: "bundle", short: "abc:", args: []string{"-abcX", "h"}, want: []option{{"a", ""}, {"b", ""}, {"c", "X"}}, operands: []string{"h"}},
		{name: "argument is the next word, whatever it looks like", short: "c:", args: []string{"-c", "-a"}, want: []option{{"c", "-a"}}},
		{name: "permutation", short: "ab:", args: []string{"x", "-a", "y", "-b", "1"}, want: []option{{"a", ""}, {"b", "1"}}, operands: []string{"x", "y"}},
		{name: "in order", short: "+a", args: []string{"-a", "x", "-a"}, want: []option{{"a", ""}}, operands: []string{"x", "-a"}},
		{name: "end of options", short: "a", args: []string{"x", "--", "-a"}, operands: []string{"x", "-a"}},
		{name: "a dash is an operand", short: "a", args: []string{"-", ""}, operands: []string{"-", ""}},
		{name: "unknown, after a good one", short: "a", args: []string{"-ax"}, want: []option{{"a", ""}, {"?", "invalid option -- 'x'"}}, err: "invalid option -- 'x'"},
		{name: "goes on after a mistake", short: "ab:", args: []string{"-xa", "h", "-y", "-b", "1"}, want: []option{{"?", "invalid option -- 'x'"}, {"a", ""}, {"?", "invalid option -- 'y'"}, {"b", "1"}}, operands: []string{"h"}, err: "invalid option -- 'x'"},
		{name: "colon is no letter", short: "a:", args: []string{"-:"}, want: []option{{"?", "invalid option -- ':'"}}, err: "invalid option -- ':'"},
		{name: "argument missing", short: "ab:", args: []string{"-ab"}, want: []option{{"a", ""}, {"?", "option requires an argument -- 'b'"}}, err: "option requires an argument -- 'b'"},
		{name: "unknown long", short: "s", args: []string{"--s"}, want: []option{{"?", "invalid option -- '-'"}, {"s", ""}}, err: "invalid option -- '-'"},
		{name: "long", short: "a", args: []string{"--json", "--timeout=3", "--timeout", "4"}, want: []option{{"json", ""}, {"timeout", "3"}, {"timeout", "4"}}},
		{name: "long without its argument", short: "a", args: []string{"--timeout"}, want: []option{{"?", "option requires an argument -- 'timeout'"}}, err: "option requires an argument -- 'timeout'"},
		{name: "long with an argument it does not take", short: "json=1", args: []string{"--json=1"}, want: []option{{"?", "invalid option -- '-'"}, {"j", ""}, {"s", ""}, {"o", ""}, {"n", ""}, {"=", ""}, {"1", ""}}, err: "invalid option -- '-'"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			opts, operands, err := getopt(tt.short, long, tt.args)
			if d := cmp.Diff(tt.want, opts, cmp.AllowUnexported(option{})); d != "" {
				t.Error(d)
			}
			if d := cmp.Diff(tt.operands, operands); d != "" {
				t.Error(d)
			}
			if got := errorText(err); got != tt.err {
				t.Errorf("error %q, want %q", got, tt.err)
			}
		})
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestGetoptPosixlyCorrect(t *testing.T) {
	t.Setenv("POSIXLY_CORRECT", "1")
	_, operands, err := getopt("a", nil, []string{"x", "-a"})
	if err != nil || len(operands) != 2 {
		t.Errorf("operands %q, %v", operands, err)
	}
}
