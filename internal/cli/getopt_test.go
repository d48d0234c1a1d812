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
		{name: "unknown, after a good one", short: "a", args: []string{"-ax"}, want: []option{{"a", ""}}, err: "invalid option -- 'x'"},
		{name: "colon is no letter", short: "a:", args: []string{"-:"}, err: "invalid option -- ':'"},
		{name: "argument missing", short: "ab:", args: []string{"-ab"}, want: []option{{"a", ""}}, err: "option requires an argument -- 'b'"},
		{name: "unknown long", short: "a", args: []string{"--jso"}, err: "invalid option -- '-'"},
		{name: "long", short: "a", args: []string{"--json", "--timeout=3", "--timeout", "4"}, want: []option{{"json", ""}, {"timeout", "3"}, {"timeout", "4"}}},
		{name: "long without its argument", short: "a", args: []string{"--timeout"}, err: "option requires an argument -- 'timeout'"},
		{name: "long with an argument it does not take", short: "a", args: []string{"--json=1"}, err: "invalid option -- '-'"},
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
