package libwrap

import (
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strings"

	"rpcward/hostsaccess"
)

// world is the files that libwrap can read.
type world struct{ files []file }

type file struct {
	name  string
	state byte // r, m, d or u, as in driver.c
	text  string
}

// query is one request.
type query struct {
	daemon         string
	client, server end
	user, ident    string
	pid            int
	datagram       bool
	aclexecFails   bool
	resident       bool // an earlier decision was made in this process
	leak           bool // and its aclexec failed
	times          int
}

// end is one side of the connection.
type end struct {
	addr   netip.AddrPort
	text   string // the address as given by a program such as one that calls hosts_ctl
	name   string
	lookup string // the name that looking up the address gives
}

func (w *world) find(name string) file {
	for _, f := range w.files {
		if f.name == name {
			return f
		}
	}
	return file{name: name, state: 'm'}
}

func (w *world) source(name string) hostsaccess.Source {
	f := w.find(name)
	s := hostsaccess.Source{Name: name, Data: []byte(f.text)}
	s.State = map[byte]hostsaccess.State{'r': hostsaccess.TableReadable, 'm': hostsaccess.TableMissing,
		'd': hostsaccess.TableDirectory, 'u': hostsaccess.TableUnreadable}[f.state]
	return s
}

func (w *world) environment() hostsaccess.Environment {
	account := func(name string) bool { return name == "root" || name == "nobody" }
	return hostsaccess.Environment{
		ReadFile: func(name string) ([]byte, error) {
			f := w.find(name)
			if f.state != 'r' {
				return nil, fs.ErrNotExist
			}
			return []byte(f.text), nil
		},
		InNetgroup: func(group, host string) bool {
			good := host == "good.example.com"
			return group == "trusted" && (good || host == "unknown") || group == "friends" && good
		},
		HasInterface: func(name string) bool {
			_, err := net.InterfaceByName(name)
			return err == nil
		},
		HasUser: account, HasGroup: account,
	}
}

func (w *world) tables(m hostsaccess.Mode) *hostsaccess.Tables {
	return hostsaccess.NewTables(m, w.source("hosts.allow"), w.source("hosts.deny"), w.environment())
}

// resolver gives the names of the query, as libwrap's hostname method would.
type resolver struct{ q *query }

func (r resolver) HostName(a netip.Addr) (string, hostsaccess.NameState) {
	name := r.q.server.lookup
	if a == r.q.client.addr.Addr() {
		name = r.q.client.lookup
	}
	switch strings.ToLower(name) {
	case "", "unknown":
		return "", hostsaccess.NameNone
	case "paranoid":
		return "", hostsaccess.NameParanoid
	}
	return name, hostsaccess.NameKnown
}

func (r resolver) UserName(client, server netip.AddrPort, seconds int) string { return r.q.ident }

func (e *end) endpoint() hostsaccess.Endpoint {
	return hostsaccess.Endpoint{Addr: e.addr, Name: e.name, Text: e.text}
}

// ask asks hostsaccess, with what an earlier decision of the process left.
func (q *query) ask(t *hostsaccess.Tables, history *hostsaccess.History) hostsaccess.Decision {
	var asked hostsaccess.Resolver // nil, for the fast path, if nobody would answer
	if q.client.lookup != "" || q.server.lookup != "" || q.ident != "" {
		asked = resolver{q}
	}
	return t.Decide(&hostsaccess.Request{
		Daemon: q.daemon, Client: q.client.endpoint(), Server: q.server.endpoint(), User: q.user, PID: q.pid, Datagram: q.datagram,
		Resolver: asked, History: history,
		AclExec: func(string) bool { return !q.aclexecFails },
	})
}

// decide puts the answer of hostsaccess into the driver's words.
func (q *query) decide(t *hostsaccess.Tables) string {
	history := hostsaccess.History{Decisions: toInt(q.resident), AclExecFailed: q.leak}
	d := q.ask(t, &history)
	o := outcome{verdict: "granted", severity: -1, leak: toInt(history.AclExecFailed)}
	if d.Verdict == hostsaccess.Deny {
		o.verdict = "denied"
	}
	if d.Rule != nil {
		o.rule = fmt.Sprintf("%s:%d", d.Rule.File, d.Rule.LastLine)
	}
	for i := range d.Actions {
		o.acted(&d.Actions[i])
	}
	return o.String()
}

// acted puts an action into the driver's words.
func (o *outcome) acted(a *hostsaccess.Action) {
	if a.Fault == "expansion too long" {
		o.verdict = "exit"
		return
	}
	if a.Kind != hostsaccess.ActNone {
		o.actions = append(o.actions, "option "+a.Name+" "+a.Argument)
	}
	o.banner += string(a.Output)
	if o.fault = a.Fault; a.Fault != "" {
		return
	}
	did := ""
	switch a.Kind {
	case hostsaccess.ActSeverity:
		o.severity = a.Number
	case hostsaccess.ActSpawn:
		did = "spawn " + a.Value
	case hostsaccess.ActTwist:
		did = "twist " + a.Value
		o.verdict = "delegated"
	case hostsaccess.ActKeepAlive:
		did = "keepalive "
	case hostsaccess.ActLinger:
		did = fmt.Sprintf("linger %d", a.Number)
	case hostsaccess.ActNice:
		did = fmt.Sprintf("nice %d", a.Number)
	case hostsaccess.ActUmask:
		did = fmt.Sprintf("umask %d", a.Number)
	case hostsaccess.ActSetEnv:
		did = "setenv " + a.Variable + "=" + a.Value
	}
	if did != "" {
		o.actions = append(o.actions, did)
	}
}
