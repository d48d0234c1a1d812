package identity

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestParseAddr(t *testing.T) {
	for s, want := range map[string]string{
		"10.1.2.3": "10.1.2.3", "10.1.2": "10.1.0.2", "10.1": "10.0.0.1", "1": "0.0.0.1",
		"0x0a000001": "10.0.0.1", "010.1.2.3": "8.1.2.3", "4294967295": "255.255.255.255",
		"::1": "::1", "fe80::1%eth0": "fe80::1%eth0", "::ffff:10.1.2.3": "::ffff:10.1.2.3",
		"": "", "10.1.2.300": "", "256.1.2.3": "", "10.1.2.3.4": "", "10..1": "", "08.1.2.3": "", "0x": "",
		"+1.2.3.4": "", "4294967296": "", "10.1.65536": "", "1 .2.3.4": "", "[::1]": "", "a": "",
	} {
		a, ok := ParseAddr(s)
		if ok != (want != "") || ok && a.String() != want {
			t.Errorf("ParseAddr(%q) = %v, %v, want %q", s, a, ok, want)
		}
	}
	if !IsQuad("010.1.2.3") || IsQuad("10.1.2") || IsQuad("10.1.2.300") || IsQuad("::1") {
		t.Error("IsQuad")
	}
}

func TestParseIdent(t *testing.T) {
	for reply, want := range map[string]string{
		"700 , 80 : USERID : UNIX : root\r\n":                   "root",
		"700,80:USERID:UNIX:root":                               "root",
		"700, 80 : USERID : OTHER ,US-ASCII : a b\r\n":          "a",
		"700,80:USERID:UNIX:a:b\n":                              "a:b",
		"701,80:USERID:UNIX:root":                               "", // another connection
		"80,700:USERID:UNIX:root":                               "",
		"700,80:ERROR:NO-USER":                                  "",
		"700,80:ERROR:UNIX:NO-USER":                             "",
		"700,80:USERID:UNIX:":                                   "",
		"700,80:USERID:UNIX":                                    "",
		"700:USERID:UNIX:root":                                  "",
		"700,80,1:USERID:UNIX:root":                             "",
		"-1,80:USERID:UNIX:root":                                "",
		"":                                                      "",
		"700,80:USERID:UNIX:" + strings.Repeat("x", 256):        "",
		"700,80:USERID:UNIX:" + strings.Repeat("x", 255) + "\n": strings.Repeat("x", 255),
	} {
		if got := parseIdent(reply, 700, 80); got != want {
			t.Errorf("parseIdent(%q) = %q, want %q", reply, got, want)
		}
	}
}

func FuzzParseIdent(f *testing.F) {
	f.Add("700 , 80 : USERID : UNIX : root\r\n", uint16(700), uint16(80))
	f.Fuzz(func(t *testing.T, reply string, client, server uint16) {
		user := parseIdent(reply, client, server)
		if len(user) > 255 || strings.ContainsAny(user, " \t\r\n") || !strings.Contains(reply, user) {
			t.Errorf("user %q", user)
		}
	})
}

// identServer answers one question by what talk writes.
func identServer(t *testing.T, talk func(question string, w net.Conn)) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		question, _ := bufio.NewReader(conn).ReadString('\n')
		talk(question, conn)
	}()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

var (
	client = netip.MustParseAddrPort("127.0.0.1:700")
	server = netip.MustParseAddrPort("[::ffff:127.0.0.1]:80")
)

func TestIdent(t *testing.T) {
	asked := make(chan string, 1)
	port := identServer(t, func(question string, w net.Conn) {
		asked <- question
		io.WriteString(w, "700,80:USERID:UNIX:me\r\n")
	})
	if got := askIdent(t.Context(), client, server, port); got != "me" {
		t.Errorf("user %q", got)
	}
	if q := <-asked; q != "700,80\r\n" {
		t.Errorf("question %q", q)
	}
}

// A client that says nothing, or never ends, holds nobody longer than agreed.
func TestIdentIsBounded(t *testing.T) {
	for name, talk := range map[string]func(string, net.Conn){
		"silent": func(_ string, w net.Conn) { io.Copy(io.Discard, w) },
		"endless": func(_ string, w net.Conn) {
			for {
				if _, err := io.WriteString(w, "xxxxxxxxxxxxxxxxxxxxxxxx"); err != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			port := identServer(t, talk)
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			done := make(chan string, 1)
			go func() { done <- askIdent(ctx, client, server, port) }()
			select {
			case got := <-done:
				if got != "" {
					t.Errorf("user %q", got)
				}
			case <-time.After(10 * time.Second):
				t.Error("askIdent waits")
			}
		})
	}
}
