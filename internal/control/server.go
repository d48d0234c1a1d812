package control

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Path is where the control socket is.
const Path = "/run/rpcward.sock"

const (
	requestTimeout = 10 * time.Second // for the headers of a request
	followTimeout  = time.Minute      // then a follower that waits is answered, and asks again
	maxHeader      = 16 << 10         // bytes
)

// Serve answers requests on l until ctx is done.
func Serve(ctx context.Context, l net.Listener, f *Feed, log *slog.Logger) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/registrations", f.serveRegistrations)
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { answer(w, f.Status()) })
	s := &http.Server{
		Handler: mux, ReadHeaderTimeout: requestTimeout, MaxHeaderBytes: maxHeader,
		ConnContext: withPeer, BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		log.Error("the control socket is closed", "err", err)
	}
}

// peer is the key of the user at the other end of a connection.
type peer struct{}

func withPeer(ctx context.Context, c net.Conn) context.Context {
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return ctx
	}
	raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			ctx = context.WithValue(ctx, peer{}, cred.Uid)
		}
	})
	return ctx
}

// mayGuard reports whether the user at the other end may be a guard.
func mayGuard(ctx context.Context) bool {
	uid, ok := ctx.Value(peer{}).(uint32)
	return ok && (uid == 0 || int(uid) == os.Geteuid())
}

func (f *Feed) serveRegistrations(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	after := uint64(0)
	if s := q.Get("after"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			http.Error(w, "after is not a number", http.StatusBadRequest)
			return
		}
		after = n
	}
	guard := q.Get("guard") == "1"
	if guard && !mayGuard(r.Context()) {
		http.Error(w, "a guard must be root or the port mapper's user", http.StatusForbidden)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), followTimeout)
	defer cancel()
	answer(w, f.Follow(ctx, q.Get("epoch"), after, guard))
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v) // the other end may be gone
}
