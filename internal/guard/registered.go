package guard

import (
	"context"
	"errors"
	"time"

	"rpcward/internal/control"
	"rpcward/internal/registry"
)

// askPatience is how long a port mapper may take to tell what is registered.
const askPatience = 5 * time.Second

// ErrNoPortMapper says that nobody listens on either socket.
var ErrNoPortMapper = errors.New("no port mapper answers")

// Registered asks once what is registered: the port mapper whose control socket
// is at the first path, else any other one over its unix socket at the second.
func Registered(ctx context.Context, controlSocket, socket string) ([]registry.Registration, error) {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	switch {
	case answers(controlSocket):
		c := control.NewClient(controlSocket)
		defer c.Close()
		u, err := c.Follow(ctx, "", 0, false)
		f := follower{known: map[registry.Key]registry.Registration{}}
		f.take(&u)
		return f.list(), err
	case answers(socket):
		return (&Polled{Socket: socket}).dump(ctx)
	}
	return nil, ErrNoPortMapper
}
