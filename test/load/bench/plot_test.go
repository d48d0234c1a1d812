package bench

import (
	"bytes"
	"fmt"
	"math"
)

// plot is calls per second against something, both on logarithmic scales.
type plot struct {
	file, title, x string
	series         []series
}

type series struct {
	name   string
	points []point
}

type point struct{ x, y float64 }

// Sizes in SVG's units: the page, and where in it the axes are.
const (
	pageWidth, pageHeight = 640, 360
	left, right           = 76, 600
	top, bottom           = 44, 306
)

// The colours are told apart on white and on black, and by people who don't
// see red and green as others do; each series has a shape of its own too.
var marks = []struct{ colour, shape string }{
	{"#2b83ba", `<circle r="4" cx="%.1f" cy="%.1f" fill="%s"/>`},
	{"#e66101", `<path transform="translate(%.1f %.1f)" d="M-4 4h8l-4-8z" fill="%s"/>`},
	{"#888888", `<path transform="translate(%.1f %.1f)" d="M-4-4h8v8h-8z" fill="%s"/>`},
}

// scaleOf maps values of a range of decades to a range of places.
type scaleOf struct {
	low, high int // powers of 10
	from, to  float64
}

// at is the place of a value; 0 has the place of the lowest.
func (s scaleOf) at(v float64) float64 {
	l := math.Log10(math.Max(v, math.Pow10(s.low)))
	return s.from + (l-float64(s.low))/float64(s.high-s.low)*(s.to-s.from)
}

// scales finds the decades that hold all points.
func (p *plot) scales() (x, y scaleOf) {
	x, y = scaleOf{99, 0, left, right}, scaleOf{99, 0, bottom, top}
	for _, s := range p.series {
		for _, pt := range s.points {
			x.include(pt.x)
			y.include(pt.y)
		}
	}
	x.high, y.high = max(x.high, x.low+1), max(y.high, y.low+1)
	return x, y
}

func (s *scaleOf) include(v float64) {
	l := math.Log10(math.Max(v, 1))
	s.low, s.high = min(s.low, int(math.Floor(l))), max(s.high, int(math.Ceil(l)))
}

// svg draws the plot. It has no background, and its ink follows the reader's
// choice of light or dark.
func (p *plot) svg() []byte {
	var b bytes.Buffer
	x, y := p.scales()
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" font-family="sans-serif" font-size="12">
<title>%s</title>
<style>text{fill:#222}.grid{stroke:#8886;fill:none}.line{fill:none;stroke-width:2}@media(prefers-color-scheme:dark){text{fill:#ddd}}</style>
<text x="%d" y="18" font-size="14">%s</text>
`, pageWidth, pageHeight, p.title, left, p.title)
	for d := y.low; d <= y.high; d++ {
		at := y.at(math.Pow10(d))
		fmt.Fprintf(&b, `<path class="grid" d="M%d %.1fH%d"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n", left, at, right, left-6, at+4, number(math.Pow10(d)))
	}
	for d := x.low; d <= x.high; d++ {
		at := x.at(math.Pow10(d))
		fmt.Fprintf(&b, `<path class="grid" d="M%.1f %dV%d"/><text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n", at, top, bottom, at, bottom+18, number(math.Pow10(d)))
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">%s</text>`+"\n", (left+right)/2, pageHeight-14, p.x)
	fmt.Fprintf(&b, `<text transform="translate(14 %d) rotate(-90)" text-anchor="middle">answers per second%s</text>`+"\n", (top+bottom)/2, p.bottomNote(y))
	for i := range p.series {
		p.series[i].draw(&b, i, x, y)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// bottomNote says so where the axis, which has no 0, stands for it.
func (p *plot) bottomNote(y scaleOf) string {
	for _, s := range p.series {
		for _, pt := range s.points {
			if pt.y < math.Pow10(y.low) {
				return " (the lowest stands for none)"
			}
		}
	}
	return ""
}

// draw draws the i-th series and its entry of the legend, above the axes.
func (s *series) draw(b *bytes.Buffer, i int, x, y scaleOf) {
	mark := marks[i%len(marks)]
	command := "M"
	fmt.Fprintf(b, `<path class="line" stroke="%s" d="`, mark.colour)
	for _, pt := range s.points {
		fmt.Fprintf(b, "%s%.1f %.1f", command, x.at(pt.x), y.at(pt.y))
		command = "L"
	}
	b.WriteString("\"/>\n")
	for _, pt := range s.points {
		fmt.Fprintf(b, mark.shape+"\n", x.at(pt.x), y.at(pt.y), mark.colour)
	}
	at := float64(left + 110*i)
	fmt.Fprintf(b, mark.shape+`<text x="%.1f" y="%d">%s</text>`+"\n", at+6, float64(top-12), mark.colour, at+16, top-8, s.name)
}
