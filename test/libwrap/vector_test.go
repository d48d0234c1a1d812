package libwrap

import (
	"fmt"
	"strconv"
	"strings"
)

// vector is a case that is written down: testdata/vectors.
type vector struct {
	name string
	w    *world
	q    *query
	want string
}

// String writes a vector as one line of key=value, the values quoted where
// they must be. Keys that have no value are left out.
func (v vector) String() string {
	var b strings.Builder
	b.WriteString(v.name)
	add := func(key, value string) {
		if value == "" {
			return
		}
		if strings.ContainsAny(value, " \t\"\\") || strconv.Quote(value) != `"`+value+`"` {
			value = strconv.Quote(value)
		}
		fmt.Fprintf(&b, " %s=%s", key, value)
	}
	for _, f := range v.w.files {
		if f.state != 'r' {
			add(f.name+"!", string(f.state))
		}
		add(f.name, f.text)
	}
	q := v.q
	add("daemon", q.daemon)
	for _, e := range []struct {
		key string
		end
	}{{"client", q.client}, {"server", q.server}} {
		if e.addr.IsValid() {
			add(e.key, e.addr.String())
		}
		add(e.key+".text", e.text)
		add(e.key+".name", e.name)
		add(e.key+".lookup", e.lookup)
	}
	add("user", q.user)
	add("ident", q.ident)
	if q.pid != 0 {
		add("pid", strconv.Itoa(q.pid))
	}
	for _, f := range []struct {
		key string
		set bool
	}{{"datagram", q.datagram}, {"aclexecFails", q.aclexecFails}, {"resident", q.resident}, {"leak", q.leak}} {
		if f.set {
			add(f.key, "yes")
		}
	}
	add("want", v.want)
	return b.String()
}
