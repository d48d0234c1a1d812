package warmstart

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"rpcward/internal/registry"
	"rpcward/rpcbind"
	"rpcward/xdr"
)

var compare = cmp.Options{cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })}

// own are the port mapper's own registrations.
var own = []registry.Registration{
	at(rpcbind.Program, 4, rpcbind.TCP, "0.0.0.0.0.111", registry.Superuser),
	at(rpcbind.Program, 2, rpcbind.UDP, "0.0.0.0.0.111", registry.Superuser),
	at(rpcbind.Program, 4, rpcbind.Local, "/run/rpcbind.sock", registry.Superuser),
}

func at(program, version uint32, n rpcbind.NetID, addr, owner string) registry.Registration {
	ap, _ := rpcbind.ParseUAddr([]byte(addr))
	return registry.Registration{Key: registry.Key{Program: program, Version: version, NetID: n}, Addr: addr, IP: ap, Owner: owner}
}

func snapshot(services ...registry.Registration) *registry.Snapshot {
	return registry.New(own, services, nil).Snapshot()
}

func services(s *registry.Snapshot) []registry.Registration {
	var list []registry.Registration
	for r := range s.Services() {
		list = append(list, *r)
	}
	return list
}

// appendVersion1 writes a file as the first version of the format was.
func appendVersion1(b []byte, st *state, s *registry.Snapshot) []byte {
	start := len(b)
	b = append(b, version1Magic...)
	b = xdr.AppendString(b, st.boot)
	b = xdr.AppendBool(b, st.exported)
	for _, id := range st.seen {
		for _, v := range []uint64{id.Inode, id.Size, id.ModTime} {
			b = binary.BigEndian.AppendUint64(b, v)
		}
	}
	count := uint32(0)
	for r := range s.Services() {
		b = append(b, item(r.Program, r.Version, r.NetID.String(), r.Addr, r.Owner)...)
		count++
	}
	b = xdr.AppendUint32(xdr.AppendBool(b, false), count)
	return xdr.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

// fileOf writes a file of batches of changes.
func fileOf(st *state, batches ...[]registry.Change) []byte {
	b, seed := appendHead(nil, [identitySize]byte{1, 2, 3}, st)
	j := journal{seed: seed}
	for _, changes := range batches {
		var err error
		if b, err = j.appendBatch(b, changes); err != nil {
			panic(err)
		}
		j.next += uint32(len(changes))
	}
	return b
}

// sets are the changes that register services.
func sets(services ...registry.Registration) []registry.Change {
	var changes []registry.Change
	for _, r := range services {
		changes = append(changes, registry.Change{Set: &r})
	}
	return changes
}

// anyService draws what can be registered.
var anyService = rapid.Custom(func(t *rapid.T) registry.Registration {
	n := rapid.SampledFrom([]rpcbind.NetID{
		rpcbind.TCP, rpcbind.UDP, rpcbind.TCP6, rpcbind.UDP6, rpcbind.Local, rpcbind.UnixID, rpcbind.SCTP, rpcbind.RDMA6,
	}).Draw(t, "netid")
	var addr string
	switch {
	case n.IsLocal():
		addr = rapid.StringMatching(`/[a-zA-Z0-9_./ -]{1,106}`).Draw(t, "path")
	case n.Is6():
		ip := netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "ip")))
		addr = rpcbind.UAddr(netip.AddrPortFrom(ip, rapid.Uint16Min(1).Draw(t, "port")))
	default:
		ip := netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "ip")))
		addr = rpcbind.UAddr(netip.AddrPortFrom(ip, rapid.Uint16Min(1).Draw(t, "port")))
	}
	owner := rapid.OneOf(
		rapid.SampledFrom([]string{registry.Superuser, registry.Unknown}),
		rapid.Map(rapid.Uint32(), func(u uint32) string { return fmt.Sprint(u) }),
	).Draw(t, "owner")
	return at(rapid.Uint32().Draw(t, "program"), rapid.Uint32().Draw(t, "version"), n, addr, owner)
})

// What is written is read, in order, in all three formats.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := snapshot(rapid.SliceOf(anyService).Draw(t, "services")...)
		want := services(s)

		st := state{
			boot:     rapid.StringN(0, -1, maxBoot).Draw(t, "boot"),
			exported: rapid.Bool().Draw(t, "exported"),
			seen:     [2]fileID{{rapid.Uint64().Draw(t, "inode"), 2, 3}, {4, 5, rapid.Uint64().Draw(t, "time")}},
		}
		for name, file := range map[string][]byte{"our format": fileOf(&st, sets(want...)), "the first version": appendVersion1(nil, &st, s)} {
			got, err := readState(bytes.NewReader(file))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got.services.fit, compare); d != "" {
				t.Fatalf("%s (-want +got):\n%s", name, d)
			}
			if got.boot != st.boot || got.exported != st.exported || got.seen != st.seen || got.lost > 0 || got.services.unfit > 0 {
				t.Fatalf("head of %s: %+v, want %+v", name, got, st)
			}
		}

		list, err := decodeRpcbind(appendRpcbind(nil, s))
		if d := cmp.Diff(want, list.fit, compare); d != "" || err != nil || list.unfit > 0 {
			t.Fatalf("rpcbind.xdr: %v, %v (-want +got):\n%s", err, list.why, d)
		}

		list, err = decodePortmap(appendPortmap(nil, s))
		if d := cmp.Diff(asVersion2Sees(want), list.fit, compare); d != "" || err != nil || list.unfit > 0 {
			t.Fatalf("portmap.xdr: %v, %v (-want +got):\n%s", err, list.why, d)
		}
	})
}

func asVersion2Sees(list []registry.Registration) []registry.Registration {
	var seen []registry.Registration
	for _, r := range list {
		if r.NetID == rpcbind.TCP || r.NetID == rpcbind.UDP {
			ap := netip.AddrPortFrom(netip.IPv4Unspecified(), r.IP.Port())
			seen = append(seen, at(r.Program, r.Version, r.NetID, rpcbind.UAddr(ap), registry.Superuser))
		}
	}
	return seen
}

// The bytes of rpcbind.xdr and portmap.xdr, field by field.
func TestRpcbindBytes(t *testing.T) {
	s := snapshot(at(100003, 3, rpcbind.UDP6, "::.8.1", "1000"))
	wantRpcbind := slices.Concat(
		item(100000, 4, "tcp", "0.0.0.0.0.111", "superuser"),
		item(100000, 2, "udp", "0.0.0.0.0.111", "superuser"),
		item(100000, 4, "local", "/run/rpcbind.sock", "superuser"),
		item(100003, 3, "udp6", "::.8.1", "1000"),
		[]byte{0, 0, 0, 0}, // no more
	)
	if d := cmp.Diff(wantRpcbind, appendRpcbind(nil, s)); d != "" {
		t.Errorf("rpcbind.xdr (-want +got):\n%s", d)
	}
	wantPortmap := []byte{
		0, 0, 0, 1, // more
		0, 1, 0x86, 0xa0, 0, 0, 0, 4, 0, 0, 0, 6, 0, 0, 0, 111, // program, version, TCP, port
		0, 0, 0, 1,
		0, 1, 0x86, 0xa0, 0, 0, 0, 2, 0, 0, 0, 17, 0, 0, 0, 111, // UDP
		0, 0, 0, 0,
	}
	if d := cmp.Diff(wantPortmap, appendPortmap(nil, s)); d != "" {
		t.Errorf("portmap.xdr (-want +got):\n%s", d)
	}
}

func item(program, version uint32, netid, addr, owner string) []byte {
	b := xdr.AppendUint32([]byte{0, 0, 0, 1}, program)
	b = xdr.AppendUint32(b, version)
	for _, s := range []string{netid, addr, owner} {
		b = xdr.AppendString(b, s)
	}
	return b
}

// What rpcbind takes, and we can't, is told and does not spoil the rest.
func TestUnfit(t *testing.T) {
	good := item(100003, 3, "TCP", "10.0.0.1.8.1", "1000")
	tests := []struct {
		name string
		item []byte
		why  string // "" if it fits
	}{
		{"good", item(100005, 1, "udp", "0.0.0.0.2.100", "superuser"), ""},
		{"the port mapper itself", item(100000, 4, "udp", "garbage", "superuser"), ""},
		{"netid of Solaris", item(1, 1, "ticots", "host.rpc", "superuser"), `no netid is called "ticots"`},
		{"no netid", item(1, 1, "", "0.0.0.0.2.100", "superuser"), `no netid is called ""`},
		{"garbage", item(1, 1, "udp", "garbage", "superuser"), `"garbage" is not an address of udp`},
		{"port 0", item(1, 1, "udp", "0.0.0.0.0.0", "superuser"), `"0.0.0.0.0.0" is not an address of udp`},
		{"other family", item(1, 1, "udp", "::.8.1", "superuser"), `"::.8.1" is not an address of udp`},
		{"no path", item(1, 1, "local", "sock", "superuser"), `"sock" is not the path of a socket`},
		{"path with a control character", item(1, 1, "local", "/run/\x1b[2J", "superuser"), `"/run/\x1b[2J" is not the path of a socket`},
		{"long path", item(1, 1, "local", "/"+strings.Repeat("x", 107), "superuser"), "is not the path of a socket"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			list, err := decodeRpcbind(slices.Concat(good, tt.item, good, []byte{0, 0, 0, 0}))
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(list.why, "\n"); !strings.Contains(got, tt.why) || (tt.why == "") != (list.unfit == 0) {
				t.Errorf("why %q, want %q", got, tt.why)
			}
			want := at(100003, 3, rpcbind.TCP, "10.0.0.1.8.1", "1000")
			if len(list.fit) < 2 || list.fit[0] != want || list.fit[len(list.fit)-1] != want {
				t.Errorf("the others: %v", list.fit)
			}
		})
	}
}

func TestOwners(t *testing.T) {
	for in, want := range map[string]string{
		"superuser": "superuser", "unknown": "unknown", "0": "0", "1000": "1000", "4294967295": "4294967295",
		"": "unknown", "root": "unknown", "01": "unknown", "-1": "unknown", "+1": "unknown", "4294967296": "unknown",
		"Superuser": "unknown", "superuser ": "unknown",
	} {
		if got := owner(in); got != want {
			t.Errorf("owner(%q) = %q, want %q", in, got, want)
		}
	}
}

// A list of nonsense is not repeated in full in the log.
func TestManyUnfit(t *testing.T) {
	bad := item(1, 1, "bogus", "", "")
	list, err := decodeRpcbind(append(slices.Repeat(bad, 1000), 0, 0, 0, 0))
	if err != nil || list.unfit != 1000 || len(list.why) != maxWhy {
		t.Errorf("%d unfit, %d told, %v", list.unfit, len(list.why), err)
	}
}

// No more is taken over than the registry may hold.
func TestMostRegistrations(t *testing.T) {
	one := item(1, 1, "tcp", "0.0.0.0.8.1", "superuser")
	list, err := decodeRpcbind(append(slices.Repeat(one, registry.MaxRegistrations+2), 0, 0, 0, 0))
	if err != nil || len(list.fit) != registry.MaxRegistrations || list.unfit != 2 {
		t.Errorf("%d taken over, %d not, %v", len(list.fit), list.unfit, err)
	}
}

// No cut, no flipped bit and nothing appended passes for a file of version 1.
func TestDamagedVersion1(t *testing.T) {
	data := appendVersion1(nil, &state{boot: "b"}, snapshot(at(100003, 3, rpcbind.TCP, "0.0.0.0.8.1", "1000")))
	if _, err := decodeVersion1(data); err != nil {
		t.Fatal(err)
	}
	for n := range data {
		if _, err := decodeVersion1(data[:n]); err == nil {
			t.Errorf("the first %d of %d bytes pass", n, len(data))
		}
	}
	for bit := range 8 * len(data) {
		flipped := slices.Clone(data)
		flipped[bit/8] ^= 1 << (bit % 8)
		if _, err := decodeVersion1(flipped); err == nil {
			t.Errorf("passes with bit %d flipped", bit)
		}
	}
	if _, err := decodeVersion1(append(slices.Clone(data), data...)); err == nil {
		t.Error("twice the file passes")
	}
}

// A right checksum over what no program of ours writes.
func TestForgedVersion1(t *testing.T) {
	for _, tt := range []struct {
		name string
		body string
		want error
	}{
		{"other version", "rpcward registrations 3\n", errMagic},
		{"nothing", "", errMagic},
		{"no content", version1Magic, errFormat},
		{"long boot id", version1Magic + "\x00\x00\x00\x44" + strings.Repeat("b", 0x44) + strings.Repeat("\x00", 64), errFormat},
		{"wrong count", version1Magic + strings.Repeat("\x00", 4+4+48+4) + "\x00\x00\x00\x01", errFormat},
		{"right count", version1Magic + strings.Repeat("\x00", 4+4+48+4) + "\x00\x00\x00\x00", nil},
		{"bytes behind", version1Magic + strings.Repeat("\x00", 4+4+48+4) + "\x00\x00\x00\x00more", errFormat},
	} {
		b := binary.BigEndian.AppendUint32([]byte(tt.body), crc32.Checksum([]byte(tt.body), castagnoli))
		if _, err := decodeVersion1(b); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
}

// FuzzVersion1 mutates what the checksum protects, and sets that right.
func FuzzVersion1(f *testing.F) {
	full := appendVersion1(nil, &state{boot: "b", exported: true}, snapshot(at(100003, 3, rpcbind.TCP, "0.0.0.0.8.1", "1000")))
	f.Add(full[len(version1Magic) : len(full)-4])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		decodeVersion1(body) // as it is: it must not do harm
		data := append([]byte(version1Magic), body...)
		data = binary.BigEndian.AppendUint32(data, crc32.Checksum(data, castagnoli))
		st, err := decodeVersion1(data)
		if err != nil {
			return
		}
		if len(st.services.fit)*24 > len(body) {
			t.Errorf("%d services from %d bytes", len(st.services.fit), len(body))
		}
		s := snapshot(st.services.fit...)
		again, err := decodeVersion1(appendVersion1(nil, &st, s))
		if d := cmp.Diff(services(s), again.services.fit, compare); d != "" || err != nil || again.seen != st.seen {
			t.Errorf("read again: %v (-first +second):\n%s", err, d)
		}
	})
}

func FuzzRpcbind(f *testing.F) {
	f.Add(appendRpcbind(nil, snapshot(at(100003, 3, rpcbind.UDP6, "::1.8.1", "1000"))))
	f.Add(append(item(1, 1, "ticots", "x", ""), 0, 0, 0, 0))
	f.Add([]byte{0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) { fuzzList(t, data, decodeRpcbind, appendRpcbind) })
}

func FuzzPortmap(f *testing.F) {
	f.Add(appendPortmap(nil, snapshot(at(100003, 3, rpcbind.UDP, "0.0.0.0.8.1", "1000"))))
	f.Add([]byte{0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 99, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) { fuzzList(t, data, decodePortmap, appendPortmap) })
}

func fuzzList(t *testing.T, data []byte, decode func([]byte) (registrations, error), write func([]byte, *registry.Snapshot) []byte) {
	list, err := decode(data)
	if err != nil {
		return
	}
	if n := len(list.fit) + list.unfit; n > len(data)/20 {
		t.Errorf("%d registrations from %d bytes", n, len(data))
	}
	s := snapshot(list.fit...)
	again, err := decode(write(nil, s))
	if d := cmp.Diff(services(s), again.fit, compare); d != "" || err != nil || again.unfit > 0 {
		t.Errorf("read again: %v (-first +second):\n%s", err, d)
	}
}
