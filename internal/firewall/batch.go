package firewall

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"rpcward/internal/ruleset"
)

// batch is one transaction of nftables: messages that take effect together or
// not at all. github.com/google/nftables has one too, but it writes no table
// flags and its errors don't say which message they are about. Names of
// attributes are those of linux/netfilter/nf_tables.h.
type batch struct {
	table    string
	messages []netlink.Message
	names    []string
	err      error // first error of encoding
	setID    uint32
}

// Flags of a table; the last one is not in x/sys.
const (
	tableDormant = 1 // NFT_TABLE_F_DORMANT
	tableOwner   = 2 // NFT_TABLE_F_OWNER
	tablePersist = 4 // NFT_TABLE_F_PERSIST, Linux 6.9
)

const nfAccept = 1 // NF_ACCEPT, linux/netfilter.h

// newBatch returns an empty transaction about our table.
func newBatch() *batch { return &batch{table: ruleset.NFTTable} }

// add appends a message about the table. name is for errors.
func (b *batch) add(name string, kind int, flags netlink.HeaderFlags, fill func(*netlink.AttributeEncoder)) {
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	ae.String(1, b.table) // NFTA_*_TABLE, and NFTA_TABLE_NAME, are all 1
	fill(ae)
	data, err := ae.Encode()
	if err != nil && b.err == nil {
		b.err = fmt.Errorf("%s: %w", name, err)
	}
	b.names = append(b.names, name)
	b.messages = append(b.messages, netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: netlink.Request | netlink.Acknowledge | flags},
		Data:   append([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, data...),
	})
}

func (b *batch) addTable(flags uint32) {
	b.add("adding the table", unix.NFT_MSG_NEWTABLE, netlink.Create, func(ae *netlink.AttributeEncoder) { ae.Uint32(unix.NFTA_TABLE_FLAGS, flags) })
}

func (b *batch) delTable() {
	b.add("removing the table", unix.NFT_MSG_DELTABLE, 0, func(*netlink.AttributeEncoder) {})
}

func (b *batch) addChain(name string) {
	b.add("adding chain "+name, unix.NFT_MSG_NEWCHAIN, netlink.Create, func(ae *netlink.AttributeEncoder) { ae.String(unix.NFTA_CHAIN_NAME, name) })
}

func (b *batch) addBaseChain() {
	b.add("adding the base chain", unix.NFT_MSG_NEWCHAIN, netlink.Create, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_CHAIN_NAME, ruleset.NFTInput)
		ae.Nested(unix.NFTA_CHAIN_HOOK, func(ae *netlink.AttributeEncoder) error {
			ae.ByteOrder = binary.BigEndian
			ae.Uint32(unix.NFTA_HOOK_HOOKNUM, unix.NF_INET_LOCAL_IN)
			priority := int32(ruleset.NFTPriority)
			ae.Uint32(unix.NFTA_HOOK_PRIORITY, uint32(priority))
			return nil
		})
		ae.Uint32(unix.NFTA_CHAIN_POLICY, nfAccept)
		ae.String(unix.NFTA_CHAIN_TYPE, "filter")
	})
}

func (b *batch) delChain(name string) {
	b.add("removing chain "+name, unix.NFT_MSG_DELCHAIN, 0, func(ae *netlink.AttributeEncoder) { ae.String(unix.NFTA_CHAIN_NAME, name) })
}

// flushChain removes the rules of a chain; without a chain, those of all.
func (b *batch) flushChain(name string) {
	b.add("emptying chain "+name, unix.NFT_MSG_DELRULE, 0, func(ae *netlink.AttributeEncoder) {
		if name != "" {
			ae.String(unix.NFTA_RULE_CHAIN, name)
		}
	})
}

func (b *batch) addRule(chain string, exprs []expr.Any) {
	b.add("adding a rule to chain "+chain, unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_RULE_CHAIN, chain)
		ae.Nested(unix.NFTA_RULE_EXPRESSIONS, func(ae *netlink.AttributeEncoder) error {
			for _, e := range exprs {
				data, err := expr.Marshal(unix.NFPROTO_INET, e)
				if err != nil {
					return err
				}
				ae.Bytes(unix.NLA_F_NESTED|unix.NFTA_LIST_ELEM, data)
			}
			return nil
		})
	})
}

// addSet adds a set with a type that nft knows how to print.
func (b *batch) addSet(name string, flags, keyType, keyLen uint32, more func(*netlink.AttributeEncoder)) {
	b.setID++
	b.add("adding set "+name, unix.NFT_MSG_NEWSET, netlink.Create, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_SET_NAME, name)
		ae.Uint32(unix.NFTA_SET_FLAGS, flags)
		ae.Uint32(unix.NFTA_SET_KEY_TYPE, keyType)
		ae.Uint32(unix.NFTA_SET_KEY_LEN, keyLen)
		ae.Uint32(unix.NFTA_SET_ID, b.setID)
		more(ae)
	})
}

func (b *batch) delSet(name string) {
	b.add("removing set "+name, unix.NFT_MSG_DELSET, 0, func(ae *netlink.AttributeEncoder) { ae.String(unix.NFTA_SET_NAME, name) })
}

// element is an element of a set or of the map of ports.
type element struct {
	key   []byte
	end   bool   // NFT_SET_ELEM_INTERVAL_END
	chain string // of the map: where to jump
}

// elements adds or deletes elements of a set.
func (b *batch) elements(kind int, set string, list []element) {
	b.add("changing set "+set, kind, netlink.Create, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_SET_ELEM_LIST_SET, set)
		ae.Nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(ae *netlink.AttributeEncoder) error {
			for _, e := range list {
				ae.Nested(unix.NFTA_LIST_ELEM, e.encode)
			}
			return nil
		})
	})
}

func (e element) encode(ae *netlink.AttributeEncoder) error {
	ae.ByteOrder = binary.BigEndian
	if e.end {
		ae.Uint32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
	}
	ae.Nested(unix.NFTA_SET_ELEM_KEY, func(ae *netlink.AttributeEncoder) error {
		ae.Bytes(unix.NFTA_DATA_VALUE, e.key)
		return nil
	})
	if e.chain != "" {
		ae.Nested(unix.NFTA_SET_ELEM_DATA, func(ae *netlink.AttributeEncoder) error {
			ae.Nested(unix.NFTA_DATA_VERDICT, func(ae *netlink.AttributeEncoder) error {
				ae.ByteOrder = binary.BigEndian
				jump := int32(unix.NFT_JUMP)
				ae.Uint32(unix.NFTA_VERDICT_CODE, uint32(jump))
				ae.String(unix.NFTA_VERDICT_CHAIN, e.chain)
				return nil
			})
			return nil
		})
	}
	return nil
}

// flushSet removes all elements of a set.
func (b *batch) flushSet(name string) {
	b.add("emptying set "+name, unix.NFT_MSG_DELSETELEM, 0, func(ae *netlink.AttributeEncoder) { ae.String(unix.NFTA_SET_ELEM_LIST_SET, name) })
}

// patience bounds how long the kernel may take for a transaction. It answers
// before sendmsg(2) returns; only a lost answer is waited for.
const patience = 10 * time.Second

// send does the transaction. After an error the connection is out of step:
// answers may be left in it.
func (b *batch) send(conn *netlink.Conn) error {
	if b.err != nil || len(b.messages) == 0 {
		return b.err
	}
	mark := func(kind int) netlink.Message {
		return netlink.Message{
			Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request},
			Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES}, // res_id is big endian
		}
	}
	all := append([]netlink.Message{mark(unix.NFNL_MSG_BATCH_BEGIN)}, b.messages...)
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := conn.SendMessages(append(all, mark(unix.NFNL_MSG_BATCH_END))); err != nil {
		return fmt.Errorf("sending %d messages: %w", len(all), err)
	}
	// The kernel acknowledges each message, in their order.
	for done := 0; done < len(b.names); {
		acks, err := conn.Receive()
		if err != nil {
			return fmt.Errorf("%s: %w", b.names[done], err)
		}
		done += len(acks)
	}
	return nil
}
