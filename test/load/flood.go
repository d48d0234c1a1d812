package load

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Flood is a load that expects no answer.
type Flood struct {
	Kind     Kind
	Addr     netip.AddrPort // of the server, IPv4
	Rate     float64        // packets or connections per second; 0 is as fast as one core sends
	Time     time.Duration
	Prefixes int // for Spoofed and HalfOpen, the number of /24 that the packets come from
}

// Kind is what a flood is made of.
type Kind string

// The kinds of floods.
const (
	Calls     Kind = "calls"     // version 2 GETPORT over UDP, which a stranger is refused
	Garbage   Kind = "garbage"   // datagrams of random bytes
	Fragments Kind = "fragments" // first fragments of datagrams that never become whole
	Spoofed   Kind = "spoofed"   // calls from as many networks as Prefixes says
	HalfOpen  Kind = "half-open" // TCP SYNs from as many networks as Prefixes says
	Connects  Kind = "connects"  // full TCP connections, closed at once
)

// Kinds lists all kinds of floods.
var Kinds = []Kind{Calls, Garbage, Fragments, Spoofed, HalfOpen, Connects}

// Run sends the flood. Result has Sent, Seconds, PerSecond and Busy.
func (f Flood) Run() (Result, error) {
	used, begin := processorTime(), time.Now()
	var sent uint64
	var err error
	switch f.Kind {
	case Calls, Garbage:
		sent, err = f.datagrams()
	case Fragments, Spoofed, HalfOpen:
		sent, err = f.raw()
	case Connects:
		sent, err = f.connects()
	default:
		err = fmt.Errorf("no kind of flood is called %q", f.Kind)
	}
	took := time.Since(begin)
	return Result{
		Sent: sent, Seconds: took.Seconds(), PerSecond: float64(sent) / took.Seconds(),
		Busy: float64(processorTime()-used) / float64(took),
	}, err
}

// pace says how much may be sent by now.
type pace struct {
	rate  float64
	begin time.Time
	end   time.Time
	sent  uint64
}

func (f *Flood) pace() pace {
	unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	now := time.Now()
	return pace{rate: f.Rate, begin: now, end: now.Add(f.Time)}
}

// next waits until something may be sent and returns how much, at most; 0 at
// the end. After a stall of ours it does not make up for all of it.
func (p *pace) next(most int) int {
	for {
		now := time.Now()
		if !now.Before(p.end) {
			return 0
		}
		if p.rate == 0 {
			return most
		}
		due := int64(now.Sub(p.begin).Seconds()*p.rate) - int64(p.sent)
		if late := due - int64(p.rate/20); late > 0 {
			p.begin = p.begin.Add(time.Duration(float64(late) / p.rate * float64(time.Second)))
		}
		if due >= int64(most) || due >= max(int64(p.rate/2000), 1) {
			return min(int(due), most)
		}
		ts := unix.NsecToTimespec(int64(min(float64(most)/p.rate, .0005) * 1e9))
		unix.Nanosleep(&ts, nil)
	}
}

// datagrams sends from an ordinary socket.
func (f *Flood) datagrams() (uint64, error) {
	fd, err := dialUDP(f.Addr)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	message := GetPort(0).Call
	if f.Kind == Garbage {
		message = make([]byte, len(message))
	}
	out := segments{fd: fd}
	rng := rand.New(rand.NewPCG(1, 2))
	p := f.pace()
	for n := p.next(batchSize); n > 0; n = p.next(batchSize) {
		for range n {
			datagram, err := out.add(message)
			if err != nil {
				return p.sent, err
			}
			if putXID(datagram, rng.Uint32()); f.Kind == Garbage {
				binary.NativeEndian.PutUint64(datagram[4+rng.IntN(len(datagram)-12):], rng.Uint64())
			}
		}
		if err := out.flush(); err != nil {
			return p.sent, err
		}
		p.sent += uint64(n)
	}
	return p.sent, nil
}

// connects opens and closes connections, several at a time.
func (f *Flood) connects() (uint64, error) {
	const workers = 16
	var (
		sent atomic.Uint64
		all  sync.WaitGroup
	)
	for range workers {
		all.Go(func() {
			one := *f
			one.Rate = f.Rate / workers
			p := one.pace()
			d := net.Dialer{Timeout: 100 * time.Millisecond}
			for p.next(1) > 0 {
				conn, err := d.Dial("tcp", f.Addr.String())
				if err == nil {
					conn.(*net.TCPConn).SetLinger(0) // no TIME_WAIT, which would use up our ports
					conn.Close()
				}
				p.sent++
				sent.Add(1)
			}
		})
	}
	all.Wait()
	return sent.Load(), nil
}

// raw sends packets with IP headers of our own, ip(7).
func (f *Flood) raw() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return 0, fmt.Errorf("raw socket: %w", err)
	}
	defer unix.Close(fd)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, socketBuffer)
	b := newBatch(batchSize, 256)
	b.toEach(&unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: f.Addr.Addr().As4()})
	packet := f.packet()
	number := uint32(0)
	p := f.pace()
	for n := p.next(batchSize); n > 0; n = p.next(batchSize) {
		for i := range n {
			number++
			f.vary(b.put(i, packet), number)
		}
		k, err := b.send(fd, 0, n)
		if err != nil {
			return p.sent, fmt.Errorf("sending: %w", err)
		}
		p.sent += uint64(k)
	}
	return p.sent, nil
}

// Places in the packets below, RFC 791, RFC 768 and RFC 9293.
const (
	ipHeader   = 20
	ipID       = 4
	ipFragment = 6
	ipSource   = 12
	udpHeader  = 8
	tcpHeader  = 20
	tcpSeq     = 4
	tcpSum     = 16
)

// packet is what the flood sends, but for what vary changes.
func (f *Flood) packet() []byte {
	var body []byte
	protocol := byte(unix.IPPROTO_UDP)
	if f.Kind == HalfOpen {
		protocol = unix.IPPROTO_TCP
		body = make([]byte, tcpHeader)
		body[12] = tcpHeader / 4 << 4 // data offset
		body[13] = 2                  // SYN
		binary.BigEndian.PutUint16(body[14:], 0xffff)
	} else {
		message := GetPort(0).Call
		body = append(make([]byte, udpHeader), message...) // no checksum, RFC 768
		binary.BigEndian.PutUint16(body[4:], uint16(len(body)))
		if f.Kind == Fragments {
			body = body[:48] // fragments but the last one come in units of 8 bytes
		}
	}
	binary.BigEndian.PutUint16(body, 40000)
	binary.BigEndian.PutUint16(body[2:], f.Addr.Port())
	h := make([]byte, ipHeader) // length and checksum are the kernel's to fill in
	h[0], h[8], h[9] = 4<<4|ipHeader/4, 64, protocol
	if f.Kind == Fragments {
		h[ipFragment] = 0x20 // more fragments follow
	}
	to := f.Addr.Addr().As4()
	copy(h[16:], to[:])
	return append(h, body...)
}

// firstSpoofed begins the addresses that are spoofed: 11.0.0.0/8, whose owners
// no namespace of a test reaches.
const firstSpoofed = 11 << 24

// vary makes a packet the number-th of a flood.
func (f *Flood) vary(packet []byte, number uint32) {
	body := packet[ipHeader:]
	switch f.Kind {
	case Fragments: // of another datagram each, from our own address, which is filled in
		binary.BigEndian.PutUint16(packet[ipID:], uint16(number)|1)
	case Spoofed:
		binary.BigEndian.PutUint32(packet[ipSource:], f.source(number))
		putXID(body[udpHeader:], number)
	case HalfOpen:
		binary.BigEndian.PutUint32(packet[ipSource:], f.source(number))
		binary.BigEndian.PutUint16(body, uint16(1024+number%60000))
		binary.BigEndian.PutUint32(body[tcpSeq:], number*2654435761)
		binary.BigEndian.PutUint16(body[tcpSum:], 0)
		binary.BigEndian.PutUint16(body[tcpSum:], tcpChecksum(packet))
	}
}

// source is the address that a packet pretends to come from, one in each /24.
func (f *Flood) source(number uint32) uint32 {
	return firstSpoofed + number%uint32(max(f.Prefixes, 1))<<8 + 5
}

// tcpChecksum is the checksum of a segment with its pseudo header, RFC 9293,
// Section 3.1.
func tcpChecksum(packet []byte) uint16 {
	body := packet[ipHeader:]
	sum := uint32(unix.IPPROTO_TCP) + uint32(len(body))
	for _, part := range [][]byte{packet[ipSource:ipHeader], body} {
		for i := 0; i+1 < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
