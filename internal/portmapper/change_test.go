package portmapper_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rpcward/internal/policy"
	"rpcward/internal/portmapper"
	"rpcward/internal/registry"
	"rpcward/rpcbind"
)

// TestSet has what may be registered, by whom, and as what it is listed.
func TestSet(t *testing.T) {
	root, user, loop := unix(0), unix(1000), loopback(rpcbind.TCP, 1023)
	set := func(netid, addr string) []byte { return call(3, 1, 200001, 1, netid, addr, "ignored") }
	tests := []struct {
		name   string
		origin policy.Origin
		call   []byte
		want   string // as registered; empty: refused
	}{
		{"root over unix", root, set("tcp", "0.0.0.0.15.160"), "200001 1 tcp 0.0.0.0.15.160 superuser"},
		{"a user over unix", user, set("tcp", "0.0.0.0.15.160"), "200001 1 tcp 0.0.0.0.15.160 1000"},
		{"a privileged port of loopback", loop, set("tcp", "0.0.0.0.15.160"), "200001 1 tcp 0.0.0.0.15.160 superuser"},
		{"version 2", root, call(2, 1, 200001, 1, 17, 4000), "200001 1 udp 0.0.0.0.15.160 superuser"},
		{"version 4", root, call(4, 1, 200001, 1, "udp6", "::.15.160", ""), "200001 1 udp6 ::.15.160 superuser"},
		{"netid in capitals", root, set("TCP", "0.0.0.0.15.160"), "200001 1 tcp 0.0.0.0.15.160 superuser"},
		{"an address of ours", root, set("tcp", "10.98.0.1.15.160"), "200001 1 tcp 10.98.0.1.15.160 superuser"},
		{"an IPv6 address of ours", root, set("tcp6", "fd99::1.15.160"), "200001 1 tcp6 fd99::1.15.160 superuser"},
		{"loopback", user, set("udp", "127.0.0.1.15.160"), "200001 1 udp 127.0.0.1.15.160 1000"},
		{"a path", user, set("local", "/run/x.sock"), "200001 1 local /run/x.sock 1000"},
		{"the longest path", user, set("local", "/"+strings.Repeat("p", 106)), "200001 1 local /" + strings.Repeat("p", 106) + " 1000"},

		{"unknown netid", root, set("bogus", "0.0.0.0.15.160"), ""},
		{"no netid", root, set("", "0.0.0.0.15.160"), ""},
		{"netid with more behind", root, set("tcp ", "0.0.0.0.15.160"), ""},
		{"no address", root, set("tcp", ""), ""},
		{"garbage", root, set("tcp", "garbage"), ""},
		{"address of another host", root, set("tcp", "8.8.8.8.15.160"), ""},
		{"broadcast address", root, set("tcp", "255.255.255.255.15.160"), ""},
		{"multicast address", root, set("udp", "224.0.0.1.15.160"), ""},
		{"IPv6 multicast address", root, set("udp6", "ff02::202.15.160"), ""},
		{"IPv4 address of an IPv6 netid", root, set("tcp6", "0.0.0.0.15.160"), ""},
		{"IPv6 address of an IPv4 netid", root, set("tcp", "::.15.160"), ""},
		{"port 0", root, set("tcp", "0.0.0.0.0.0"), ""},
		{"port 0, version 2", root, call(2, 1, 200001, 1, 6, 0), ""},
		{"port 65536, version 2", root, call(2, 1, 200001, 1, 6, 65536), ""},
		{"port 70000, version 2", root, call(2, 1, 200001, 1, 6, 70000), ""},
		{"octet above 255", root, set("tcp", "0.0.0.0.15.256"), ""},
		{"relative path", root, set("local", "x.sock"), ""},
		{"the root folder", root, set("local", "/"), ""},
		{"path too long", root, set("local", "/"+strings.Repeat("p", 107)), ""},
		{"path with a control character", root, set("local", "/run/\x1b[2J"), ""},
		{"address for a path", root, set("local", "0.0.0.0.15.160"), ""},
		{"the port mapper's own program", root, call(3, 1, 100000, 5, "tcp", "0.0.0.0.15.160", ""), ""},

		{"IPv4 address in IPv6", root, set("tcp6", "::ffff:10.98.0.1.15.160"), ""},
		{"wildcard of IPv4 in IPv6", root, set("tcp6", "::ffff:0.0.0.0.15.160"), ""},
		{"scope on a wildcard", root, set("tcp6", "::%eth0.15.160"), ""},
		{"scope on loopback", root, set("tcp6", "::1%eth0.15.160"), ""},
		{"control characters for a scope", root, set("tcp6", "fd99::1%\x1b[2J.15.160"), ""},
		{"the port mapper's own port, user", user, set("tcp", "0.0.0.0.0.111"), ""},
		{"the port mapper's own port, root", root, set("tcp", "0.0.0.0.0.111"), "200001 1 tcp 0.0.0.0.0.111 superuser"},

		{"privileged port, user, nothing bound", user, set("tcp", "0.0.0.0.0.80"), ""},
		{"privileged port, user, bound", user, set("tcp", "0.0.0.0.2.150"), "200001 1 tcp 0.0.0.0.2.150 1000"},
		{"privileged port, root", root, set("tcp", "0.0.0.0.0.80"), "200001 1 tcp 0.0.0.0.0.80 superuser"},
		{"port 1024, user", user, set("tcp", "0.0.0.0.4.0"), "200001 1 tcp 0.0.0.0.4.0 1000"},
		{"port 2049, user, nothing bound", user, set("tcp", "0.0.0.0.8.1"), ""},
		{"port 2049, user, version 2", user, call(2, 1, 200001, 1, 6, 2049), ""},
		{"port 2049, root", root, set("tcp", "0.0.0.0.8.1"), "200001 1 tcp 0.0.0.0.8.1 superuser"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, setup{})
			f.machine.bound = []uint16{662}
			got, _ := f.ask(tt.origin, tt.call)
			done := 0
			if tt.want != "" {
				done = 1
			}
			if diff := cmp.Diff(reply(success, done), got); diff != "" {
				t.Errorf("reply (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.want, strings.Join(f.services(), "\n")); diff != "" {
				t.Errorf("registered (-want +got):\n%s", diff)
			}
		})
	}
}

// TestUnset has who may remove what.
func TestUnset(t *testing.T) {
	registered := []string{
		"200001 1 tcp 0.0.0.0.15.160 1000", "200001 1 udp 0.0.0.0.15.160 1000", "200001 1 tcp6 ::.15.160 1001",
		"200002 1 tcp 0.0.0.0.15.161 unknown", "200003 1 tcp 0.0.0.0.15.162 superuser",
	}
	without := func(gone ...int) []string {
		var left []string
		for i, line := range registered {
			if !slices.Contains(gone, i) {
				left = append(left, line)
			}
		}
		return left
	}
	tests := []struct {
		name   string
		origin policy.Origin
		call   []byte
		done   int
		left   []string
	}{
		{"own, one netid", unix(1000), call(3, 2, 200001, 1, "tcp", "", ""), 1, without(0)},
		{"own, version 2: both protocols", unix(1000), call(2, 2, 200001, 1, 6, 0), 1, without(0, 1)},
		{"own, version 2, whatever the protocol", unix(1000), call(2, 2, 200001, 1, 99, 99999), 1, without(0, 1)},
		{"all netids, one of somebody else's", unix(1000), call(4, 2, 200001, 1, "", "", ""), 0, registered},
		{"somebody else's", unix(1001), call(4, 2, 200001, 1, "tcp", "", ""), 0, registered},
		{"root's", unix(1001), call(4, 2, 200003, 1, "", "", ""), 0, registered},
		{"unknown's, by a user", unix(1001), call(4, 2, 200002, 1, "", "", ""), 0, registered},
		{"all netids, by root", unix(0), call(4, 2, 200001, 1, "", "", ""), 1, without(0, 1, 2)},
		{"by a privileged port", loopback(rpcbind.UDP, 700), call(2, 2, 200003, 1, 0, 0), 1, without(4)},
		{"another version", unix(0), call(4, 2, 200001, 2, "", "", ""), 1, registered},
		{"an address is ignored", unix(1000), call(4, 2, 200001, 1, "udp", "garbage", "x"), 1, without(1)},
		{"the port mapper's own, by root", unix(0), call(4, 2, 100000, 4, "", "", ""), 0, registered},
		{"the port mapper's own, version 2", unix(0), call(2, 2, 100000, 2, 0, 0), 0, registered},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, setup{})
			f.register(t, registered...)
			got, _ := f.ask(tt.origin, tt.call)
			if diff := cmp.Diff(reply(success, tt.done), got); diff != "" {
				t.Errorf("reply (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.left, f.services()); diff != "" {
				t.Errorf("registered (-want +got):\n%s", diff)
			}
			if n := f.registry.Snapshot().Len() - len(f.services()); n != len(own()) {
				t.Errorf("%d registrations of the port mapper's own, want %d", n, len(own()))
			}
		})
	}
}

// TestInsecure has what the two options let in, and as whose.
func TestInsecure(t *testing.T) {
	local, remote := portmapper.Options{InsecureLocal: true}, portmapper.Options{InsecureLocal: true, InsecureRemote: true}
	privileged := over(policy.Network, rpcbind.UDP, client4, 700, server4)
	tests := []struct {
		name    string
		options portmapper.Options
		origin  policy.Origin
		owner   string // empty: declined
	}{
		{"local, unprivileged", local, loopback(rpcbind.UDP, 40000), "unknown"},
		{"local, privileged", local, loopback(rpcbind.UDP, 700), "superuser"},
		{"local option, remote caller", local, client(rpcbind.TCP), ""},
		{"remote", remote, client(rpcbind.TCP), "unknown"},
		{"remote, privileged is no proof", remote, privileged, "unknown"},
		{"remote, unix stays a user", remote, unix(1000), "1000"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, setup{options: tt.options})
			got, _ := f.ask(tt.origin, call(2, 1, 200001, 1, 6, 4000))
			want, listed := reply(success, 1), "200001 1 tcp 0.0.0.0.15.160 "+tt.owner
			if tt.owner == "" {
				want, listed = tooWeak, ""
			}
			if !bytes.Equal(got, want) || strings.Join(f.services(), "\n") != listed {
				t.Errorf("reply %x, registered %q; want %x, %q", got, f.services(), want, listed)
			}
		})
	}
}

// fullDisk is a Store that can't save.
type fullDisk struct{}

func (fullDisk) Save([]registry.Change, *registry.Snapshot) error {
	return errors.New("no space left on device")
}

// TestNotSaved: what can't be saved is not done, and the observer is told.
func TestNotSaved(t *testing.T) {
	f := newFixture(t, setup{store: fullDisk{}})
	for _, msg := range [][]byte{call(2, 1, 200001, 1, 6, 4000), call(4, 1, 200001, 1, "udp", "0.0.0.0.15.160", "")} {
		if got, _ := f.ask(unix(0), msg); !bytes.Equal(got, reply(success, 0)) {
			t.Errorf("SET that was not saved: %x", got)
		}
	}
	if f.notes.notSaved != 2 || len(f.services()) > 0 {
		t.Errorf("the observer was told %+v, registered %v", *f.notes, f.services())
	}
}
