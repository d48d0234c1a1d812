package bench

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

func TestBetween(t *testing.T) {
	text := "by hand\n<!-- bench x: begin -->\nold\n<!-- bench x: end -->\nby hand too\n"
	got, err := between(text, "x", "new\n")
	if err != nil || got != "by hand\n<!-- bench x: begin -->\nnew\n\n<!-- bench x: end -->\nby hand too\n" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := between(text, "y", "new"); err == nil {
		t.Error("a part without a place was put somewhere")
	}
}

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		list []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 2, 3}, 2.5}} {
		if got := median(tt.list); got != tt.want {
			t.Errorf("median of %v is %v, want %v", tt.list, got, tt.want)
		}
	}
	if got := number(1234567); got != "1,234,567" {
		t.Error(got)
	}
}

// The plot is well-formed, and all its points are inside of the axes.
func TestPlot(t *testing.T) {
	p := plot{file: "x.svg", title: "a title", x: "things", series: []series{
		{"one", []point{{0, 0}, {10, 12_345}, {100_000, 500_000}}},
		{"two", []point{{1, 240}}},
	}}
	x, y := p.scales()
	for _, s := range p.series {
		for _, pt := range s.points {
			if at := x.at(pt.x); at < left || at > right {
				t.Errorf("%v is at %v", pt, at)
			}
			if at := y.at(pt.y); at < top || at > bottom {
				t.Errorf("%v is at height %v", pt, at)
			}
		}
	}
	svg := string(p.svg())
	for d := xml.NewDecoder(strings.NewReader(svg)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, svg)
		}
	}
	if strings.Contains(svg, "%!") {
		t.Errorf("a verb is wrong in\n%s", svg)
	}
}

// A leak shows in the trend, noise does not.
func TestTrend(t *testing.T) {
	var flat, leak []sample
	begin := time.Now()
	for i := range 100 {
		at := begin.Add(time.Duration(i) * time.Second)
		flat = append(flat, sample{at: at, memory: 20_000 + i%2*3000})
		leak = append(leak, sample{at: at, memory: 20_000 + i%2*3000 + 100*i})
	}
	memory := func(a sample) int { return a.memory }
	if rise, mean := trend(flat, memory); rise > 200 || rise < -200 || mean != 21_500 {
		t.Errorf("flat: rise %v, mean %v", rise, mean)
	}
	if rise, _ := trend(leak, memory); rise < 9500 || rise > 10_500 {
		t.Errorf("a leak of 9,900: rise %v", rise)
	}
}

// What a server must not log is noticed.
func TestExpectedLines(t *testing.T) {
	for _, line := range []string{"panic: runtime error", "WARNING: DATA RACE", "rpcward: error: registrations can't be saved", "fatal error: all goroutines are asleep"} {
		if expected.MatchString(line) {
			t.Errorf("%q is taken for usual", line)
		}
	}
	for _, line := range []string{"rpcward: serving UDP and TCP port 111, /run/rpcbind.sock, @/run/rpcbind.sock", "rpcward: warning: connect from 10.98.0.2 to dump(): request from unauthorized host"} {
		if !expected.MatchString(line) {
			t.Errorf("%q is taken for unusual", line)
		}
	}
}
