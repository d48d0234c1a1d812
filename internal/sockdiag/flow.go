package sockdiag

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"rpcward/rpcbind"
)

const (
	sockDestroy  = 21     // SOCK_DESTROY, linux/sock_diag.h
	sizeofSockID = 48     // struct inet_diag_sockid
	allStates    = 0xfff  // TCPF_ALL, include/net/tcp_states.h
	stateAsking  = 1 << 2 // TCP_SYN_SENT: a client's, who got the port by chance
	stateGone    = 1 << 6 // TCP_TIME_WAIT: nobody holds it any more

	stateConnected = 1 << 1 // TCP_ESTABLISHED, which a connected UDP socket is in

	attrInfo     = 2  // INET_DIAG_INFO, a struct tcp_info of linux/tcp.h
	lastDataRecv = 52 // offset of tcpi_last_data_recv, in milliseconds
	lastAckRecv  = 56 // offset of tcpi_last_ack_recv
)

// Flow is a connection of a client to a port of this host.
type Flow struct {
	Local, Remote netip.AddrPort // v4-mapped addresses are IPv4's
	Silent        time.Duration  // since something last came from the client; -1 if the kernel does not tell
	request       []byte         // names the socket to the kernel
}

// Held lists the sockets on a port of n's protocol, in either family, in
// whatever state: those that wait, connections of clients, and those of this
// host's own clients that got the port by chance. Inode is 0 where no process
// has the socket yet, or any more. The netids sctp and sctp6 are
// errors.ErrUnsupported.
func Held(n rpcbind.NetID, port uint16) ([]Socket, error) {
	states := uint32(stateClose | stateConnected)
	if !n.Datagram() {
		states = allStates &^ (stateGone | stateClose)
	}
	var list []Socket
	for _, family := range protocol(n) {
		err := dump(family, port, states, func(b []byte) error {
			s, err := parse(b)
			if err == nil && s.Local.Port() == port {
				list = append(list, s)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return list, nil
}

// Flows lists the TCP connections to a port of this host, or to all ports with
// 0, in both families.
func Flows(port uint16) ([]Flow, error) {
	var list []Flow
	for _, family := range []rpcbind.NetID{rpcbind.TCP, rpcbind.TCP6} {
		err := dump(family, port, allStates&^(stateGone|stateListen|stateClose|stateAsking), func(b []byte) error {
			f, err := parseFlow(b)
			if err == nil && (port == 0 || f.Local.Port() == port) {
				list = append(list, f)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return list, nil
}

// dump calls visit with each struct inet_diag_msg that the kernel has for
// sockets of a family and protocol on a port, in the given states; 0 are those
// that wait.
func dump(n rpcbind.NetID, port uint16, states uint32, visit func([]byte) error) error {
	req, err := request(n, port)
	if err != nil {
		return err
	}
	if states != 0 {
		req[2] = 1 << (attrInfo - 1) // idiag_ext
		binary.NativeEndian.PutUint32(req[4:], states)
	}
	conn, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return fmt.Errorf("asking for sockets: %w", err)
	}
	defer conn.Close()
	messages, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request | netlink.Dump},
		Data:   req,
	})
	if err != nil {
		return fmt.Errorf("asking for sockets: %w", err)
	}
	for _, m := range messages {
		if len(m.Data) < sizeofMessage {
			return fmt.Errorf("asking for sockets: message of %d bytes", len(m.Data))
		}
		if err := visit(m.Data); err != nil {
			return fmt.Errorf("asking for sockets: %w", err)
		}
	}
	return nil
}

// parseFlow reads the addresses of a struct inet_diag_msg.
func parseFlow(b []byte) (Flow, error) {
	id := b[4 : 4+sizeofSockID]
	local, remote := binary.BigEndian.Uint16(id), binary.BigEndian.Uint16(id[2:])
	var f Flow
	switch b[0] {
	case unix.AF_INET:
		f.Local = netip.AddrPortFrom(netip.AddrFrom4([4]byte(id[4:8])), local)
		f.Remote = netip.AddrPortFrom(netip.AddrFrom4([4]byte(id[20:24])), remote)
	case unix.AF_INET6:
		f.Local = netip.AddrPortFrom(netip.AddrFrom16([16]byte(id[4:20])).Unmap(), local)
		f.Remote = netip.AddrPortFrom(netip.AddrFrom16([16]byte(id[20:36])).Unmap(), remote)
	default:
		return Flow{}, fmt.Errorf("socket of family %d", b[0])
	}
	f.Silent = silence(b[sizeofMessage:])
	f.request = make([]byte, sizeofRequest)
	f.request[0], f.request[1] = b[0], unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(f.request[4:], allStates)
	copy(f.request[8:], id)
	return f, nil
}

// silence reads from the attributes of a connection when the client was last heard.
func silence(b []byte) time.Duration {
	attrs, err := netlink.NewAttributeDecoder(b)
	for err == nil && attrs.Next() {
		if info := attrs.Bytes(); attrs.Type() == attrInfo && len(info) >= lastAckRecv+4 {
			last := min(binary.NativeEndian.Uint32(info[lastDataRecv:]), binary.NativeEndian.Uint32(info[lastAckRecv:]))
			return time.Duration(last) * time.Millisecond
		}
	}
	return -1
}

// Destroy ends a connection at this end, as if the other one had reset it. It
// needs CAP_NET_ADMIN; a connection that has ended meanwhile is no error.
func Destroy(f Flow) error {
	conn, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return fmt.Errorf("ending the connection from %v: %w", f.Remote, err)
	}
	defer conn.Close()
	_, err = conn.Execute(netlink.Message{
		Header: netlink.Header{Type: sockDestroy, Flags: netlink.Request | netlink.Acknowledge},
		Data:   f.request,
	})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("ending the connection from %v: %w", f.Remote, err)
	}
	return nil
}
