package control

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// Client asks a port mapper over its control socket.
type Client struct{ http http.Client }

// NewClient returns a client for the socket at path. It connects when it asks.
func NewClient(path string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
	return &Client{http: http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConns: 1}}}
}

// Close closes the connections that are not in use.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Follow asks for what changed after the change number after of epoch, none at
// first. It waits until there is something, or for about a minute, after which
// the Update is empty. A guard says by asking that all up to after is guarded.
func (c *Client) Follow(ctx context.Context, epoch string, after uint64, guard bool) (Update, error) {
	q := url.Values{}
	if epoch != "" {
		q.Set("epoch", epoch)
		q.Set("after", strconv.FormatUint(after, 10))
	}
	if guard {
		q.Set("guard", "1")
	}
	var u Update
	err := c.get(ctx, "/v1/registrations?"+q.Encode(), &u)
	return u, err
}

// Status asks for the status.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	err := c.get(ctx, "/v1/status", &s)
	return s, err
}

func (c *Client) get(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://rpcward"+path, nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("asking the port mapper: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return fmt.Errorf("asking the port mapper: %s", strings.TrimSpace(string(text)))
	}
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return fmt.Errorf("asking the port mapper: %w", err)
	}
	return nil
}
