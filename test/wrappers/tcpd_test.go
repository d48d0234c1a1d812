package wrappers

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rpcward/test/lab"
)

// patience bounds how long a service may take to answer.
const patience = 20 * time.Second

// services are files of the server: what inetd starts through tcpd.
var services = map[string]string{
	"greetd": `#!/bin/sh
echo "served $0 $* uid=$(id -un) gid=$(id -gn) groups=$(id -Gn) umask=$(umask) nice=$(nice) who=$WHO"
`,
	// One datagram, and then no more: the next one starts it anew.
	"greetu": `#!/usr/bin/perl
open(my $socket, "+<&=0");
my $peer = recv($socket, my $question, 1000, 0);
send($socket, "served $question", 0, $peer);
`,
}

// The ports of the services.
const (
	greet    = 7000 // TCP, by its path
	greetUDP = 7001 // UDP
	relative = 7002 // TCP, by a name in /usr/sbin
	command  = 7003 // TCP, by "rpcward tcpd"
)

// superserver is a program that starts tcpd.
type superserver struct {
	name  string
	start func(t *testing.T, h *lab.Host, toolbox string)
}

var superservers = []superserver{{"xinetd", startXinetd}, {"openbsd-inetd", startInetd}}

func startXinetd(t *testing.T, h *lab.Host, toolbox string) {
	lab.NeedCommand(t, "xinetd")
	var conf strings.Builder
	service := func(name string, port int, kind, protocol, wait, server, args string) {
		fmt.Fprintf(&conf, `service %s
{
	type = UNLISTED
	flags = NAMEINARGS NOLIBWRAP IPv6
	port = %d
	socket_type = %s
	protocol = %s
	wait = %s
	user = root
	server = %s
	server_args = %s
}
`, name, port, kind, protocol, wait, server, args)
	}
	service("greet", greet, "stream", "tcp", "no", "/run/sbin/tcpd", "/run/sbin/greetd -l")
	service("greetudp", greetUDP, "dgram", "udp", "yes", "/run/sbin/tcpd", "/run/sbin/greetu")
	service("relative", relative, "stream", "tcp", "no", "/run/sbin/tcpd", "nologin")
	service("command", command, "stream", "tcp", "no", toolbox, "rpcward tcpd /run/sbin/greetd -c")
	h.WriteFile("/etc/xinetd.conf", conf.String())
	h.Start("xinetd", "-dontfork", "-f", "/etc/xinetd.conf")
}

// startInetd starts Debian's inetd. Its package can't be installed beside
// xinetd's, so test/run only unpacks it.
func startInetd(t *testing.T, h *lab.Host, toolbox string) {
	inetd, err := filepath.Abs("../../bin/unpacked/usr/sbin/inetd")
	if err != nil {
		t.Fatal(err)
	}
	if found, err := exec.LookPath("inetd"); err == nil {
		inetd = found
	}
	lab.NeedFeature(t, "package openbsd-inetd", lab.HasFile(inetd))
	h.WriteFile("/etc/services", "greet 7000/tcp\ngreetudp 7001/udp\nrelative 7002/tcp\ncommand 7003/tcp\n")
	h.WriteFile("/etc/inetd.conf", `greet stream tcp nowait root /run/sbin/tcpd /run/sbin/greetd -l
greet stream tcp6 nowait root /run/sbin/tcpd /run/sbin/greetd -l
greetudp dgram udp wait root /run/sbin/tcpd /run/sbin/greetu
relative stream tcp nowait root /run/sbin/tcpd nologin
command stream tcp nowait root `+toolbox+` rpcward tcpd /run/sbin/greetd -c
`)
	h.Start(inetd, "-i", "/etc/inetd.conf")
}

// policy is the server's hosts.allow. Each client of the inside has an address
// of its own.
const policy = `
greetd greetu nologin: 10.99.0.2 [fd99::2]
greetd: 10.99.0.3: setenv WHO %c at %a: umask 027: nice 5: user nobody: spawn /bin/echo "%a %d $WHO" > /run/who/spawned: keepalive: linger 3: severity local3.notice: banners /run/banners
greetd: 10.99.0.4: group mail: user nobody
greetd: 10.99.0.5: user nobody.tty
greetd: 10.99.0.6: twist /bin/echo "go away %a from %d"; echo error >&2
greetd: 10.99.0.7: aclexec /bin/false: setenv WHO x
greetd: 10.99.0.8: aclexec /usr/bin/test %a = 10.99.0.8
greetd: known.test: setenv WHO %n
greetd: good@10.99.0.10: setenv WHO %u
greetd: 10.99.0.11: spawn /bin/echo "%u" > /run/who/asked
greetd: 10.99.0.12: user nosuch
greetd: 10.99.0.13: deny
greetd: 10.99.0.14: setenv WHO $(touch /run/who/env) %c
`

func TestTcpd(t *testing.T) {
	t.Parallel()
	for _, s := range superservers {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			w := newWrapped(t, s)
			t.Run("allowed", w.allowed)
			t.Run("refused", w.refused)
			t.Run("twisted", w.twisted)
			t.Run("options", w.options)
			t.Run("accounts", w.accounts)
			t.Run("aclexec", w.aclexec)
			t.Run("name", w.name)
			t.Run("ident", w.ident)
			t.Run("hostile ident", w.hostileIdent)
			t.Run("datagrams", w.datagrams)
			t.Run("IP options", w.ipOptions)
			t.Run("source route", w.sourceRoute)
		})
	}
}

// wrapped is a net whose server has its services behind tcpd.
type wrapped struct {
	*lab.Net
	log *logSocket
}

func newWrapped(t *testing.T, s superserver) *wrapped {
	t.Helper()
	lab.NeedCommand(t, "perl")
	w := &wrapped{Net: lab.NewNet(t)}
	h := w.Server
	toolbox := lab.Rpcward(t).Toolbox()
	for name, text := range services {
		h.WriteFile("/run/sbin/"+name, text)
		h.MustRun("chmod", "755", "/run/sbin/"+name)
	}
	h.MustRun("ln", "-s", toolbox, "/run/sbin/tcpd")
	h.MustRun("mkdir", "-m", "777", "/run/who")
	h.WriteFile("/run/banners/greetd", "welcome %c\nto %d\n")
	h.WriteFile("/etc/hosts", "127.0.0.1 localhost\n10.99.0.9 known.test\n")
	h.WriteFile("/etc/hosts.allow", policy)
	h.Deny("ALL: ALL")
	for i := 3; i < 20; i++ {
		w.Inside.AddAddr("eth0", netip.PrefixFrom(inside(i), 24))
	}
	w.log = listenLog(t, h)
	s.start(t, h, toolbox)
	for _, port := range []int{greet, relative, command} {
		h.WaitPort("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	}
	return w
}

func inside(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 99, 0, byte(i)}) }

// ask connects from the host's address to the server, and returns all that it says.
func (w *wrapped) ask(t *testing.T, from *lab.Host, local netip.Addr, port int) string {
	t.Helper()
	to := lab.ServerIP
	switch {
	case local.Is6():
		to = lab.ServerIP6
	case from == w.Stranger:
		to = lab.ServerWAN
	}
	conn, err := from.DialFrom("tcp", netip.AddrPortFrom(local, 0), netip.AddrPortFrom(to, uint16(port)).String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatalf("reading the answer: %v", err)
	}
	return string(answer)
}

// expect asks from an address of the inside, and wants all of these texts.
func (w *wrapped) expect(t *testing.T, i, port int, want ...string) {
	t.Helper()
	answer := w.ask(t, w.Inside, inside(i), port)
	for _, text := range want {
		if !strings.Contains(answer, text) {
			t.Errorf("%s is told %q, want %q", inside(i), answer, text)
		}
	}
}

// expectNothing asks from an address of the inside and wants no answer.
func (w *wrapped) expectNothing(t *testing.T, i int) {
	t.Helper()
	if answer := w.ask(t, w.Inside, inside(i), greet); answer != "" {
		t.Errorf("%s is told %q", inside(i), answer)
	}
}

func (w *wrapped) allowed(t *testing.T) {
	w.expect(t, 2, greet, "served /run/sbin/greetd -l uid=root", "umask=0022", niceAbove(t, 0))
	w.log.wait(t, "<30>", "greetd[", "connect from 10.99.0.2 (10.99.0.2)")
	w.expect(t, 2, command, "served /run/sbin/greetd -c uid=root")
	w.expect(t, 2, relative, "not available")
	w.log.wait(t, "<30>", "nologin[", "connect from 10.99.0.2 (10.99.0.2)")
	if got := w.ask(t, w.Inside, lab.InsideIP6, greet); !strings.HasPrefix(got, "served ") {
		t.Errorf("fd99::2 is told %q", got)
	}
	w.log.wait(t, "connect from fd99::2 (fd99::2)")
}

func (w *wrapped) refused(t *testing.T) {
	for _, port := range []int{greet, relative, command} {
		start := time.Now()
		if got := w.ask(t, w.Stranger, lab.StrangerIP, port); got != "" {
			t.Errorf("a stranger is told %q at port %d", got, port)
		}
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("a stranger is held for %v", took)
		}
	}
	w.log.wait(t, "<28>", "greetd[", "refused connect from 10.98.0.2 (10.98.0.2)")
	w.expectNothing(t, 13)
}

func (w *wrapped) twisted(t *testing.T) {
	w.expect(t, 6, greet, "go away 10.99.0.6 from greetd\n", "error\n")
	w.log.wait(t, "<28>", "twist 10.99.0.6 to /bin/echo \"go away 10.99.0.6 from greetd\"")
}

func (w *wrapped) options(t *testing.T) {
	w.expect(t, 3, greet, "welcome 10.99.0.3\r\nto greetd\r\n", "uid=nobody gid=nogroup groups=nogroup umask=0027 "+niceAbove(t, 5)+" who=10.99.0.3 at 10.99.0.3\n")
	w.log.wait(t, "<157>", "connect from 10.99.0.3 (10.99.0.3)") // local3.notice
	w.expectFile(t, "/run/who/spawned", "10.99.0.3 greetd 10.99.0.3 at 10.99.0.3\n")
	w.expect(t, 14, greet, "who=$(touch /run/who/env) 10.99.0.14")
	w.expectFile(t, "/run/who/env", "")
}

// niceAbove is what a server shows that is so much nicer than this test.
func niceAbove(t *testing.T, n int) string {
	t.Helper()
	priority, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		t.Fatal(err)
	}
	const normal = 20 // the system call counts down from there
	return fmt.Sprintf("nice=%d", min(normal-priority+n, 19))
}

// expectFile wants a file of the server, or, if want is "", none.
func (w *wrapped) expectFile(t *testing.T, path, want string) {
	t.Helper()
	got, err := w.Server.ReadFile(path)
	if want == "" && !os.IsNotExist(err) || want != "" && (err != nil || got != want) {
		t.Errorf("%s = %q, %v, want %q", path, got, err, want)
	}
}

func (w *wrapped) accounts(t *testing.T) {
	w.expect(t, 4, greet, "uid=nobody gid=mail groups=mail ")
	w.expect(t, 5, greet, "uid=nobody gid=tty groups=tty ")
	w.expectNothing(t, 12)
	w.log.wait(t, "<27>", `unknown user: "nosuch"`)
}

func (w *wrapped) aclexec(t *testing.T) {
	w.expectNothing(t, 7)
	w.log.wait(t, "refused connect from 10.99.0.7")
	w.expect(t, 8, greet, "served ", "who=\n")
}

func (w *wrapped) name(t *testing.T) {
	w.expect(t, 9, greet, "who=known.test\n")
	w.log.wait(t, "connect from known.test (10.99.0.9)")
}

// answerIdent answers questions about connections of the inside with a user.
func (w *wrapped) answerIdent(t *testing.T, i int, user string) {
	t.Helper()
	l, err := w.Inside.Listen("tcp", netip.AddrPortFrom(inside(i), 113).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			question, _ := bufio.NewReader(conn).ReadString('\n')
			fmt.Fprintf(conn, "%s : USERID : UNIX :%s\r\n", strings.TrimSpace(question), user)
			conn.Close()
		}
	}()
}

func (w *wrapped) ident(t *testing.T) {
	w.expectNothing(t, 10) // nobody tells
	w.answerIdent(t, 10, "good")
	w.expect(t, 10, greet, "who=good\n")
	w.log.wait(t, "connect from good@10.99.0.10 (10.99.0.10)")
}

func (w *wrapped) hostileIdent(t *testing.T) {
	w.answerIdent(t, 11, "`touch</run/who/pwned`\x1b[2J$(touch>/run/who/pwned);\"")
	w.expect(t, 11, greet, "served ")
	w.expectFile(t, "/run/who/pwned", "")
	w.expectFile(t, "/run/who/asked", "_touch_/run/who/pwned___2J__touch_/run/who/pwned___\n")
	if line := w.log.wait(t, "connect from ", "@10.99.0.11 ("); strings.Contains(line, "\x1b") {
		t.Errorf("the log has %q", line)
	}
}

func (w *wrapped) datagrams(t *testing.T) {
	stranger := w.dialUDP(t, w.Stranger, lab.StrangerIP, lab.ServerWAN)
	if _, err := stranger.Write([]byte("strange")); err != nil {
		t.Fatal(err)
	}
	w.log.wait(t, "<28>", "greetu[", "refused connect from 10.98.0.2")
	friend := w.dialUDP(t, w.Inside, lab.InsideIP, lab.ServerIP)
	if got := persist(friend, "hello"); got != "served hello" {
		t.Errorf("a friend is told %q", got)
	}
	b := make([]byte, 100)
	stranger.SetDeadline(time.Now().Add(10 * time.Millisecond))
	if n, err := stranger.Read(b); err == nil {
		t.Errorf("a stranger is told %q", b[:n])
	}
	if n := len(w.log.find("refused connect from 10.98.0.2", "greetu[")); n != 1 {
		t.Errorf("one datagram was refused %d times", n)
	}
}

func (w *wrapped) dialUDP(t *testing.T, from *lab.Host, local, to netip.Addr) net.Conn {
	t.Helper()
	conn, err := from.DialFrom("udp", netip.AddrPortFrom(local, 0), netip.AddrPortFrom(to, greetUDP).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// persist asks until there is an answer: xinetd drops all that comes while it
// waits for a service to end.
func persist(conn net.Conn, question string) string {
	b := make([]byte, 100)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		conn.Write([]byte(question))
		conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		if n, err := conn.Read(b); err == nil {
			return string(b[:n])
		}
	}
	return ""
}

// logSocket is the server's syslogd.
type logSocket struct {
	mu    sync.Mutex // guards lines
	lines []string
}

// listenLog listens at a place where syslog(3) of Go and of glibc both look,
// also if this machine has a syslogd.
func listenLog(t *testing.T, h *lab.Host) *logSocket {
	t.Helper()
	conn, err := h.ListenPacket("unixgram", "/run/log")
	if err != nil {
		t.Fatal(err)
	}
	h.MustRun("chmod", "666", "/run/log")
	if _, err := h.ReadFile("/dev/log"); !os.IsNotExist(err) {
		h.MustRun("mount", "--bind", "/run/log", "/dev/log")
	}
	l := &logSocket{}
	done := make(chan struct{})
	t.Cleanup(func() { conn.Close(); <-done })
	go func() {
		defer close(done)
		b := make([]byte, 1<<16)
		for {
			n, _, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			l.mu.Lock()
			l.lines = append(l.lines, string(b[:n]))
			l.mu.Unlock()
		}
	}()
	return l
}

// find returns the lines that have all texts.
func (l *logSocket) find(texts ...string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
next:
	for _, line := range l.lines {
		for _, text := range texts {
			if !strings.Contains(line, text) {
				continue next
			}
		}
		found = append(found, line)
	}
	return found
}

// wait waits for a line with all texts.
func (l *logSocket) wait(t *testing.T, texts ...string) (line string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if found := l.find(texts...); len(found) > 0 {
			return found[0]
		}
		if time.Now().After(deadline) {
			t.Errorf("no line of the log has %q:\n%s", texts, strings.Join(l.find(), "\n"))
			return ""
		}
	}
}
