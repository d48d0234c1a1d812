package firewall

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"rpcward/internal/ruleset"
)

// attributes reads attributes of nftables, whose numbers are big endian.
func attributes(b []byte) (*netlink.AttributeDecoder, error) {
	ad, err := netlink.NewAttributeDecoder(b)
	if err == nil {
		ad.ByteOrder = binary.BigEndian
	}
	return ad, err
}

// generation is a NFT_MSG_NEWGEN, which ends the events of a transaction.
type generation struct {
	id, pid uint32
	process string
}

func parseGeneration(b []byte) (g generation, err error) {
	if len(b) < 4 {
		return g, errors.New("generation of less than a header")
	}
	ad, err := attributes(b[4:])
	if err != nil {
		return g, err
	}
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_GEN_ID:
			g.id = ad.Uint32()
		case unix.NFTA_GEN_PROC_PID:
			g.pid = ad.Uint32()
		case unix.NFTA_GEN_PROC_NAME:
			g.process = ad.String()
		}
	}
	return g, ad.Err()
}

// watchedTable says whose events count.
type watchedTable struct {
	family byte
	name   string
}

// nftEvents follows the events of nftables about some tables, save for those
// whose sender ours knows.
type nftEvents struct {
	netns   int
	tables  []watchedTable
	ours    func(portID uint32) bool
	changed func(Foreign)
}

// settle is how long it stays quiet before a change is told, so that a script
// of many commands is told once, and not half done.
const settle = 20 * time.Millisecond

// run follows until ctx ends.
func (e *nftEvents) run(ctx context.Context) error {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: e.netns, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	if err != nil {
		return fmt.Errorf("watching nftables: %w", err)
	}
	defer conn.Close()
	if err := conn.SetReadBuffer(buffer); err != nil {
		return fmt.Errorf("watching nftables: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	e.changed(Foreign{Why: "watching started"})
	var pending *Foreign
	dirty := false
	for ctx.Err() == nil {
		if pending != nil {
			conn.SetReadDeadline(time.Now().Add(settle))
		} else {
			conn.SetReadDeadline(time.Time{})
		}
		if ctx.Err() != nil { // or its deadline was overwritten
			break
		}
		messages, err := conn.Receive()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if pending != nil {
				e.changed(*pending)
				pending = nil
			}
			continue
		case errors.Is(err, unix.ENOBUFS):
			pending = &Foreign{Why: "events were lost"}
			continue
		case err != nil:
			return fmt.Errorf("watching nftables: %w", err)
		}
		for _, m := range messages {
			if m.Header.Type == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN {
				if dirty {
					g, _ := parseGeneration(m.Data) // what can't be read is not known
					pending, dirty = &Foreign{PID: g.pid, Process: g.process, Why: "changed"}, false
				}
			} else if e.concerns(m) {
				dirty = true
			}
		}
	}
	return ctx.Err()
}

// concerns reports whether an event is about a watched table and not ours. In
// all kinds of events the table's name is the first attribute.
func (e *nftEvents) concerns(m netlink.Message) bool {
	if len(m.Data) < 4 || m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || e.ours != nil && e.ours(m.Header.PID) {
		return false
	}
	ad, err := attributes(m.Data[4:])
	if err != nil {
		return true
	}
	for ad.Next() {
		if ad.Type() == unix.NFTA_TABLE_NAME {
			return slices.Contains(e.tables, watchedTable{m.Data[0], ad.String()})
		}
	}
	return true
}

// Watch is Firewall.Watch.
func (n *NFT) Watch(ctx context.Context, changed func(Foreign)) error {
	e := nftEvents{
		netns: n.options.NetNS, changed: changed,
		tables: []watchedTable{{unix.NFPROTO_INET, ruleset.NFTTable}, {unix.NFPROTO_INET, ruleset.NFTSpare}},
		ours: func(portID uint32) bool {
			n.mu.Lock()
			defer n.mu.Unlock()
			return slices.Contains(n.ids, portID)
		},
	}
	return e.run(ctx)
}
