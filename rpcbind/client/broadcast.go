package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/xdr"
)

// multicast6 is the group in which port mappers listen for IPv6's broadcasts,
// RPCB_MULTICAST_ADDR of rpcb_prot.h.
var multicast6 = netip.MustParseAddr("ff02::202")

// ErrNoBroadcast means that no interface of this host can broadcast.
var ErrNoBroadcast = errors.New("no network interface can broadcast")

// broadcastResend is the first pause before a broadcast is sent again; it
// doubles. libtirpc begins with the same.
const broadcastResend = 4 * time.Second

// Answer is one answer to a broadcast.
type Answer struct {
	From    netip.AddrPort // who sent it
	Version uint32         // of the port mapper protocol: 2 or 3
	UAddr   string         // of the service, by its port mapper; may hold any byte
	Results []byte         // of the call
}

// Broadcast has the port mappers of all networks that this host is on forward
// a call, and yields their answers as they come until ctx is done: none is not
// an error. It asks by CALLIT of version 3 and of version 2, so that one
// service may answer twice. Services answer only calls that succeed, and port
// mappers only if they forward calls.
//
// The only errors are yielded first: [ErrNoBroadcast], or that of a socket.
func Broadcast(ctx context.Context, call *rpcbind.RemoteCall) iter.Seq2[Answer, error] {
	return func(yield func(Answer, error) bool) {
		b, err := newBroadcast(call)
		if err != nil {
			yield(Answer{}, err)
			return
		}
		defer b.close()
		b.listen()
		b.send()
		for wait := broadcastResend; ; wait *= 2 {
			resend := time.NewTimer(wait)
			more := b.collect(ctx, resend.C, yield)
			resend.Stop()
			if !more {
				return
			}
			b.send()
		}
	}
}

// broadcast is one in progress.
type broadcast struct {
	xid3, xid2 uint32 // of the version 3 call, and of the version 2 call
	msg3, msg2 []byte
	conn4      *net.UDPConn // nil if there is nobody to ask over it
	conn6      *net.UDPConn
	targets4   []netip.AddrPort
	targets6   []netip.AddrPort

	answers chan Answer
	done    chan struct{} // closed when nobody takes answers any more
	readers sync.WaitGroup
}

func newBroadcast(call *rpcbind.RemoteCall) (*broadcast, error) {
	b := &broadcast{xid3: rand.Uint32(), answers: make(chan Answer), done: make(chan struct{})}
	b.xid2 = b.xid3 + 1
	args := rpcbind.AppendRemoteCall(nil, call)
	b.msg3 = callIt(b.xid3, rpcbind.Version3, args)
	b.msg2 = callIt(b.xid2, rpcbind.Version2, args)
	var err error
	if b.targets4, b.targets6, err = targets(); err != nil {
		return nil, err
	}
	if len(b.targets4)+len(b.targets6) == 0 {
		return nil, ErrNoBroadcast
	}
	if len(b.targets4) > 0 {
		if b.conn4, err = net.ListenUDP("udp4", nil); err != nil {
			return nil, err
		}
	}
	if len(b.targets6) > 0 {
		b.conn6, err = net.ListenUDP("udp6", nil)
		if err != nil && b.conn4 == nil {
			return nil, err
		}
	}
	return b, nil
}

func callIt(xid, version uint32, args []byte) []byte {
	return oncrpc.AppendCall(nil, &oncrpc.Call{
		XID: xid, Program: rpcbind.Program, Version: version, Procedure: uint32(rpcbind.ProcCallIt), Args: args,
	})
}

// targets lists the broadcast addresses of the networks that this host is on,
// and the IPv6 group on each link.
func targets() (v4, v6 []netip.AddrPort, err error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, nil, fmt.Errorf("listing interfaces: %w", err)
	}
	for _, link := range links {
		if link.Flags&net.FlagUp == 0 || link.Flags&net.FlagLoopback != 0 {
			continue
		}
		addrs, err := link.Addrs()
		if err != nil {
			continue // it has just gone
		}
		has6 := false
		for _, a := range addrs {
			ipnet, ok := a.(*net.IPNet)
			switch {
			case !ok:
			case ipnet.IP.To4() == nil:
				has6 = true
			case link.Flags&net.FlagBroadcast != 0:
				v4 = appendBroadcast(v4, ipnet)
			}
		}
		if has6 && link.Flags&net.FlagMulticast != 0 {
			v6 = append(v6, netip.AddrPortFrom(multicast6.WithZone(link.Name), rpcbind.Port))
		}
	}
	return v4, v6, nil
}

// appendBroadcast appends the last address of a network, unless that is one
// of two hosts or of one, RFC 3021.
func appendBroadcast(list []netip.AddrPort, n *net.IPNet) []netip.AddrPort {
	ones, bits := n.Mask.Size()
	ip := n.IP.To4()
	if bits != 32 || ones > 30 {
		return list
	}
	var last [4]byte
	for i := range last {
		last[i] = ip[i] | ^n.Mask[i]
	}
	return append(list, netip.AddrPortFrom(netip.AddrFrom4(last), rpcbind.Port))
}

// send sends both calls everywhere. A network that can't be reached now may be
// when they are sent again, so errors count as silence.
func (b *broadcast) send() {
	for _, to := range b.targets4 {
		b.conn4.WriteToUDPAddrPort(b.msg3, to)
		b.conn4.WriteToUDPAddrPort(b.msg2, to)
	}
	for _, to := range b.targets6 {
		if b.conn6 != nil {
			b.conn6.WriteToUDPAddrPort(b.msg3, to)
			b.conn6.WriteToUDPAddrPort(b.msg2, to)
		}
	}
}

func (b *broadcast) listen() {
	for _, conn := range []*net.UDPConn{b.conn4, b.conn6} {
		if conn != nil {
			b.readers.Go(func() { b.read(conn) })
		}
	}
}

// read passes on the answers that arrive on conn until it is closed.
func (b *broadcast) read(conn *net.UDPConn) {
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		answer, ok := b.parse(from, buf[:n])
		if !ok {
			continue
		}
		select {
		case b.answers <- answer:
		case <-b.done:
			return
		}
	}
}

// parse reads an answer. A port mapper may send it from another port than the
// one that was asked, so only the transaction ids tell that it is one.
func (b *broadcast) parse(from netip.AddrPort, msg []byte) (Answer, bool) {
	reply, err := oncrpc.ParseReply(msg)
	if err != nil || reply.Err() != nil {
		return Answer{}, false
	}
	a := Answer{From: from}
	r := xdr.NewReader(reply.Results)
	switch reply.XID {
	case b.xid3:
		a.Version, a.UAddr = rpcbind.Version3, readString(&r)
	case b.xid2:
		port := r.Uint32()
		a.Version = rpcbind.Version2
		a.UAddr = rpcbind.UAddr(netip.AddrPortFrom(from.Addr(), uint16(port)))
	default:
		return Answer{}, false
	}
	a.Results = bytes.Clone(r.Opaque(maxDatagram))
	return a, r.Err() == nil
}

// collect yields answers until it is time to send again, for which it returns
// true, or to end.
func (b *broadcast) collect(ctx context.Context, resend <-chan time.Time, yield func(Answer, error) bool) bool {
	for {
		select {
		case a := <-b.answers:
			if !yield(a, nil) {
				return false
			}
		case <-resend:
			return true
		case <-ctx.Done():
			return false
		}
	}
}

// close ends the readers and waits for them.
func (b *broadcast) close() {
	close(b.done)
	for _, conn := range []*net.UDPConn{b.conn4, b.conn6} {
		if conn != nil {
			conn.Close()
		}
	}
	b.readers.Wait()
}
