package bench

import (
	"fmt"
	"testing"
)

// measureScale asks servers with more and more rules and registrations.
func measureScale(t testing.TB, s scale) report {
	stock, ward, echo := rpcbindBed(t), rpcwardBed(t), echoBed(t)
	echo.start(setting{})
	few := s.registrations[0]
	most := setting{rules: s.manyRules[len(s.manyRules)-1], registrations: s.registrations[len(s.registrations)-1]}
	var settings []setting
	for _, n := range append(s.rules, s.manyRules...) {
		settings = append(settings, setting{rules: n, registrations: few})
	}
	for _, n := range s.registrations[1:] {
		settings = append(settings, setting{registrations: n})
	}
	settings = append(settings, most)
	got := samples{}
	for range s.runs {
		for _, at := range settings {
			for _, b := range []*bed{stock, ward} {
				measureAt(got, b, at, s)
			}
			r := echo.look(lookups{from: overVeth, version: 2, window: s.window, registrations: few, warmup: s.warmup, time: s.time})
			got.add(r.PerSecond, "echo")
		}
	}
	return report{tables: []table{scaleTable(got, s, settings)}, plots: scalePlots(got, s, few)}
}

// measureAt starts a server with a setting, rpcbind with no more registrations
// than it can bear, and asks it.
func measureAt(got samples, b *bed, at setting, s scale) {
	asked := at
	if b.name == "rpcbind" {
		at.registrations = min(at.registrations, s.stockRegistered)
	}
	b.start(at)
	for _, version := range []int{2, 4} {
		r := b.look(lookups{from: overVeth, version: version, window: s.window, registrations: at.registrations, warmup: s.warmup, time: s.time})
		got.add(r.PerSecond, rateKey(b.name, asked, version))
	}
}

func rateKey(name string, at setting, version int) string {
	return fmt.Sprint(name, " ", at, " ", version)
}

func scaleTable(got samples, s scale, settings []setting) table {
	t := table{
		text: fmt.Sprintf("Answers per second over UDP from another namespace, with rules that name the port mapper and do not match before the one that does, and with registrations of which the call asks for any; medians of %d runs by turns. rpcbind has at most %s registrations. The last columns say what is left of the rate with no such rule and few registrations.", s.runs, number(float64(s.stockRegistered))),
		head: []string{"rules, registrations", "rpcbind v2, v4", "rpcward v2, v4", "rpcward of rpcbind", "left: rpcbind", "left: rpcward"},
	}
	both := func(show func(version int) string) string { return show(2) + ", " + show(4) }
	for _, at := range settings {
		key := func(name string, version int) string { return rateKey(name, at, version) }
		left := func(name string) string {
			return both(func(v int) string { return percent(got.ratio(key(name, v), rateKey(name, settings[0], v))) })
		}
		t.add(number(float64(at.rules))+", "+number(float64(at.registrations)),
			both(func(v int) string { return got.show(key("rpcbind", v)) }),
			both(func(v int) string { return got.show(key("rpcward", v)) }),
			both(func(v int) string { return times(got.ratio(key("rpcward", v), key("rpcbind", v))) }),
			left("rpcbind"), left("rpcward"))
	}
	return t
}

func scalePlots(got samples, s scale, few int) []plot {
	rules := plot{file: "performance-rules.svg", title: "Look-ups beside rules that name the port mapper (GETPORT over UDP)", x: "rules"}
	registrations := plot{file: "performance-registrations.svg", title: "Look-ups in a large registry (GETPORT over UDP)", x: "registrations"}
	for _, name := range []string{"rpcward", "rpcbind", "echo"} {
		var overRules, overRegistrations series
		overRules.name, overRegistrations.name = name, name
		rate := func(at setting) float64 {
			if name == "echo" {
				return got.median("echo")
			}
			return got.median(rateKey(name, at, 2))
		}
		for _, n := range append(s.rules, s.manyRules...) {
			overRules.points = append(overRules.points, point{float64(n), rate(setting{rules: n, registrations: few})})
		}
		for _, n := range s.registrations {
			if name != "rpcbind" || n <= s.stockRegistered {
				overRegistrations.points = append(overRegistrations.points, point{float64(n), rate(setting{registrations: n})})
			}
		}
		rules.series = append(rules.series, overRules)
		registrations.series = append(registrations.series, overRegistrations)
	}
	return []plot{rules, registrations}
}
