package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/test/lab"
	"rpcward/test/load"
)

// The server has one core to itself, the clients have the other.
const (
	serverCore = "0"
	clientCore = "1"
)

// bed is one server and its network, where it is put under load.
type bed struct {
	*lab.Net
	t       testing.TB
	name    string
	command []string
	proc    *lab.Process
	echo    bool // it answers anything, and knows no rules
}

// tools are the programs that the bench builds, once.
type tools struct{ load, echo string }

// toolsDir is where they are, empty before they are built.
var toolsDir string

var buildTools = sync.OnceValues(func() (tools, error) {
	dir, err := os.MkdirTemp("", "rpcward-bench")
	if err != nil {
		return tools{}, err
	}
	toolsDir = dir
	built := tools{filepath.Join(dir, "rpcload"), filepath.Join(dir, "echo")}
	for _, command := range [][]string{
		{"go", "build", "-o", built.load, "rpcward/test/load/rpcload"},
		{"gcc", "-O2", "-o", built.echo, "../testdata/echo.c"},
	} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			return tools{}, fmt.Errorf("%s: %w\n%s", strings.Join(command, " "), err, out)
		}
	}
	return built, nil
})

func toolsOf(t testing.TB) tools {
	t.Helper()
	lab.NeedCommand(t, "go", "gcc", "taskset", "prlimit")
	built, err := buildTools()
	if err != nil {
		t.Fatal(err)
	}
	return built
}

func newBed(t testing.TB, name string, command ...string) *bed {
	t.Helper()
	b := &bed{t: t, name: name, command: command, Net: lab.NewNet(t)}
	// Answers to spoofed addresses need a way, or the kernel drops the packets.
	b.Server.MustRun("ip", "route", "add", "default", "via", lab.StrangerIP.String())
	return b
}

// rpcbindBed, rpcwardBed and the echoes are the servers that are compared.
func rpcbindBed(t testing.TB) *bed {
	return newBed(t, "rpcbind", lab.Stock(t).Path, "-f", "-w")
}

func rpcwardBed(t testing.TB) *bed {
	program := lab.Rpcward(t).Toolbox()
	command := append([]string{program, "serve"}, unlimited(t, program)...)
	return newBed(t, "rpcward", append(command, strings.Fields(*serverArgs)...)...)
}

// unlimited is the option that takes the limit from the rate of listed clients,
// if there is one: the bench asks from one address what many hosts would.
func unlimited(t testing.TB, program string) []string {
	t.Helper()
	help, err := exec.Command(program, "serve", "--help").Output()
	if err != nil {
		t.Fatalf("%s serve --help: %v", program, err)
	}
	if strings.Contains(string(help), "--rate-listed ") {
		return []string{"--rate-listed", "0"}
	}
	return nil
}

func echoBed(t testing.TB) *bed {
	b := newBed(t, "echo", toolsOf(t).echo, "111", "28", insideNetwork)
	b.echo = true
	return b
}

// insideNetwork is the first address of the network that servers are open to.
const insideNetwork = "10.99.0.0"

func goEchoBed(t testing.TB) *bed {
	b := newBed(t, "Go echo", toolsOf(t).load, "echo", "-port", "111", "-size", "28")
	b.echo = true
	return b
}

// setting is what a server is started with.
type setting struct {
	rules         int // that match nobody, before the one that matches the client
	registrations int
	descriptors   int // 0 for many
}

// manyDescriptors is what servers and clients get: 65,536, or what the machine
// lets us give. rpcward lets network clients have half of it.
var manyDescriptors = sync.OnceValue(func() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 1024
	}
	return int(min(limit.Max, 1<<16))
})

// limits is the prefix of a command that runs on a core with so many descriptors.
func limits(descriptors int, core string) []string {
	return []string{fmt.Sprintf("--nofile=%d:%[1]d", descriptors), "taskset", "-c", core}
}

// start ends the server, if it runs, and starts it with a setting.
func (b *bed) start(s setting) {
	b.t.Helper()
	b.stop(syscall.SIGKILL)
	b.writeRules(s.rules)
	b.seed(s.registrations)
	b.startAgain(s)
}

// startAgain starts the server with the files that are there.
func (b *bed) startAgain(s setting) {
	b.t.Helper()
	if s.descriptors == 0 {
		s.descriptors = manyDescriptors()
	}
	b.proc = b.Server.Start("prlimit", append(limits(s.descriptors, serverCore), b.command...)...)
	b.proc.Name = b.name
	lab.Eventually(b.t, b.name+" answering", b.ask)
}

// ask reports whether the server answers a call of its own host.
func (b *bed) ask() error {
	conn, err := b.Server.Dial("udp", "127.0.0.1:111")
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = lab.Call(conn, oncrpc.Call{Program: rpcbind.Program, Version: 2}, 50*time.Millisecond)
	return err
}

func (b *bed) stop(sig syscall.Signal) {
	b.t.Helper()
	if b.proc != nil {
		b.proc.Stop(sig)
	}
	b.proc = nil
}

// writeRules writes the policy: n rules about others, in hosts.allow where both
// servers read them before the one that opens the port mapper to the inside.
// rpcbind applies its rules to loopback addresses too.
func (b *bed) writeRules(n int) {
	var allow strings.Builder
	for i := range n {
		fmt.Fprintf(&allow, "rpcbind: 172.%d.%d.0/255.255.255.0\n", 16+i>>8, i&255)
	}
	allow.WriteString("rpcbind: " + insideNetwork + "/255.255.255.0 127.0.0.1")
	b.Server.Allow(allow.String())
	b.Server.Deny("rpcbind: ALL")
}

// seed replaces what the server has saved by n registrations, in the form that
// rpcbind leaves at a clean exit and that both take over: the registry of a host
// that was migrated.
func (b *bed) seed(n int) {
	b.t.Helper()
	var list, mappings []byte
	for i := range n {
		r := load.Registration(i)
		m := r.RPCB()
		list = rpcbind.AppendRPCB(rpcbind.AppendMore(list, true), &m)
		mappings = rpcbind.AppendMapping(rpcbind.AppendMore(mappings, true), r.Mapping())
	}
	err := b.Server.Do(func() error {
		if err := os.RemoveAll("/run/rpcward"); err != nil {
			return err
		}
		for path, data := range map[string][]byte{"rpcbind.xdr": list, "portmap.xdr": mappings} {
			if err := writeAsRPC("/run/rpcbind/"+path, rpcbind.AppendMore(data, false)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.t.Fatalf("saving %d registrations: %v", n, err)
	}
}

func writeAsRPC(path string, data []byte) error {
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return err
	}
	u, err := user.Lookup("_rpc")
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	return os.Chown(path, uid, -1)
}

// place is where a client asks from, and what it asks.
type place struct {
	name string
	host func(*bed) *lab.Host
	addr netip.Addr
}

var (
	overVeth     = place{"veth", func(b *bed) *lab.Host { return b.Inside }, lab.ServerIP}
	overLoopback = place{"loopback", func(b *bed) *lab.Host { return b.Server }, netip.MustParseAddr("127.0.0.1")}
)

// run runs rpcload on a host and reads its result into result.
func (b *bed) run(h *lab.Host, result any, args ...string) {
	b.t.Helper()
	b.read(b.begin(h, args...), result)
}

// begin starts rpcload on the clients' core.
func (b *bed) begin(h *lab.Host, args ...string) *client {
	program := append(append(limits(manyDescriptors(), clientCore), toolsOf(b.t).load), args...)
	c := &client{done: make(chan error, 1)}
	cmd := h.Command(context.Background(), "prlimit", program...)
	cmd.Stdout, cmd.Stderr = &c.out, &c.log
	if err := h.Do(cmd.Start); err != nil {
		c.done <- err
		return c
	}
	go func() { c.done <- cmd.Wait() }()
	return c
}

// client is a rpcload at work. It ends by itself: all loads are bounded.
type client struct {
	out  bytes.Buffer // to be read when it has ended
	log  safeBuffer
	done chan error
}

// safeBuffer is what a program writes while we read it.
type safeBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// read waits for rpcload's end and reads its result.
func (b *bed) read(c *client, result any) {
	b.t.Helper()
	if err := c.read(result); err != nil {
		b.t.Fatalf("%s: %v", b.name, err)
	}
}

func (c *client) read(result any) error {
	if err := <-c.done; err != nil {
		return fmt.Errorf("rpcload: %w\n%s", err, c.log.String())
	}
	return json.Unmarshal(c.out.Bytes(), result)
}

// lookups is a load of look-ups.
type lookups struct {
	from          place
	version       int
	tcp           bool
	window        int
	rate          float64
	registrations int
	warmup, time  time.Duration
	timeout       time.Duration // after which a call is lost and another one sent; 0 for a second
}

// look makes look-ups. A wrong reply ends the bench.
func (b *bed) look(l lookups) load.Result {
	b.t.Helper()
	for {
		r, err := b.tryLook(l)
		if err != nil {
			b.t.Fatal(err)
		}
		if r.Answered > 0 || *mode != "smoke" {
			return r
		}
		// A busy machine may answer nothing in so short a time.
		if l.time *= 2; l.time > patience {
			b.t.Fatalf("%s answers nothing of %+v", b.name, l)
		}
	}
}

// tryLook is look for a server that may be killed meanwhile.
func (b *bed) tryLook(l lookups) (load.Result, error) {
	var r load.Result
	err := b.begin(l.from.host(b), b.lookArgs(l)...).read(&r)
	if err == nil && r.Wrong > 0 {
		err = fmt.Errorf("%s gave %d wrong replies to %+v", b.name, r.Wrong, l)
	}
	return r, err
}

func (b *bed) lookArgs(l lookups) []string {
	if l.timeout == 0 {
		l.timeout = time.Second
	}
	return []string{
		"lookup", "-addr", netip.AddrPortFrom(l.from.addr, rpcbind.Port).String(), "-version", strconv.Itoa(l.version),
		"-window", strconv.Itoa(l.window), "-rate", fmt.Sprint(l.rate), "-time", l.time.String(), "-warmup", l.warmup.String(), "-timeout", l.timeout.String(), "-count", strconv.Itoa(l.registrations),
		fmt.Sprintf("-unchecked=%t", b.echo), fmt.Sprintf("-tcp=%t", l.tcp),
	}
}

// status reads a field of the server's /proc/PID/status in kB, proc(5).
func (b *bed) status(field string) int {
	b.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.proc.PID()))
	if err != nil {
		b.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), field+":")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		b.t.Fatal(err)
	}
	return n
}

// busy is the processor time that the server has used, from /proc/PID/stat.
func (b *bed) busy() time.Duration {
	b.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", b.proc.PID()))
	if err != nil {
		b.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	f := strings.Fields(rest) // from the third field on
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * (time.Second / 100) // USER_HZ is 100 wherever Linux runs
}

// first puts the bench before other work of the machine, for as long as it
// runs: sched(7), "The autogroup feature". Without the feature or the right to
// do so, figures are just noisier.
func first(t testing.TB) {
	const file = "/proc/self/autogroup"
	if os.WriteFile(file, []byte("-19"), 0) == nil {
		t.Cleanup(func() { os.WriteFile(file, []byte("0"), 0) })
	}
}
