package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"strconv"
	"time"

	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/rpcbind/client"
)

// The forms of rpcinfo that call services themselves.

// maxVersions is how many versions of a program are pinged at most: a server
// may claim to have four thousand million.
const maxVersions = 256

// ping is the outcome of one NULL call.
type ping struct {
	Program   uint32 `json:"program"`
	Version   uint32 `json:"version"`
	Available bool   `json:"available"`
	Error     string `json:"error,omitempty"`
}

// pinger pings one program at one place.
type pinger struct {
	r       *rpcinfo
	c       *client.Client
	program uint32
	pings   []ping
}

// pingAll pings the version that versionArg names, or finds out which there
// are and pings them all.
func (r *rpcinfo) pingAll(c *client.Client, program uint32, versionArg []string) error {
	p := &pinger{r: r, c: c, program: program, pings: []ping{}}
	var err error
	if len(versionArg) > 0 {
		var version uint32
		if version, err = versionNumber(versionArg[0]); err == nil {
			err = p.show(version, p.null(version))
		}
	} else {
		err = p.discover()
	}
	if r.json {
		if err := r.report(map[string]any{"pings": p.pings}, nil); err != nil {
			return err
		}
	}
	return err
}

// null calls procedure 0 of a version.
func (p *pinger) null(version uint32) error {
	ctx, cancel := p.r.context(pingTimeout)
	defer cancel()
	return p.c.Ping(ctx, p.program, version)
}

// discover pings each version that the server says it has. No program should
// have version 0, so calling it tells; one that has it is asked for the
// largest number instead.
func (p *pinger) discover() error {
	version := uint32(0)
	err := p.null(version)
	if err == nil {
		version = math.MaxUint32
		if err = p.null(version); err == nil {
			return p.each(0, math.MaxUint32)
		}
	}
	var re *oncrpc.ReplyError
	if errors.As(err, &re) && re.Stat == oncrpc.MsgAccepted && re.Accept == oncrpc.ProgMismatch {
		return p.each(re.Low, re.High)
	}
	return p.show(version, err)
}

func (p *pinger) each(low, high uint32) error {
	var failed error
	for n := uint64(low); n <= uint64(high); n++ {
		if n-uint64(low) == maxVersions {
			p.r.warn(fmt.Sprintf("program %d claims versions %d to %d: only the first %d were called", p.program, low, high, maxVersions))
			return errTold
		}
		if err := p.show(uint32(n), p.null(uint32(n))); err != nil {
			failed = err
		}
	}
	return failed
}

// show prints the outcome of a ping. It returns errTold for a failed one.
func (p *pinger) show(version uint32, err error) error {
	outcome := ping{Program: p.program, Version: version, Available: err == nil}
	if err != nil {
		outcome.Error = callWords(err)
		p.r.warn(outcome.Error)
	}
	p.pings = append(p.pings, outcome)
	switch {
	case p.r.json:
	case err == nil:
		fmt.Fprintf(p.r.stdout, "program %d version %d ready and waiting\n", p.program, version)
	default:
		fmt.Fprintf(p.r.stdout, "program %d version %d is not available\n", p.program, version)
	}
	p.r.stdout.Flush()
	if err != nil {
		return errTold
	}
	return nil
}

// checkVersion refuses a bad version before anything is asked.
func checkVersion(versionArg []string) error {
	if len(versionArg) == 0 {
		return nil
	}
	_, err := versionNumber(versionArg[0])
	return err
}

// pingProgram is rpcinfo -T netid host program [version].
func (r *rpcinfo) pingProgram() error {
	if len(r.args) > 3 || r.netid == "" {
		return errUsage
	}
	program, err := programNumber(r.args[1])
	if err == nil {
		err = checkVersion(r.args[2:])
	}
	if err != nil {
		return err
	}
	netid, known := transport(r.netid)
	if !known {
		return complain("Could not find %s", r.netid)
	}
	version := uint32(0)
	if len(r.args) == 3 {
		version, _ = versionNumber(r.args[2])
	}
	c, err := r.service(netid, r.args[0], program, version)
	if err != nil {
		return &rpcinfoError{text: createWords(err), cause: err}
	}
	defer c.Close()
	return r.pingAll(c, program, r.args[2:])
}

// service associates with a program that the port mapper of host knows.
func (r *rpcinfo) service(netid rpcbind.NetID, host string, program, version uint32) (*client.Client, error) {
	ctx, cancel := r.context(queryTimeout)
	defer cancel()
	var m *client.Client
	var err error
	if netid.IsLocal() {
		m, err = ownMapper(ctx)
	} else {
		m, err = r.dial(netid.String(), host)
	}
	if err != nil {
		return nil, err
	}
	defer m.Close()
	return m.DialService(ctx, program, version)
}

// pingIP is rpcinfo -t and -u.
func (r *rpcinfo) pingIP() error {
	if len(r.args) < 2 || len(r.args) > 3 {
		return errUsage
	}
	program, err := programNumber(r.args[1])
	if err == nil {
		err = checkVersion(r.args[2:])
	}
	if err != nil {
		return err
	}
	version := uint32(0)
	if len(r.args) == 3 {
		version, _ = versionNumber(r.args[2])
	}
	protocol := "tcp"
	if r.form == formUDP {
		protocol = "udp"
	}
	c, err := r.ipService(r.args[0], protocol, program, version)
	if err != nil {
		return err
	}
	defer c.Close()
	return r.pingAll(c, program, r.args[2:])
}

// ipService associates with a program on host over IPv4, or if host has no
// such address IPv6: at the port of -n, or where its port mapper says.
func (r *rpcinfo) ipService(host, protocol string, program, version uint32) (*client.Client, error) {
	c, err := r.ipServiceOver(protocol, host, program, version)
	var dns *net.DNSError
	if errors.As(err, &dns) {
		c, err = r.ipServiceOver(protocol+"6", host, program, version)
	}
	if err != nil {
		return nil, &rpcinfoError{subject: host, text: createWords(err), cause: err}
	}
	return c, nil
}

func (r *rpcinfo) ipServiceOver(netid, host string, program, version uint32) (*client.Client, error) {
	if r.port != 0 {
		return r.dial(netid, net.JoinHostPort(host, strconv.Itoa(int(r.port))))
	}
	return r.service(rpcbind.ParseNetID(netid), host, program, version)
}

// pingAddress is rpcinfo -a.
func (r *rpcinfo) pingAddress() error {
	if r.netid == "" || len(r.args) < 1 || len(r.args) > 2 {
		return errUsage
	}
	netid, known := transport(r.netid)
	if !known {
		return complain("Could not find %s", r.netid)
	}
	program, err := programNumber(r.args[0])
	if err == nil {
		err = checkVersion(r.args[1:])
	}
	if err != nil {
		return err
	}
	ctx, cancel := r.context(connectTimeout)
	defer cancel()
	c, err := client.Dialer{}.DialUAddr(ctx, netid, r.uaddr)
	var addr *net.AddrError
	switch {
	case errors.As(err, &addr):
		return complain("rpcinfo: no address for client handle")
	case err != nil:
		return &rpcinfoError{text: createWords(err), cause: err}
	}
	defer c.Close()
	return r.pingAll(c, program, r.args[1:])
}

// answer is a line of rpcinfo -b.
type answer struct {
	Address string `json:"address"`
	Host    string `json:"host"`
}

// Reverse look-ups of -b: a network of strangers must not be able to make us
// wait, or fill our memory.
const (
	reverseTimeout = time.Second
	maxAnswers     = 1 << 16
)

// broadcast is rpcinfo -b. Services that answer both versions of the call, or
// the call sent again, are shown once.
func (r *rpcinfo) broadcast() error {
	if len(r.args) != 2 {
		return errUsage
	}
	program, version, err := programAndVersion(r.args[0], r.args[1])
	if err != nil {
		return err
	}
	ctx, cancel := r.context(broadcastTimeout)
	defer cancel()
	answers := []answer{}
	seen := map[answer]bool{}
	for a, err := range client.Broadcast(ctx, &rpcbind.RemoteCall{Program: program, Version: version}) {
		if err != nil {
			return &rpcinfoError{text: "broadcast failed: RPC: Unknown protocol", cause: err}
		}
		key := answer{cell(a.UAddr), a.From.Addr().String()}
		if seen[key] || len(seen) == maxAnswers {
			continue
		}
		seen[key] = true
		shown := answer{a.UAddr, hostName(a.From.Addr())}
		answers = append(answers, shown)
		if !r.json {
			fmt.Fprintf(r.stdout, "%s\t%s\n", uaddrCell(shown.Address), cell(shown.Host))
			r.stdout.Flush()
		}
	}
	if !r.json {
		return nil
	}
	return r.report(map[string]any{"answers": answers}, func(io.Writer) {})
}

// uaddrCell shows a universal address, "unknown" if it is none.
func uaddrCell(s string) string {
	if _, ok := rpcbind.ParseUAddr([]byte(s)); !ok {
		return "unknown"
	}
	return cell(s)
}

// hostName returns addr's name, or addr if it has none, or "unknown" if nobody
// can tell, as getnameinfo(3) does.
func hostName(addr netip.Addr) string {
	ctx, cancel := context.WithTimeout(context.Background(), reverseTimeout)
	defer cancel()
	names, err := net.DefaultResolver.LookupAddr(ctx, addr.WithZone("").String())
	var dns *net.DNSError
	switch {
	case err == nil && len(names) > 0:
		return trimDot(names[0])
	case errors.As(err, &dns) && dns.IsNotFound:
		return addr.String()
	}
	return "unknown"
}

func trimDot(name string) string {
	if n := len(name); n > 0 && name[n-1] == '.' {
		return name[:n-1]
	}
	return name
}
