package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"rpcward/internal/rpcnames"
	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/rpcbind/client"
)

// The forms of rpcinfo that ask a port mapper and print its answer.

// Texts that go before the reason. That of a failed call ends in a colon of
// its own, so that two are printed; scripts have been written for that.
const (
	noRpcbind     = "can't contact rpcbind"
	noRpcbindCall = "can't contact rpcbind: "
	noPortmapper  = "can't contact portmapper"
)

const nothingRegistered = "No remote programs registered.\n"

func createError(what string, err error) error {
	return &rpcinfoError{text: what + ": " + createWords(err), cause: err}
}

func callError(what string, err error) error {
	return &rpcinfoError{text: what + ": " + callWords(err), cause: err}
}

// mapper associates with the port mapper of host, or of this host.
func (r *rpcinfo) mapper(hosts []string) (*client.Client, error) {
	var c *client.Client
	var err error
	switch {
	case len(hosts) == 0:
		c, err = r.dial("local", "")
	case r.netid == "" || r.form == formStat:
		c, err = r.anyMapper(hosts[0])
	default:
		netid, known := transport(r.netid)
		if !known {
			return nil, complain("invalid transport: Netid not found in netconfig database")
		}
		if netid.IsLocal() {
			return nil, createError(noRpcbind, &net.DNSError{Err: "a path has no host", IsNotFound: true})
		}
		c, err = r.dial(r.netid, hosts[0])
	}
	var dns *net.DNSError
	if errors.As(err, &dns) && r.netid == "" {
		return nil, &rpcinfoError{text: noRpcbind + ": " + unknownCode, cause: err}
	}
	if err != nil {
		return nil, createError(noRpcbind, err)
	}
	return c, nil
}

// transport returns the netid of that name if this program can use it.
func transport(name string) (rpcbind.NetID, bool) {
	netid := rpcbind.ParseNetID(name)
	switch netid {
	case rpcbind.TCP, rpcbind.UDP, rpcbind.TCP6, rpcbind.UDP6, rpcbind.Local, rpcbind.UnixID:
		return netid, netid.String() == name
	}
	return rpcbind.NoNetID, false
}

// anyMapper asks over TCP, or if that can't be had over UDP, the first address
// of host. Silence over both is found out by the call.
func (r *rpcinfo) anyMapper(host string) (*client.Client, error) {
	ctx, cancel := r.context(connectTimeout)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	addr := addrs[0].Unmap()
	tcp, udp := "tcp", "udp"
	if addr.Is6() {
		tcp, udp = "tcp6", "udp6"
	}
	c, err := client.Dial(ctx, tcp, addr.String())
	if err == nil {
		return c, nil
	}
	return r.dial(udp, addr.String())
}

// registration is a line of rpcinfo, and of its JSON.
type registration struct {
	Program uint32 `json:"program"`
	Version uint32 `json:"version"`
	NetID   string `json:"netid"`
	Address string `json:"address"`
	Service string `json:"service"`
	Owner   string `json:"owner"`
}

// dump is rpcinfo, and rpcinfo -s.
func (r *rpcinfo) dump() error {
	if len(r.args) > 1 {
		return errUsage
	}
	c, err := r.mapper(r.args)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := r.context(queryTimeout)
	defer cancel()
	list, err := dumpAny(ctx, c)
	if err != nil {
		return callError(noRpcbindCall, err)
	}
	if r.form == formShort {
		programs := summarize(list)
		return r.report(map[string]any{"programs": programs}, func(w io.Writer) { writePrograms(w, programs) })
	}
	return r.report(map[string]any{"registrations": list}, func(w io.Writer) { writeRegistrations(w, list) })
}

// dumpAny asks version 3, and another one if the server has that only.
func dumpAny(ctx context.Context, c *client.Client) ([]registration, error) {
	list, err := c.Dump(ctx, rpcbind.Version3)
	var re *oncrpc.ReplyError
	if errors.As(err, &re) && re.Stat == oncrpc.MsgAccepted && re.Accept == oncrpc.ProgMismatch {
		switch {
		case re.Low == rpcbind.Version4:
			list, err = c.Dump(ctx, rpcbind.Version4)
		case re.High == rpcbind.Version2:
			return dumpOld(ctx, c)
		}
	}
	if err != nil {
		return nil, err
	}
	regs := make([]registration, len(list))
	for i, m := range list {
		regs[i] = registration{m.Program, m.Version, m.NetID, m.Addr, rpcnames.Name(m.Program), m.Owner}
	}
	return regs, nil
}

// dumpOld shows a portmap's mappings as registrations.
func dumpOld(ctx context.Context, c *client.Client) ([]registration, error) {
	list, err := c.DumpMappings(ctx)
	if err != nil {
		return nil, err
	}
	regs := make([]registration, len(list))
	for i, m := range list {
		addr := fmt.Sprintf("0.0.0.0.%d.%d", m.Port>>8&0xff, m.Port&0xff)
		regs[i] = registration{m.Program, m.Version, protName(m.Prot), addr, rpcnames.Name(m.Program), "unknown"}
	}
	return regs, nil
}

// protName names an IP protocol, by its number if it is neither TCP nor UDP.
func protName(prot uint32) string {
	if netid := rpcbind.FromProt(prot); netid != rpcbind.NoNetID {
		return netid.String()
	}
	return strconv.FormatUint(uint64(prot), 10)
}

func writeRegistrations(w io.Writer, list []registration) {
	if len(list) == 0 {
		io.WriteString(w, nothingRegistered)
		return
	}
	fmt.Fprintln(w, "   program version netid     address                service    owner")
	for _, m := range list {
		fmt.Fprintf(w, "%10d%5d    %-9s %-22s %-10s %s\n",
			m.Program, m.Version, cell(m.NetID), cell(m.Address), nameOr(m.Program, "-"), cell(m.Owner))
	}
}

// programSummary is a line of rpcinfo -s.
type programSummary struct {
	Program  uint32   `json:"program"`
	Versions []uint32 `json:"versions"`
	NetIDs   []string `json:"netids"`
	Service  string   `json:"service"`
	Owner    string   `json:"owner"`
}

// summarize joins the registrations of each program; what came last stands
// first in its lists.
func summarize(list []registration) []*programSummary {
	programs := []*programSummary{}
	byNumber := map[uint32]*programSummary{}
	type version struct{ program, version uint32 }
	type netid struct {
		program uint32
		netid   string
	}
	seenVersion, seenNetID := map[version]bool{}, map[netid]bool{}
	for _, m := range list {
		p := byNumber[m.Program]
		if p == nil {
			p = &programSummary{Program: m.Program, Service: m.Service, Owner: m.Owner}
			byNumber[m.Program] = p
			programs = append(programs, p)
		}
		if v := (version{m.Program, m.Version}); !seenVersion[v] {
			seenVersion[v] = true
			p.Versions = append(p.Versions, m.Version)
		}
		if n := (netid{m.Program, m.NetID}); !seenNetID[n] {
			seenNetID[n] = true
			p.NetIDs = append(p.NetIDs, m.NetID)
		}
	}
	for _, p := range programs {
		slices.Reverse(p.Versions)
		slices.Reverse(p.NetIDs)
	}
	return programs
}

func writePrograms(w io.Writer, programs []*programSummary) {
	if len(programs) == 0 {
		io.WriteString(w, nothingRegistered)
		return
	}
	fmt.Fprintln(w, "   program version(s) netid(s)                         service     owner")
	for _, p := range programs {
		versions := join(p.Versions, func(v uint32) string { return strconv.FormatUint(uint64(v), 10) })
		fmt.Fprintf(w, "%10d  %-10s%-32s %-11s %s\n",
			p.Program, versions, join(p.NetIDs, cell), nameOr(p.Program, "-"), cell(p.Owner))
	}
}

// join lists items behind commas, as many as fit a line of sane length.
func join[T any](items []T, text func(T) string) string {
	var b strings.Builder
	for i, item := range items {
		if i > 0 {
			b.WriteByte(',')
		}
		if b.Len() > 2*maxCell {
			b.WriteString("...")
			break
		}
		b.WriteString(text(item))
	}
	return b.String()
}

// mapping is a line of rpcinfo -p.
type mapping struct {
	Program  uint32 `json:"program"`
	Version  uint32 `json:"version"`
	Protocol string `json:"protocol"`
	Port     uint32 `json:"port"`
	Service  string `json:"service"`
}

// dumpPortmap is rpcinfo -p.
func (r *rpcinfo) dumpPortmap() error {
	if len(r.args) > 1 || r.port != 0 {
		return errUsage
	}
	c, err := r.portmapper()
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := r.context(queryTimeout)
	defer cancel()
	list, err := c.DumpMappings(ctx)
	var re *oncrpc.ReplyError
	if errors.As(err, &re) && re.Accept == oncrpc.ProgMismatch && re.Low > rpcbind.Version2 && len(r.args) > 0 {
		return &rpcinfoError{subject: r.args[0] + " does not support portmapper.  Try rpcinfo " + r.args[0] + " instead", cause: err}
	}
	if err != nil {
		return callError(noPortmapper, err)
	}
	mappings := make([]mapping, len(list))
	for i, m := range list {
		mappings[i] = mapping{m.Program, m.Version, protName(m.Prot), m.Port, rpcnames.Name(m.Program)}
	}
	return r.report(map[string]any{"mappings": mappings}, func(w io.Writer) { writeMappings(w, mappings) })
}

// portmapper associates with the version 2 that is to be dumped: on another
// host with the one whose address the port mapper tells, over TCP.
func (r *rpcinfo) portmapper() (*client.Client, error) {
	if len(r.args) > 0 {
		return r.ipService(r.args[0], "tcp", rpcbind.Program, rpcbind.Version2)
	}
	c, err := r.dial("local", "")
	if err != nil {
		return nil, createError(noPortmapper, err)
	}
	return c, nil
}

func writeMappings(w io.Writer, list []mapping) {
	if len(list) == 0 {
		io.WriteString(w, nothingRegistered)
		return
	}
	fmt.Fprintln(w, "   program vers proto   port  service")
	for _, m := range list {
		name := nameOr(m.Program, "")
		if name != "" {
			name = "  " + name
		}
		fmt.Fprintf(w, "%10d%5d%6s%7d%s\n", m.Program, m.Version, m.Protocol, m.Port, name)
	}
}

// address is a line of rpcinfo -l.
type address struct {
	Program   uint32 `json:"program"`
	Version   uint32 `json:"version"`
	NetID     string `json:"netid"`
	Family    string `json:"family"`
	Protocol  string `json:"protocol"`
	Semantics string `json:"semantics"`
	Address   string `json:"address"`
	Service   string `json:"service"`
}

// addressList is rpcinfo -l.
func (r *rpcinfo) addressList() error {
	if len(r.args) != 3 {
		return errUsage
	}
	c, err := r.mapper(r.args)
	if err != nil {
		return err
	}
	defer c.Close()
	program, version, err := programAndVersion(r.args[1], r.args[2])
	if err != nil {
		return err
	}
	ctx, cancel := r.context(queryTimeout)
	defer cancel()
	entries, err := c.GetAddrList(ctx, &rpcbind.RPCB[string]{
		Program: program, Version: version, NetID: c.NetID().String(), Addr: c.UAddr(),
	})
	if err != nil {
		return callError(noRpcbindCall, err)
	}
	list := make([]address, len(entries))
	for i, e := range entries {
		list[i] = address{
			program, version, e.NetID, e.Family, e.Protocol, semanticsName(e.Semantics),
			e.Addr, rpcnames.Name(program),
		}
	}
	return r.report(map[string]any{"addresses": list}, func(w io.Writer) { writeAddresses(w, list) })
}

func semanticsName(semantics uint32) string {
	switch semantics {
	case rpcbind.SemanticsConnectionless:
		return "clts"
	case rpcbind.SemanticsConnection:
		return "cots"
	}
	return "cots_ord"
}

func writeAddresses(w io.Writer, list []address) {
	if len(list) == 0 {
		io.WriteString(w, nothingRegistered)
		return
	}
	fmt.Fprint(w, "   program vers  tp_family/name/class    address\t\t  service\n")
	for _, a := range list {
		class := cell(a.Family) + "/" + cell(a.Protocol) + "/" + a.Semantics + " "
		fmt.Fprintf(w, "%10d%3d    %-24s%-24s %-13s\n", a.Program, a.Version, class, cell(a.Address), nameOr(a.Program, "-"))
	}
}

// unregister is rpcinfo -d. Only the owner of a registration may, so it goes
// over the unix socket, which tells the port mapper who we are; a host without
// one is asked over loopback from a port that shows root.
func (r *rpcinfo) unregister() error {
	if len(r.args) != 2 {
		return errUsage
	}
	if r.netid != "" {
		if _, known := transport(r.netid); !known {
			return complain("netid %s not supported", r.netid)
		}
	}
	program, version, err := programAndVersion(r.args[0], r.args[1])
	if err != nil {
		return err
	}
	ctx, cancel := r.context(queryTimeout)
	defer cancel()
	c, err := ownMapper(ctx)
	done := false
	if err == nil {
		defer c.Close()
		done, err = c.Unset(ctx, rpcbind.Version3, &rpcbind.RPCB[string]{
			Program: program, Version: version, NetID: r.netid, Owner: strconv.Itoa(os.Geteuid()),
		})
	}
	if !done {
		return &rpcinfoError{
			text:  "Could not delete registration for prog " + r.args[0] + " version " + r.args[1],
			cause: err,
		}
	}
	return r.report(map[string]any{"program": program, "version": version, "netid": r.netid, "deleted": true}, func(io.Writer) {})
}

// ownMapper associates with this host's port mapper so that it knows the caller.
func ownMapper(ctx context.Context) (*client.Client, error) {
	c, err := client.Dial(ctx, "local", "")
	if err == nil {
		return c, nil
	}
	for _, try := range [][2]string{{"tcp", "127.0.0.1"}, {"tcp6", "::1"}} {
		c, err = client.Dialer{ReservedPort: true}.Dial(ctx, try[0], try[1])
		if err == nil {
			return c, nil
		}
	}
	return nil, err
}
