package identity

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// identPort is where a host tells about its users, RFC 1413, Section 3.
const identPort = 113

// mostIdent is the longest reply that is read, RFC 1413, Section 6: 1000
// characters, and the line end.
const mostIdent = 1002

// UserName asks the client's host who its user is, and waits for seconds, or
// for 10 if that is not above 0. "" means that nobody can tell.
func (r *Resolver) UserName(client, server netip.AddrPort, seconds int) string {
	patience := identPatience
	if seconds > 0 {
		patience = time.Duration(seconds) * time.Second
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return askIdent(ctx, client, server, identPort)
}

// askIdent asks from the address that the client is connected to: its host
// knows the connection by the two addresses and the two ports.
func askIdent(ctx context.Context, client, server netip.AddrPort, port uint16) string {
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(server.Addr().Unmap(), 0))}
	conn, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(client.Addr().Unmap(), port).String())
	if err != nil {
		return ""
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return ""
		}
	}
	if _, err := fmt.Fprintf(conn, "%d,%d\r\n", client.Port(), server.Port()); err != nil {
		return ""
	}
	reply, err := bufio.NewReader(io.LimitReader(conn, mostIdent)).ReadString('\n')
	if err != nil && reply == "" {
		return ""
	}
	return parseIdent(reply, client.Port(), server.Port())
}

// parseIdent reads "port , port : USERID : system : user", RFC 1413, Section 6,
// which must be about our connection. The user is the first word, as in libwrap.
func parseIdent(reply string, client, server uint16) string {
	fields := strings.SplitN(strings.TrimRight(reply, "\r\n"), ":", 4)
	if len(fields) < 4 || strings.TrimSpace(fields[1]) != "USERID" {
		return ""
	}
	ports := strings.Split(fields[0], ",")
	if len(ports) != 2 || !isPort(ports[0], client) || !isPort(ports[1], server) {
		return ""
	}
	words := strings.Fields(fields[3])
	if len(words) == 0 || len(words[0]) > 255 {
		return ""
	}
	return words[0]
}

func isPort(s string, want uint16) bool {
	n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 16)
	return err == nil && uint16(n) == want
}
