package cli

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"rpcward/hostsaccess"
	"rpcward/internal/accessfile"
	"rpcward/internal/policy"
	"rpcward/internal/rpcnames"
	"rpcward/rpcbind"
)

const explainLong = `Say what becomes of a client, by which rule, which rules came close, and what to
write to change it. Nothing is sent: the answer is worked out from the two files as
rpcward serve does, or as a service that uses libwrap does.

Without --daemon and --program it is about the port mapper.

With --json the result is one object. Its fields stay, new ones may be added:
  from daemon allowed why rule udp tcp near change warning libwrap
udp and tcp are answer, silence, auth-error or system-err, for the port mapper only; rule and
near have file line text, near also why; change is a command; libwrap, for other
services, has allowed rule.`

// explain is one run of `rpcward explain`.
type explain struct {
	files    policyFlags
	from, to string
	daemon   string
	program  string
	proc     string
	proto    string
	def      string
	json     bool

	client, local netip.Addr
	procedure     *procedure
	verdict       policy.Default
	pair          accessfile.Pair
}

func newExplainCommand(stdout io.Writer) *cobra.Command {
	e := &explain{}
	cmd := &cobra.Command{
		Use:   "explain --from ADDR",
		Short: "Say what becomes of a client, and why",
		Long:  explainLong,
		Example: `  rpcward explain --from 192.168.1.7
  rpcward explain --from 192.168.1.7 --proc dump --proto udp
  rpcward explain --from 2001:db8::7 --program mountd
  rpcward explain --from 203.0.113.9 --daemon sshd`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := e.read(); err != nil {
				return &usageError{err}
			}
			return e.run(stdout)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&e.from, "from", "", "the client's `ADDRESS`")
	f.StringVar(&e.daemon, "daemon", "", "`NAME` of a service in the files, such as sshd")
	f.StringVar(&e.program, "program", "", "the service that serves this RPC `PROGRAM`, by name or number")
	f.StringVar(&e.proc, "proc", "", "the port mapper's `PROCEDURE`, such as dump, getport, set")
	f.StringVar(&e.proto, "proto", "", "`PROTOCOL`, udp or tcp")
	f.StringVar(&e.to, "to", "", "this host's `ADDRESS` that the client calls")
	f.StringVar(&e.def, "default", "closed", "what rpcward serve has for --default: closed or allow")
	e.files.add(f)
	f.BoolVar(&e.json, "json", false, "print JSON")
	return cmd
}

// read makes sense of the options.
func (e *explain) read() (err error) {
	switch {
	case e.from == "":
		return errors.New("--from says which client is meant")
	case e.daemon != "" && e.program != "":
		return errors.New("only one of --daemon and --program says which service is meant")
	case e.proto != "" && e.proto != "udp" && e.proto != "tcp":
		return fmt.Errorf("--proto is udp or tcp, not %q", e.proto)
	}
	if e.client, err = readAddr("--from", e.from); err != nil {
		return err
	}
	if e.to != "" {
		if e.local, err = readAddr("--to", e.to); err != nil {
			return err
		}
	}
	if e.verdict, err = parseDefault(e.def); err != nil {
		return err
	}
	if e.proc != "" {
		if e.procedure, err = findProcedure(e.proc); err != nil {
			return err
		}
	}
	if e.program != "" {
		if e.daemon, err = daemonOf(e.program); err != nil {
			return err
		}
	}
	if e.daemon == "" {
		e.daemon = policy.Names[0]
	}
	return nil
}

// readAddr reads an address, in brackets or without.
func readAddr(option, s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
	if err != nil {
		return a, &hintError{fmt.Errorf("%s: %q is not an address", option, s), "write one address: 192.0.2.1 or 2001:db8::1"}
	}
	return a.Unmap(), nil
}

// daemons are the names that RPC services ask the files for, where they are
// not those of their programs. Seen in rpcbind 1.2.6, nfs-utils 2.6.2, quota 4.06.
var daemons = map[uint32]string{
	rpcbind.Program: "portmap",
	100003:          "nfsd", 100227: "nfsd",
	100005: "mountd",
	100011: "rquotad",
	100021: "lockd",
	100024: "statd",
}

// daemonOf returns the name of the daemon that serves a program.
func daemonOf(program string) (string, error) {
	number, ok := rpcnames.Number(program)
	if n, err := strconv.ParseUint(program, 10, 32); err == nil {
		number, ok = uint32(n), true
	}
	if !ok {
		return "", &hintError{fmt.Errorf("no RPC program is called %q", program), "/etc/rpc has the names; a number will do too"}
	}
	if name := daemons[number]; name != "" {
		return name, nil
	}
	if name := rpcnames.Name(number); name != "" {
		return name, nil
	}
	return "", &hintError{fmt.Errorf("it is not known which daemon serves program %d", number), "name it with --daemon"}
}

// procedure is what is to be known of one of the port mapper's procedures.
type procedure struct {
	names string // in versions 2, 3 and 4, and the log's
	long  bool   // its reply is longer than the call
	words string // what a network client gets instead of an answer; "" if that

	udp, tcp string // the same in a word
}

const (
	registers = "AUTH_ERROR: only this host may register and unregister, unless serve has --insecure-remote"
	forwards  = "not forwarded, unless serve has --forward: then the calls that it lists"
)

// procedures are RFC 1833's, Sections 2.2.1 and 3.2, by number.
var procedures = [rpcbind.NumProcs]procedure{
	{names: "null"},
	{names: "set", words: registers, udp: authError, tcp: authError},
	{names: "unset", words: registers, udp: authError, tcp: authError},
	{names: "getport getaddr"},
	{names: "dump", long: true},
	{names: "callit bcast", words: forwards, udp: silence, tcp: silence},
	{names: "gettime"},
	{names: "uaddr2taddr"},
	{names: "taddr2uaddr"},
	{names: "getversaddr"},
	{names: "indirect", words: forwards, udp: "system-err", tcp: silence},
	{names: "getaddrlist", long: true},
	{names: "getstat", long: true},
}

func findProcedure(s string) (*procedure, error) {
	var all []string
	for i := range procedures {
		names := strings.Fields(procedures[i].names)
		if slices.Contains(names, strings.ToLower(s)) || s == strconv.Itoa(i) {
			return &procedures[i], nil
		}
		all = append(all, names...)
	}
	return nil, &hintError{fmt.Errorf("the port mapper has no procedure %q", s), "it has " + strings.Join(all, " ")}
}

// explanation is what there is to say.
type explanation struct {
	From    string     `json:"from"`
	Daemon  string     `json:"daemon"`
	Allowed bool       `json:"allowed"`
	Why     string     `json:"why"`
	Rule    *ruleJSON  `json:"rule"`
	UDP     string     `json:"udp,omitempty"`
	TCP     string     `json:"tcp,omitempty"`
	Near    []nearJSON `json:"near"`
	Change  string     `json:"change,omitempty"`  // a command
	Warning string     `json:"warning,omitempty"` // why things are not as they look
	Libwrap *libwrap   `json:"libwrap,omitempty"`

	service   accessfile.Service
	listed    bool
	thisHost  bool
	broken    error
	plan      *accessfile.Plan
	ownAddr   bool
	unchanged string // why no change is proposed
}

type ruleJSON struct {
	File string `json:"file"`
	Line int32  `json:"line"`
	Text string `json:"text"`
}

type nearJSON struct {
	ruleJSON
	Why string `json:"why"`
}

// libwrap is what a service that uses libwrap does.
type libwrap struct {
	Allowed bool      `json:"allowed"`
	Rule    *ruleJSON `json:"rule"`
	same    bool
}

func ruleOf(r *hostsaccess.Rule) *ruleJSON {
	if r == nil {
		return nil
	}
	return &ruleJSON{r.File, r.Pos.Line, ruleText(r)}
}

// What a caller of the port mapper sees.
const (
	answered  = "answer"
	silence   = "silence"
	authError = "auth-error"
)

func (e *explain) run(w io.Writer) error {
	s, err := accessfile.ParseService(e.daemon)
	if err != nil {
		return &usageError{err}
	}
	e.pair = e.files.read()
	for _, f := range []*accessfile.File{e.pair.Allow, e.pair.Deny} {
		if f.Fault != nil && f.State != accessfile.Missing && s.PortMapper() {
			return fmt.Errorf("reading %s: %w", f.Name, f.Fault)
		}
	}
	x := &explanation{From: e.client.String(), Daemon: e.daemon, service: s, Near: []nearJSON{}}
	var d hostsaccess.Decision
	if s.PortMapper() {
		d = e.portMapper(x)
	} else {
		d = e.other(x)
	}
	x.Rule = ruleOf(d.Rule)
	e.near(x, d)
	e.change(x)
	if e.json {
		return writeJSON(w, x)
	}
	_, err = io.WriteString(w, e.words(x))
	return err
}

// portMapper works out what rpcward serve does.
func (e *explain) portMapper(x *explanation) hostsaccess.Decision {
	p, _, err := policy.New(e.pair.Allow.File, e.pair.Deny.File, policy.Options{Default: e.verdict})
	if err != nil {
		x.broken, p = err, policy.BuiltIn()
		x.Warning = "the files are not taken into use: " + shown(err.Error())
	}
	o := &policy.Origin{Source: netip.AddrPortFrom(e.client, 0), Local: netip.AddrPortFrom(e.local, rpcbind.Port)}
	if x.ownAddr = ownAddress(e.client); x.ownAddr {
		o.Channel = policy.Loopback
	}
	d := p.Decide(o)
	x.Allowed, x.Why, x.listed = d.Verdict == policy.Answer, d.Why, d.Listed
	x.thisHost = o.Channel == policy.Loopback
	switch {
	case !x.Allowed:
		x.UDP, x.TCP = silence, authError
	case x.thisHost || e.procedure == nil || e.procedure.words == "":
		x.UDP, x.TCP = answered, answered
	default:
		x.UDP, x.TCP = e.procedure.udp, e.procedure.tcp
	}
	verdict := hostsaccess.Deny
	if x.Allowed {
		verdict = hostsaccess.Allow
	}
	return hostsaccess.Decision{Verdict: verdict, Rule: d.Rule}
}

// ownAddress says whether an address is this host's: packets from there come
// in over the loopback interface, or they are forged.
func ownAddress(a netip.Addr) bool {
	if a.IsLoopback() {
		return true
	}
	list, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(list, func(n net.Addr) bool {
		p, err := netip.ParsePrefix(n.String())
		return err == nil && p.Addr().Unmap().WithZone("") == a.WithZone("")
	})
}

// other works out what the files say to another service, and what libwrap
// makes of them.
func (e *explain) other(x *explanation) hostsaccess.Decision {
	request := func() *hostsaccess.Request {
		return &hostsaccess.Request{
			Daemon: e.daemon, Client: hostsaccess.Endpoint{Addr: netip.AddrPortFrom(e.client, 0)},
			Server: hostsaccess.Endpoint{Addr: netip.AddrPortFrom(e.local, 0)},
		}
	}
	decide := func(m hostsaccess.Mode) hostsaccess.Decision {
		allow, deny := e.pair.Allow.Source(), e.pair.Deny.Source()
		return hostsaccess.NewTables(m, allow, deny, hostsaccess.Environment{ReadFile: accessfile.ReadFile}).Decide(request())
	}
	strict, compat := decide(hostsaccess.Strict), decide(hostsaccess.Compat)
	x.Allowed, x.Why = strict.Verdict != hostsaccess.Deny, strict.Why
	if strict.Verdict == hostsaccess.NoRule {
		x.Why += ": services that use libwrap then let everybody in"
	}
	x.Libwrap = &libwrap{Allowed: compat.Verdict != hostsaccess.Deny, Rule: ruleOf(compat.Rule)}
	x.Libwrap.same = x.Libwrap.Allowed == x.Allowed
	if why := accessfile.WhyIgnored(e.daemon); why != "" {
		x.Warning = e.daemon + " " + why
	}
	return strict
}

// mostNear is how many rules that came close are shown.
const mostNear = 5

func (e *explain) near(x *explanation, d hostsaccess.Decision) {
	if x.thisHost {
		return
	}
	for _, n := range hostsaccess.NearRules(e.pair.Allow.File, e.pair.Deny.File, x.service.Options(), e.client, e.local, d, mostNear) {
		x.Near = append(x.Near, nearJSON{*ruleOf(n.Rule), n.Why})
	}
}

// change proposes how to have it the other way round.
func (e *explain) change(x *explanation) {
	switch {
	case x.thisHost:
		x.unchanged = "this host is always answered: without its own port mapper its services cannot register"
		return
	case x.Warning != "" && x.broken == nil:
		return // the files do not matter
	}
	verb, verdict := "allow", hostsaccess.Allow
	if x.Allowed {
		verb, verdict = "deny", hostsaccess.Deny
	}
	t, err := accessfile.ParseTarget(e.client.WithZone("").String())
	if err == nil {
		x.plan, err = e.pair.Plan(x.service, verdict, []accessfile.Target{t})
	}
	if err != nil {
		x.unchanged = shown(err.Error())
		if hint := hintOf(err); hint != "" {
			x.unchanged += ": " + hint
		}
		return
	}
	x.Change = "rpcward access " + verb + " " + e.daemon + " " + e.client.WithZone("").String()
	if e.files.allow != accessfile.AllowPath || e.files.deny != accessfile.DenyPath {
		x.Change += " --hosts-allow " + e.files.allow + " --hosts-deny " + e.files.deny
	}
}
