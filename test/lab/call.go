package lab

import (
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"rpcward/oncrpc"
)

// maxReply is more than any port mapper sends in one reply.
const maxReply = 4 << 20

var lastXID atomic.Uint32

// Call sends one RPC call over conn, a record on a stream or a datagram, and
// waits for its reply: of several that arrive, the one with the same
// transaction id. Call sets the id. No reply in time is an error for which
// os.IsTimeout reports true.
func Call(conn net.Conn, c oncrpc.Call, wait time.Duration) (oncrpc.Reply, error) {
	c.XID = lastXID.Add(1)
	if err := conn.SetDeadline(time.Now().Add(wait)); err != nil {
		return oncrpc.Reply{}, err
	}
	datagram := strings.HasPrefix(conn.LocalAddr().Network(), "udp")
	if err := send(conn, &c, datagram); err != nil {
		return oncrpc.Reply{}, err
	}
	for {
		msg, err := receive(conn, datagram)
		if err != nil {
			return oncrpc.Reply{}, err
		}
		reply, err := oncrpc.ParseReply(msg)
		if err != nil {
			return oncrpc.Reply{}, fmt.Errorf("reply % x: %w", msg, err)
		}
		if reply.XID == c.XID {
			return reply, nil
		}
	}
}

func send(conn net.Conn, c *oncrpc.Call, datagram bool) error {
	var b []byte
	if datagram {
		b = oncrpc.AppendCall(b, c)
	} else {
		b = oncrpc.AppendCall(oncrpc.BeginRecord(b), c)
		b = oncrpc.EndRecord(b, 0)
	}
	_, err := conn.Write(b)
	return err
}

func receive(conn net.Conn, datagram bool) ([]byte, error) {
	if !datagram {
		return oncrpc.ReadRecord(conn, nil, maxReply)
	}
	b := make([]byte, 1<<16)
	n, err := conn.Read(b)
	return b[:n], err
}
