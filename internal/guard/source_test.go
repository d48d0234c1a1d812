package guard

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"rpcward/internal/control"
	"rpcward/internal/registry"
	"rpcward/rpcbind"
)

// Sources that have nobody to ask go on asking until they are told to end.
func TestNobodyToAsk(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	path := filepath.Join(t.TempDir(), "nothing")
	for name, s := range map[string]Source{
		"served": &Served{Socket: path, Log: log},
		"polled": &Polled{Socket: path, Every: time.Millisecond, Log: log},
		"either": &Either{Control: path, Socket: path, Log: log},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*comeBack)
			defer cancel()
			err := s.Follow(ctx, func(list []registry.Registration) bool {
				t.Errorf("registered: %v", list)
				return true
			})
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("ended with %v", err)
			}
		})
	}
}

// portMapper is a registry with a control socket.
type portMapper struct {
	*registry.Registry
	end func()
}

func startPortMapper(t *testing.T, path string, list ...registry.Registration) *portMapper {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	f := control.NewFeed(nil, log)
	r := registry.New(nil, list, f)
	if err := f.Save(nil, r.Snapshot()); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var ended sync.WaitGroup
	ended.Go(func() { control.Serve(ctx, l, f, log) })
	end := sync.OnceFunc(func() { cancel(); ended.Wait() })
	t.Cleanup(end)
	return &portMapper{r, end}
}

// Either finds a port mapper of ours that comes, and the next one, and waits
// until what they register is guarded.
func TestEitherFollows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control")
	e := &Either{Control: path, Socket: path + ".none", Log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(t.Context())
	lists, answers := make(chan []registry.Registration), make(chan bool)
	var follower sync.WaitGroup
	follower.Go(func() {
		e.Follow(ctx, func(list []registry.Registration) bool {
			select {
			case lists <- list:
				return <-answers
			case <-ctx.Done():
				return false
			}
		})
	})
	defer follower.Wait()
	defer cancel()

	first := startPortMapper(t, path, registration(1, rpcbind.TCP, 700, "superuser"))
	if got := <-lists; len(got) != 1 {
		t.Errorf("at first: %v", got)
	}
	answers <- true
	published := make(chan bool)
	go func() {
		ok, _ := first.Set(registration(2, rpcbind.TCP, 701, "superuser"))
		published <- ok
	}()
	if got := <-lists; len(got) != 2 {
		t.Errorf("after a SET: %v", got)
	}
	if n := first.Snapshot().Len(); n != 1 {
		t.Errorf("%d registrations are published before the last is guarded", n)
	}
	answers <- true
	if !<-published {
		t.Error("SET failed")
	}
	first.end()
	startPortMapper(t, path)
	if got := <-lists; len(got) != 0 {
		t.Errorf("of the next port mapper: %v", got)
	}
	answers <- true
}
