// Package libwrap compares hostsaccess with Debian's real libwrap.
package libwrap

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// wrapped are the functions of libc and libwrap that testdata/driver.c stands in for.
var wrapped = []string{"fopen", "stat", "__syslog_chk", "__vsyslog_chk", "shell_cmd", "fork", "wait", "close", "dup", "execl",
	"sleep", "exit", "clean_exit", "umask", "nice", "setenv", "setsockopt", "write", "setuid", "setgid", "setgroups", "initgroups",
	"getpwnam", "getgrnam", "innetgr", "yp_get_default_domain"}

// buildDriver compiles the driver against libwrap0-dev.
func buildDriver(t testing.TB) string {
	t.Helper()
	const library = "/usr/include/tcpd.h"
	if _, err := os.Stat(library); err != nil {
		if os.Getenv("RPCWARD_TEST_REQUIRED") != "" {
			t.Fatal("needs Debian's libwrap0-dev")
		}
		t.Skip("needs Debian's libwrap0-dev")
	}
	path := filepath.Join(t.TempDir(), "driver")
	args := []string{"-O2", "-o", path, "testdata/driver.c"}
	for _, f := range wrapped {
		args = append(args, "-Wl,--wrap="+f)
	}
	if out, err := exec.Command("gcc", append(args, "-l:libwrap.a")...).CombinedOutput(); err != nil {
		t.Fatalf("building the driver: %v\n%s", err, out)
	}
	return path
}

// driver is the real libwrap in a process of its own.
type driver struct {
	out *bufio.Writer
	in  *bufio.Reader
}

func startDriver(t testing.TB, path string, args ...string) *driver {
	t.Helper()
	cmd := exec.Command(path, args...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		out.Close()
		io.Copy(io.Discard, in)
		if err := cmd.Wait(); err != nil {
			t.Errorf("driver: %v", err)
		}
	})
	return &driver{out: bufio.NewWriterSize(out, 1<<16), in: bufio.NewReaderSize(in, 1<<16)}
}

func (d *driver) number(n int) {
	d.out.Write(binary.LittleEndian.AppendUint32(nil, uint32(n)))
}

func (d *driver) string(s string) {
	d.number(len(s))
	d.out.WriteString(s)
}

// load tells the driver the files of a world.
func (d *driver) load(w *world) {
	d.out.WriteByte('C')
	for _, f := range w.files {
		d.out.WriteByte('F')
		d.string(f.name)
		d.out.WriteByte(f.state)
		d.string(f.text)
	}
}

func (d *driver) request(command byte, q *query) {
	d.out.WriteByte(command)
	if command == 'B' {
		d.number(q.times)
	}
	for _, s := range []string{q.daemon, q.client.text, q.client.name, q.user, q.server.text, q.server.name, q.client.lookup, q.server.lookup, q.ident} {
		d.string(s)
	}
	for _, e := range []end{q.client, q.server} {
		d.number(int(e.addr.Port()))
		d.string(string(e.addr.Addr().AsSlice()))
		d.string(e.addr.Addr().Zone())
	}
	d.number(q.pid)
	d.number(toInt(q.datagram))
	d.number(toInt(q.aclexecFails) << 8)
	d.number(toInt(q.resident))
	d.number(toInt(q.leak))
}

func toInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// event reads what the driver says.
func (d *driver) event() (kind byte, text string) {
	var head [5]byte
	if _, err := io.ReadFull(d.in, head[:]); err != nil {
		panic(fmt.Sprintf("reading from the driver: %v", err))
	}
	b := make([]byte, binary.LittleEndian.Uint32(head[1:]))
	if _, err := io.ReadFull(d.in, b); err != nil {
		panic(fmt.Sprintf("reading from the driver: %v", err))
	}
	return head[0], string(b)
}

// answer reads all events of a request and puts them into words.
func (d *driver) answer() string {
	var o outcome
	for {
		switch kind, text := d.event(); kind {
		case 'L':
			o.logged(text)
		case 'b':
			o.banner += text
		case 'i': // asking the ident server shows in the user
		case 'v':
			fmt.Sscanf(text, "%d %d", &o.severity, &o.leak)
		case 'E':
			o.verdict = []string{"denied", "granted", "delegated", "exit"}[text[0]-'0']
			return o.String()
		default:
			o.actions = append(o.actions, names[kind]+" "+text)
		}
	}
}

// names are the driver's letters for what libwrap does.
var names = map[byte]string{'s': "spawn", 't': "twist", 'u': "umask", 'n': "nice", 'e': "setenv", 'k': "keepalive", 'l': "linger", '!': "forbidden"}

// ask is a question and its answer.
func (d *driver) ask(w *world, q *query) string {
	d.load(w)
	d.request('Q', q)
	d.out.Flush()
	return d.answer()
}

// outcome is a decision in words, so that two of them are compared as text.
type outcome struct {
	verdict  string
	rule     string   // file:line that decided
	actions  []string // what was or would be done
	banner   string
	fault    string
	severity int
	leak     int
}

func (o *outcome) String() string {
	var b strings.Builder
	b.WriteString(o.verdict)
	if o.rule != "" {
		b.WriteString(" " + o.rule)
	}
	for _, a := range o.actions {
		fmt.Fprintf(&b, "; %q", a)
	}
	if o.severity >= 0 {
		fmt.Fprintf(&b, "; severity %d", o.severity)
	}
	if o.banner != "" {
		fmt.Fprintf(&b, "; banner %q", o.banner)
	}
	if o.fault != "" {
		fmt.Fprintf(&b, "; error %q", o.fault)
	}
	if o.leak != 0 {
		b.WriteString("; leak")
	}
	return b.String()
}

// logged takes in a line that libwrap logs.
func (o *outcome) logged(text string) {
	switch {
	case strings.HasPrefix(text, "matched:  "):
		var file string
		var line int
		fmt.Sscanf(text, "matched:  %s line %d", &file, &line)
		o.rule = fmt.Sprintf("%s:%d", file, line)
	case strings.HasPrefix(text, "option:   "):
		o.actions = append(o.actions, "option "+strings.TrimPrefix(text, "option:   "))
	case strings.HasPrefix(text, "aclexec returned"):
		o.rule = ""
	case strings.HasPrefix(text, "error: "):
		o.fault = strings.TrimPrefix(text, "error: "+strings.Replace(o.rule, ":", ", line ", 1)+": ")
	}
}

// address returns the zero value for "".
func address(s string) netip.AddrPort {
	if s == "" {
		return netip.AddrPort{}
	}
	return netip.MustParseAddrPort(s)
}
