package cli

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"

	"rpcward/oncrpc"
	"rpcward/rpcbind/client"
)

// RPC tools print failures in the words of libtirpc, and scripts look for them:
// createWords are clnt_pcreateerror(3)'s, for what fails before the call that
// was asked for; callWords are clnt_perror(3)'s, for that call.

// unknownCode is what libtirpc says of the failures that it has no text for,
// such as a name or an address that can't be used.
const unknownCode = "RPC: (unknown error code)"

// createWords says why there is nobody to call.
func createWords(err error) string {
	var addr *net.AddrError
	if errors.As(err, &addr) {
		return unknownCode
	}
	var reply *oncrpc.ReplyError
	if errors.As(err, &reply) {
		return reply.Status()
	}
	words, _, _ := strings.Cut(callWords(err), "; errno = ")
	return words
}

// callWords says why a call failed.
func callWords(err error) string {
	var (
		reply *oncrpc.ReplyError
		dns   *net.DNSError
		op    *net.OpError
		errno syscall.Errno
	)
	if errno, ok := dialErrno(err); ok {
		return "RPC: Remote system error - " + errnoText(errno)
	}
	switch {
	case errors.As(err, &reply):
		return reply.Error()
	case errors.Is(err, client.ErrNotRegistered):
		return "RPC: Program not registered"
	case errors.Is(err, client.ErrResult):
		return "RPC: Can't decode result"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return "RPC: Timed out"
	case errors.As(err, &dns):
		return "RPC: Unknown host"
	case errors.As(err, &op) && errors.As(err, &errno) && op.Op == "read":
		return "RPC: Unable to receive; errno = " + errnoText(errno)
	case errors.As(err, &op) && errors.As(err, &errno):
		return "RPC: Unable to send; errno = " + errnoText(errno)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "RPC: Unable to receive; errno = " + errnoText(syscall.ECONNRESET)
	default:
		return "RPC: Can't decode result"
	}
}

// dialErrno returns the reason for which a stream was not connected. Datagram
// sockets count as connected by their first datagram.
func dialErrno(err error) (syscall.Errno, bool) {
	var op *net.OpError
	var errno syscall.Errno
	if !errors.As(err, &op) || op.Op != "dial" || strings.HasPrefix(op.Net, "udp") {
		return 0, false
	}
	if op.Timeout() {
		return syscall.ETIMEDOUT, true
	}
	return errno, errors.As(err, &errno)
}

// errnoText is strerror(3): Go has the same words without the capital.
func errnoText(errno syscall.Errno) string {
	text := errno.Error()
	return strings.ToUpper(text[:1]) + text[1:]
}
