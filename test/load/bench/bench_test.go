package bench

import (
	"flag"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"rpcward/test/lab"
)

var (
	mode       = flag.String("mode", "smoke", "smoke: that it works, in seconds; quick: a first impression, in a minute; full")
	parts      = flag.String("parts", "", "comma-separated `NAMES` of the parts to measure, all if empty")
	runs       = flag.Int("runs", 0, "how often to measure each thing, by turns; 0 for what the mode says")
	serverArgs = flag.String("serve", "", "more `OPTIONS` for rpcward serve")
	write      = flag.Bool("write", false, "write tables and plots into docs/")
)

func TestMain(m *testing.M) {
	flag.Parse()
	code := lab.Main(m)
	if toolsDir != "" {
		os.RemoveAll(toolsDir)
	}
	os.Exit(code)
}

// scale says how large a bench is.
type scale struct {
	runs             int
	warmup, time     time.Duration // of each load
	window           int           // that saturates
	rules, manyRules []int         // to sweep; the last of rules, and of manyRules, are in the table too
	registrations    []int         // to sweep, for rpcward
	stockRegistered  int           // the most for rpcbind
	floodRate        float64
	floodRates       []float64
	idle, slow       int
	idleSources      int
	setBudget        time.Duration
}

var scales = map[string]scale{
	"smoke": {
		runs: 1, warmup: 5 * time.Millisecond, time: 30 * time.Millisecond, window: 32, rules: []int{0, 10}, manyRules: []int{20}, registrations: []int{16, 50}, stockRegistered: 30,
		floodRate: 1000, floodRates: []float64{1000}, idle: 20, slow: 2, idleSources: 2, setBudget: 50 * time.Millisecond,
	},
	"quick": {
		runs: 1, warmup: 100 * time.Millisecond, time: 300 * time.Millisecond, window: 128, rules: []int{0, 1000}, manyRules: []int{10_000}, registrations: []int{16, 100_000}, stockRegistered: 1000,
		floodRate: 400_000, floodRates: []float64{5000, 100_000}, idle: 20_000, slow: 50, idleSources: 64, setBudget: 5 * time.Second,
	},
	"full": {
		runs: 5, warmup: 100 * time.Millisecond, time: 300 * time.Millisecond, window: 128, rules: []int{0, 10, 100, 1000}, manyRules: []int{10_000}, registrations: []int{16, 1000, 10_000, 100_000}, stockRegistered: 1000,
		floodRate: 400_000, floodRates: []float64{5000, 25_000, 100_000, 400_000}, idle: 20_000, slow: 50, idleSources: 64, setBudget: 20 * time.Second,
	},
}

// part is one part of the bench: what it measures ends in a report.
type part struct {
	name    string // of its place in docs/performance.md
	measure func(testing.TB, scale) report
}

var allParts = []part{
	{"look-ups", measureLookups},
	{"scale", measureScale},
	{"floods", measureFloods},
	{"connections", measureConnections},
	{"changes", measureChanges},
}

// TestBench measures what -parts says and prints it.
func TestBench(t *testing.T) {
	lab.NeedRoot(t)
	lab.NeedCommand(t, "rpcbind")
	s, ok := scales[*mode]
	if !ok {
		t.Fatalf("-mode %s: smoke, quick or full", *mode)
	}
	if *runs > 0 {
		s.runs = *runs
	}
	if *mode != "smoke" {
		first(t)
	}
	toolsOf(t)
	lab.Rpcward(t)
	for _, p := range allParts {
		if *parts != "" && !slices.Contains(strings.Split(*parts, ","), p.name) {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			if *mode == "smoke" {
				t.Parallel() // what it measures is for nobody
			}
			begin := time.Now()
			r := p.measure(t, s)
			t.Logf("%.0f s\n%s", time.Since(begin).Seconds(), r.markdown())
			if *write {
				r.write(t, p.name)
			}
		})
	}
}
