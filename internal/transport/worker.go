package transport

import (
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"rpcward/internal/policy"
	"rpcward/internal/portmapper"
)

// maxWorkers bounds the goroutines for datagrams. Each answers some hundred
// thousand calls a second and has sockets of its own.
const maxWorkers = 4

// Workers returns how many goroutines are worth having for datagrams here: one
// for each processor that this process may use, within reason.
func Workers() int { return min(runtime.NumCPU(), maxWorkers) }

// errorPause keeps a socket that only gives errors from taking a processor.
const errorPause = time.Millisecond

// datagramWorker answers the datagrams of some sockets, a batch of each that
// has any by turns, so that a flood of one does not hold up the others. All it
// needs is allocated before the loop.
//
// It waits in epoll_wait(2) on a thread of its own and not in the runtime's
// poller, which looks at the network only when it has nothing else to do.
type datagramWorker struct {
	server  *Server
	sockets []*datagramSocket
	batch   *batch
	mapper  *portmapper.Worker
	origin  policy.Origin
	epoll   int
	wake    int // eventfd(2) that ends the loop
	ready   [maxReady]unix.EpollEvent
}

// maxReady is how many sockets one round looks at.
const maxReady = 16

// newDatagramWorker prepares to serve sockets.
func newDatagramWorker(s *Server, sockets []*datagramSocket) (*datagramWorker, error) {
	w := &datagramWorker{server: s, sockets: sockets, batch: newBatch(), mapper: s.mapper.NewWorker(), epoll: -1, wake: -1}
	err := w.open()
	if err != nil {
		w.close()
		return nil, fmt.Errorf("waiting for datagrams: %w", err)
	}
	return w, nil
}

func (w *datagramWorker) open() (err error) {
	if w.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	if w.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return err
	}
	if err := w.watch(w.wake, -1); err != nil {
		return err
	}
	for i, d := range w.sockets {
		if err := w.watch(d.fd, int32(i)); err != nil {
			return err
		}
	}
	return nil
}

// watch makes epoll tell when fd can be read, under the name of index.
func (w *datagramWorker) watch(fd int, index int32) error {
	return unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: index})
}

func (w *datagramWorker) close() {
	for _, fd := range []int{w.epoll, w.wake} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// stop ends serve, from any goroutine.
func (w *datagramWorker) stop() {
	one := [8]byte{1}
	unix.Write(w.wake, one[:])
}

// serve answers until it is stopped.
func (w *datagramWorker) serve() {
	for {
		n, err := unix.EpollWait(w.epoll, w.ready[:], -1)
		if err != nil && err != unix.EINTR {
			w.fault()
		}
		for _, e := range w.ready[:max(n, 0)] {
			if e.Fd < 0 {
				return
			}
			w.turn(w.sockets[e.Fd])
		}
	}
}

func (w *datagramWorker) fault() {
	w.server.counts.readErrors.Add(1)
	time.Sleep(errorPause)
}

// turn answers one batch of a socket.
func (w *datagramWorker) turn(d *datagramSocket) {
	n, errno := w.batch.receive(d.fd)
	switch errno {
	case 0:
	case unix.EAGAIN, unix.EINTR:
		return
	default:
		w.fault()
		return
	}
	d.received += uint64(n)
	now := clock()
	for i := range n {
		w.answer(d, i, now)
		w.batch.renew(i)
	}
	w.flush(d)
}

func (w *datagramWorker) answer(d *datagramSocket, i int, now int64) {
	b := w.batch
	msg, ok := b.call(i)
	if !ok || !d.stamp(&w.origin, b, i, w.server.reserved) {
		return
	}
	w.origin.At = now
	if b.full() {
		w.flush(d)
	}
	reply, outcome := w.mapper.Answer(b.replies[len(b.replies):], msg, &w.origin)
	switch outcome {
	case portmapper.Reply:
		b.reply(i, reply, w.origin.Local.Addr(), d.ifindex, d.netid.Is6())
	case portmapper.Refused:
		if d.refused.add(now, floodDatagrams) {
			w.server.shield.raise()
		}
	case portmapper.Forward:
		w.server.forward(&w.mapper.Forwarded, d, b.from[i].sockaddr())
	}
}

func (w *datagramWorker) flush(d *datagramSocket) {
	if lost := w.batch.send(d.fd); lost > 0 {
		w.server.counts.writeErrors.Add(uint64(lost))
	}
}
