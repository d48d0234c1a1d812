package effects

import (
	"errors"
	"log/syslog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"rpcward/hostsaccess"
)

func TestSourceRouted(t *testing.T) {
	for _, tt := range []struct {
		name    string
		options []byte
		want    bool
	}{
		{"none", nil, false},
		{"record route", []byte{7, 7, 4, 0, 0, 0, 0, 0}, false},
		{"loose", []byte{131, 7, 4, 10, 0, 0, 1, 0}, true},
		{"strict", []byte{1, 137, 7, 4, 10, 0, 0, 1}, true},
		{"behind another", []byte{7, 3, 4, 131, 3, 4}, true},
		{"behind the end", []byte{1, 0, 131, 3, 4}, false},
		{"inside another", []byte{7, 5, 4, 131, 3}, false},
		{"no length", []byte{7}, true},
		{"length 0", []byte{7, 0, 131}, true},
		{"length beyond the end", []byte{7, 9, 0}, true},
	} {
		if got := SourceRouted(tt.options); got != tt.want {
			t.Errorf("%s: SourceRouted(% x) = %v", tt.name, tt.options, got)
		}
	}
}

// connection returns a session with one end of a connection, and the other end.
func connection(t *testing.T) (*Session, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	f, err := conn.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	s, err := Inherit(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	s.Warn = func(text string) { t.Error(text) }
	if want := client.LocalAddr().String(); s.Client.String() != want || !s.Stream {
		t.Errorf("session %+v, want client %s", s, want)
	}
	return s, client
}

func TestSocketOptions(t *testing.T) {
	s, client := connection(t)
	o, err := s.Run([]hostsaccess.Action{
		{Kind: hostsaccess.ActKeepAlive},
		{Kind: hostsaccess.ActLinger, Number: 3},
		{Kind: hostsaccess.ActSeverity, Number: 5},
		{Kind: hostsaccess.ActBanner, Output: []byte("hello\r\n")},
		{Kind: hostsaccess.ActTwist, Value: "become"},
	})
	if err != nil || !o.Logs || o.Priority != syslog.LOG_DAEMON|syslog.LOG_NOTICE || o.Twist != "become" {
		t.Errorf("outcome %+v, %v", o, err)
	}
	if on, err := unix.GetsockoptInt(s.Socket, unix.SOL_SOCKET, unix.SO_KEEPALIVE); on != 1 || err != nil {
		t.Errorf("SO_KEEPALIVE = %d, %v", on, err)
	}
	if l, err := unix.GetsockoptLinger(s.Socket, unix.SOL_SOCKET, unix.SO_LINGER); err != nil || l.Onoff != 1 || l.Linger != 3 {
		t.Errorf("SO_LINGER = %+v, %v", l, err)
	}
	b := make([]byte, 100)
	if n, err := client.Read(b); err != nil || string(b[:n]) != "hello\r\n" {
		t.Errorf("banner %q, %v", b[:n], err)
	}
	s.Refuse()
	if n, err := client.Read(b); n != 0 || err == nil {
		t.Errorf("after Refuse: %q, %v", b[:n], err)
	}
}

// Commands get no input and no output, least of all the client's.
func TestCommands(t *testing.T) {
	s, _ := connection(t)
	path := filepath.Join(t.TempDir(), "ran")
	t.Setenv("RAN", "") // to be put back
	_, err := s.Run([]hostsaccess.Action{
		{Kind: hostsaccess.ActSetEnv, Variable: "RAN", Value: path},
		{Kind: hostsaccess.ActSpawn, Value: `readlink /proc/self/fd/0 > "$RAN"; readlink /proc/self/fd/2 >> "$RAN"; exit 3`},
	})
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != strings.Repeat("/dev/null\n", 2) {
		t.Errorf("the command's files: %q, %v", data, err)
	}
	if !Succeeds("exit 0") || Succeeds("exit 1") || Succeeds("kill $$") {
		t.Error("Succeeds")
	}
}

// What can't be carried out ends the conversation, and nothing behind it is done.
func TestRunStops(t *testing.T) {
	s, _ := connection(t)
	behind := filepath.Join(t.TempDir(), "behind")
	spawn := hostsaccess.Action{Kind: hostsaccess.ActSpawn, Value: "touch " + behind}
	for _, a := range []hostsaccess.Action{
		{Name: "user", Kind: hostsaccess.ActUser, Value: "nosuchuser"},
		{Name: "group", Kind: hostsaccess.ActGroup, Value: "nosuchgroup"},
		{Name: "umask", Fault: `bad umask value: "x"`},
	} {
		if _, err := s.Run([]hostsaccess.Action{a, spawn}); err == nil {
			t.Errorf("%s: no error", a.Name)
		}
	}
	if _, err := os.Stat(behind); !errors.Is(err, os.ErrNotExist) {
		t.Error("the action behind was carried out")
	}
}

func TestInheritNoSocket(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if s, err := Inherit(int(f.Fd())); err == nil || s.Client.IsValid() {
		t.Errorf("session %+v of a file, %v", s, err)
	}
}
