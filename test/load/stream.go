package load

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"rpcward/oncrpc"
)

// dial connects to the plan's server over a stream.
func (p *Plan) dial() (net.Conn, error) {
	if p.Network == "unix" {
		return net.Dial("unix", p.Path)
	}
	return net.Dial("tcp", p.Addr.String())
}

// streamLoop is one connection at work: calls are pipelined, replies come in
// the order of the calls.
type streamLoop struct {
	*Plan
	*span
	*tally
	conn  net.Conn
	r     *bufio.Reader
	asker Asker

	way  []slot // calls under way, oldest first
	out  []byte
	in   []byte
	xid  uint32
	left uint64 // calls to make, if Count says so
}

// maxReply is more than a reply to what streams ask here; lists have ListOnce.
const maxReply = 64 << 10

func (p *Plan) stream(socket int, s *span, t *tally) error {
	conn, err := p.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	l := &streamLoop{
		Plan: p, span: s, tally: t, conn: conn, r: bufio.NewReaderSize(conn, maxReply),
		asker: p.Asker(socket), left: p.Count,
	}
	if err := l.run(); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("after %d replies: %w", l.answered, err)
	} else if err != nil {
		l.loseAll()
	}
	return nil
}

// loseAll counts what is under way as lost: a stream that breaks or stalls takes
// all of it.
func (l *streamLoop) loseAll() {
	for _, s := range l.way {
		if s.counts {
			l.lost++
		}
	}
}

func (l *streamLoop) run() error {
	for {
		now := time.Now()
		if now.Before(l.end) && (l.Count == 0 || l.left > 0) {
			if err := l.send(now); err != nil {
				return err
			}
		} else if len(l.way) == 0 {
			return nil
		}
		if err := l.receive(); err != nil {
			return err
		}
	}
}

// send begins as many calls as the window lets, with one write.
func (l *streamLoop) send(now time.Time) error {
	l.out = l.out[:0]
	for len(l.way) < l.Window && (l.Count == 0 || l.left > 0) {
		l.xid++
		l.left--
		s := slot{xid: l.xid, sent: now, counts: !now.Before(l.begin), ask: l.asker.Next()}
		if s.counts {
			l.sent++
		}
		l.way = append(l.way, s)
		start := len(l.out)
		l.out = append(oncrpc.BeginRecord(l.out), s.ask.Call...)
		putXID(l.out[start+4:], s.xid)
		l.out = oncrpc.EndRecord(l.out, start)
	}
	if len(l.out) == 0 {
		return nil
	}
	l.conn.SetDeadline(now.Add(l.Timeout))
	_, err := l.conn.Write(l.out)
	return err
}

// receive waits for a reply and takes all that have come.
func (l *streamLoop) receive() error {
	taken := 0
	for len(l.way) > taken && (taken == 0 || l.r.Buffered() > 0) {
		reply, err := oncrpc.ReadRecord(l.r, l.in[:0], maxReply)
		if err != nil {
			l.way = l.way[taken:]
			return err
		}
		l.in = reply
		l.take(&l.way[taken], reply)
		taken++
	}
	l.way = append(l.way[:0], l.way[taken:]...)
	return nil
}

func (l *streamLoop) take(s *slot, reply []byte) {
	now := time.Now()
	switch {
	case len(reply) < 4 || xidOf(reply) != s.xid || !s.ask.right(reply):
		l.wrong++
	case l.measures(now):
		l.answered++
		l.latency.Record(now.Sub(s.sent))
	}
}

// Ask makes one call over a stream and reports whether the reply is right.
func Ask(conn net.Conn, q Question, timeout time.Duration) (right bool, err error) {
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return false, err
	}
	if _, err := conn.Write(record(q.Call)); err != nil {
		return false, err
	}
	reply, err := oncrpc.ReadRecord(conn, nil, maxReply)
	if err != nil {
		return false, err
	}
	return q.right(reply), nil
}
