package wrappers

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rpcward/test/lab"
)

// IP options, RFC 791, Section 3.1.
var (
	recordRoute = "\x07\x0b\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00" // room for two addresses
	looseRoute  = "\x83\x07\x04\x0a\x63\x00\x02\x00"                 // by way of 10.99.0.2
)

// ipOptions connects with IP options, which are dropped.
func (w *wrapped) ipOptions(t *testing.T) {
	if got := w.askWith(t, recordRoute); !strings.HasPrefix(got, "served ") {
		t.Errorf("with a recorded route, a friend is told %q", got)
	}
	w.log.wait(t, "<29>", "connect from 10.99.0.2 with IP options (ignored): 07 ")
}

// sourceRoute gives tcpd a connection with a source route, by which a client
// could be whoever it wants. The kernel of the lab would have to be a router to
// let one through, so it is set here as the kernel sets it.
func (w *wrapped) sourceRoute(t *testing.T) {
	l, err := w.Server.Listen("tcp", netip.AddrPortFrom(lab.ServerIP, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := w.Inside.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	socket, err := conn.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	if err := unix.SetsockoptString(int(socket.Fd()), unix.IPPROTO_IP, unix.IP_OPTIONS, looseRoute); err != nil {
		t.Fatal(err)
	}
	cmd := w.Server.Command(t.Context(), "/run/sbin/tcpd", "-l")
	cmd.Args[0], cmd.Stdin = "/run/sbin/greetd", socket
	if out, err := w.Server.RunCommand(cmd); err != nil || out != "" {
		t.Errorf("with a source route, the service says %q, %v", out, err)
	}
	w.log.wait(t, "<28>", "refused connect from 10.99.0.2 with IP source routing options")
}

func (w *wrapped) askWith(t *testing.T, options string) string {
	t.Helper()
	d := net.Dialer{
		Timeout:   patience,
		LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(lab.InsideIP, 0)),
		Control: func(_, _ string, c syscall.RawConn) (err error) {
			controlErr := c.Control(func(fd uintptr) {
				err = unix.SetsockoptString(int(fd), unix.IPPROTO_IP, unix.IP_OPTIONS, options)
			})
			if err == nil {
				err = controlErr
			}
			return err
		},
	}
	var answer []byte
	err := w.Inside.Do(func() error {
		conn, err := d.DialContext(context.Background(), "tcp4", netip.AddrPortFrom(lab.ServerIP, greet).String())
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		answer, err = io.ReadAll(conn)
		return err
	})
	if err != nil {
		t.Errorf("asking with IP options % x: %v", options, err)
	}
	return string(answer)
}
