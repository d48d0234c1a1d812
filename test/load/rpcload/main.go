// Command rpcload puts a port mapper under load, and prints what became of the
// calls as JSON. It works from the network namespace that it is started in.
//
//	rpcload lookup -addr 10.99.0.1:111 -window 128            # closed loop
//	rpcload lookup -addr 10.99.0.1:111 -rate 10000            # open loop
//	rpcload set -unix /run/rpcbind.sock -connections 8
//	rpcload dump -addr 10.99.0.1:111
//	rpcload flood -addr 10.98.0.1:111 -kind spoofed -rate 400000
//	rpcload crowd -addr 10.99.0.1:111 -idle 20000 -from 10.99.0.101+64
//	rpcload echo -port 111
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"rpcward/test/load"
)

func main() {
	commands := map[string]func(args []string) (any, error){
		"lookup": lookup, "set": set, "dump": dump, "flood": flood, "crowd": crowd, "echo": echo,
	}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: rpcload lookup|set|dump|flood|crowd|echo [options]; -h lists them")
		os.Exit(2)
	}
	result, err := commands[os.Args[1]](os.Args[2:])
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(result)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "rpcload %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

// options declares what all commands share. The address is read by parse.
type options struct {
	*flag.FlagSet
	addr, path *string
	time       *time.Duration
}

func newOptions(name string, seconds time.Duration) options {
	f := flag.NewFlagSet("rpcload "+name, flag.ExitOnError)
	return options{
		f, f.String("addr", "127.0.0.1:111", "`ADDRESS:PORT` of the server"),
		f.String("unix", "", "`PATH` of the server's unix socket, instead of an address"),
		f.Duration("time", seconds*time.Second, "how long"),
	}
}

func (o options) plan(args []string) (load.Plan, error) {
	o.Parse(args)
	p := load.Plan{Network: "tcp", Path: *o.path, Time: *o.time}
	if p.Path != "" {
		p.Network = "unix"
	}
	var err error
	p.Addr, err = netip.ParseAddrPort(*o.addr)
	return p, err
}

func lookup(args []string) (any, error) {
	o := newOptions("lookup", 1)
	version := o.Int("version", 2, "2 asks GETPORT, 4 asks GETADDR")
	tcp := o.Bool("tcp", false, "over TCP")
	window := o.Int("window", 128, "calls under way per socket")
	sockets := o.Int("sockets", 1, "sockets, each with a thread")
	rate := o.Float64("rate", 0, "calls per `SECOND`, whatever the server does; 0 for as many as it answers")
	first := o.Int("first", 0, "the first registration to ask for; see load.Registration")
	count := o.Int("count", 16, "the number of registrations, of which 1024 are asked for")
	unchecked := o.Bool("unchecked", false, "take any reply: the server is an echo")
	warmup := o.Duration("warmup", 100*time.Millisecond, "how long before it counts")
	timeout := o.Duration("timeout", time.Second, "after which a call is lost")
	p, err := o.plan(args)
	if err != nil {
		return nil, err
	}
	if !*tcp && p.Network == "tcp" {
		p.Network = "udp"
	}
	p.Window, p.Sockets, p.Rate, p.Warmup, p.Timeout = *window, *sockets, *rate, *warmup, *timeout
	questions := ask(*version, p.Network == "udp", *first, *count, p.Addr.Addr())
	for i := range questions {
		if *unchecked {
			questions[i].Want = nil
		}
	}
	p.Asker = func(int) load.Asker { return &load.Rotation{Questions: questions} }
	return load.Run(p)
}

// maxQuestions bounds how many registrations are asked for.
const maxQuestions = 1024

// ask picks from count registrations those that are asked for, of one transport.
func ask(version int, udp bool, first, count int, server netip.Addr) []load.Question {
	rng := rand.New(rand.NewPCG(1, 2))
	var list []load.Question
	for range min(maxQuestions, max(count/2, 1)) {
		r := load.Registration(first + rng.IntN(max(count/2, 1))*2)
		if !udp {
			r++
		}
		if version == 2 {
			list = append(list, load.GetPort(r))
		} else {
			list = append(list, load.GetAddr(r, server))
		}
	}
	return list
}

func set(args []string) (any, error) {
	o := newOptions("set", 1)
	connections := o.Int("connections", 1, "connections")
	window := o.Int("window", 1, "calls under way per connection")
	first := o.Int("first", 0, "the first registration to make")
	count := o.Int("count", 0, "registrations to make, all within -time; 0 for as many as there is time for")
	p, err := o.plan(args)
	if err != nil {
		return nil, err
	}
	p.Window, p.Sockets, p.Timeout = *window, *connections, 10*time.Second
	p.Count = uint64(*count / *connections)
	p.Asker = func(i int) load.Asker {
		return &load.Sets{From: load.Registration(*first + i), Step: load.Registration(*connections)}
	}
	return load.Run(p)
}

func dump(args []string) (any, error) {
	p, err := newOptions("dump", 10).plan(args)
	if err != nil {
		return nil, err
	}
	p.Timeout = p.Time
	list, _, err := load.ListOnce(p)
	return list, err
}

func flood(args []string) (any, error) {
	o := newOptions("flood", 1)
	kind := o.String("kind", string(load.Calls), fmt.Sprint("one of ", load.Kinds))
	rate := o.Float64("rate", 0, "packets or connections per `SECOND`; 0 for as fast as one core sends")
	prefixes := o.Int("prefixes", 100_000, "networks that spoofed and half-open come from")
	p, err := o.plan(args)
	if err != nil {
		return nil, err
	}
	return load.Flood{Kind: load.Kind(*kind), Addr: p.Addr, Rate: *rate, Time: p.Time, Prefixes: *prefixes}.Run()
}

func crowd(args []string) (any, error) {
	o := newOptions("crowd", 5)
	var c load.Crowd
	o.IntVar(&c.Idle, "idle", 1000, "connections that make one call")
	o.IntVar(&c.Readers, "readers", 0, "connections that ask for the list and don't read it")
	o.IntVar(&c.Writers, "writers", 0, "connections that send a byte a second")
	o.DurationVar(&c.Hurry, "hurry", 20*time.Second, "after which no more connections are tried")
	from := o.String("from", "", "our addresses, `FIRST+COUNT`")
	p, err := o.plan(args)
	if err != nil {
		return nil, err
	}
	if c.From, err = addresses(*from); err != nil {
		return nil, err
	}
	c.Addr, c.Time = p.Addr, p.Time
	c.Ready = func() { fmt.Fprintln(os.Stderr, "ready") }
	return c.Run()
}

// addresses reads FIRST+COUNT.
func addresses(s string) ([]netip.Addr, error) {
	if s == "" {
		return nil, nil
	}
	first, count, _ := strings.Cut(s, "+")
	addr, err := netip.ParseAddr(first)
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(count)
	if err != nil {
		return nil, fmt.Errorf("-from %q: write FIRST+COUNT", s)
	}
	var list []netip.Addr
	for ; n > 0; n-- {
		list = append(list, addr)
		addr = addr.Next()
	}
	return list, nil
}

func echo(args []string) (any, error) {
	o := newOptions("echo", 0)
	port := o.Uint("port", 111, "UDP port")
	size := o.Int("size", 28, "of a reply in bytes")
	o.Parse(args)
	return nil, load.Echo(uint16(*port), *size)
}
