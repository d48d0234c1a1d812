package load

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"rpcward/oncrpc"
	"rpcward/rpcbind"
)

// Crowd is many connections that do next to nothing.
type Crowd struct {
	Addr    netip.AddrPort // of the server
	Idle    int            // connections that make one call and then none
	Readers int            // that ask for the whole list and don't read it
	Writers int            // that send a call of which a byte comes each second
	From    []netip.Addr   // our addresses, taken by turns; none leaves it to the kernel
	Hurry   time.Duration  // after which no more connections are tried
	Time    time.Duration  // they stay
	Ready   func()         // called when all stand; may be nil
}

// CrowdResult is what became of a crowd.
type CrowdResult struct {
	Connected int     // connections that stood
	Failed    int     // that could not be made
	Closed    int     // that the server closed before the end
	Connect   float64 // seconds that connecting took
}

// Run connects, stays, and counts who was sent away.
func (c Crowd) Run() (CrowdResult, error) {
	begin := time.Now()
	conns, failed := c.connect()
	defer func() {
		for _, conn := range conns {
			conn.Close()
		}
	}()
	if len(conns) == 0 {
		return CrowdResult{}, errors.New("no connection could be made")
	}
	r := CrowdResult{Connected: len(conns), Failed: failed, Connect: time.Since(begin).Seconds()}
	if c.Ready != nil {
		c.Ready()
	}
	c.stay(conns)
	for _, conn := range conns {
		if closed(conn) {
			r.Closed++
		}
	}
	return r, nil
}

// connect makes all connections: first the writers, then readers, then idle ones.
func (c *Crowd) connect() (conns []net.Conn, failed int) {
	const workers = 32
	var (
		all  sync.WaitGroup
		mu   sync.Mutex
		jobs = make(chan int)
		list = make([]net.Conn, c.Writers+c.Readers+c.Idle)
	)
	for range workers {
		all.Go(func() {
			for i := range jobs {
				conn, err := c.one(i)
				mu.Lock()
				if list[i] = conn; err != nil {
					failed++
				}
				mu.Unlock()
			}
		})
	}
	begin := time.Now()
	for i := range list {
		if time.Since(begin) > c.Hurry {
			mu.Lock()
			failed += len(list) - i
			mu.Unlock()
			break
		}
		jobs <- i
	}
	close(jobs)
	all.Wait()
	for _, conn := range list {
		if conn != nil {
			conns = append(conns, conn)
		}
	}
	return conns, failed
}

// one makes the i-th connection and says its first words.
func (c *Crowd) one(i int) (net.Conn, error) {
	d := net.Dialer{Timeout: 2 * time.Second}
	if len(c.From) > 0 {
		d.LocalAddr = &net.TCPAddr{IP: c.From[i%len(c.From)].AsSlice()}
	}
	conn, err := d.Dial("tcp", c.Addr.String())
	if err != nil {
		return nil, err
	}
	switch {
	case i < c.Writers:
		_, err = conn.Write(nullRecord()[:1])
	case i < c.Writers+c.Readers:
		conn.(*net.TCPConn).SetReadBuffer(4 << 10) // so that the server's fills soon
		_, err = conn.Write(record(call(rpcbind.Version4, rpcbind.ProcDump, nil)))
	default:
		err = ask(conn)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// ask makes a call and waits for the reply.
func ask(conn net.Conn) error {
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Write(nullRecord()); err != nil {
		return err
	}
	_, err := oncrpc.ReadRecord(conn, nil, maxReply)
	return err
}

func nullRecord() []byte { return record(call(rpcbind.Version2, rpcbind.ProcNull, nil)) }

func record(message []byte) []byte {
	return oncrpc.EndRecord(append(oncrpc.BeginRecord(nil), message...), 0)
}

// stay waits, while the writers write.
func (c *Crowd) stay(conns []net.Conn) {
	text := nullRecord()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	end := time.After(c.Time)
	for at := 1; ; at++ {
		select {
		case <-end:
			return
		case <-tick.C:
			for _, conn := range conns[:min(c.Writers, len(conns))] {
				conn.Write(text[at%len(text):][:1])
			}
		}
	}
}

// closed reports whether the peer has ended a connection.
func closed(conn net.Conn) bool {
	conn.SetReadDeadline(time.Now().Add(time.Microsecond))
	buf := make([]byte, 64<<10)
	for {
		if _, err := conn.Read(buf); err != nil {
			return !errors.Is(err, os.ErrDeadlineExceeded)
		}
	}
}

// List is what a DUMP showed.
type List struct {
	Entries int
	Bytes   int
	Seconds float64 // from the call to the last byte
}

// maxList is more than the list of a full registry takes, in bytes.
const maxList = 64 << 20

// ListOnce asks for the whole list by version 4 over a stream.
func ListOnce(p Plan) (List, []rpcbind.RPCB[string], error) {
	conn, err := p.dial()
	if err != nil {
		return List{}, nil, err
	}
	defer conn.Close()
	begin := time.Now()
	conn.SetDeadline(begin.Add(p.Timeout))
	if _, err := conn.Write(record(call(rpcbind.Version4, rpcbind.ProcDump, nil))); err != nil {
		return List{}, nil, err
	}
	data, err := oncrpc.ReadRecord(conn, nil, maxList)
	took := time.Since(begin)
	if err != nil {
		return List{}, nil, err
	}
	entries, err := entriesOf(data)
	if err != nil {
		return List{}, nil, fmt.Errorf("the list: %w", err)
	}
	return List{len(entries), len(data), took.Seconds()}, entries, nil
}
