package oncrpc_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"runtime"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"rpcward/oncrpc"
)

// words writes each number as four bytes.
func words(vs ...uint32) []byte {
	var b []byte
	for _, v := range vs {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func TestParseCall(t *testing.T) {
	header := words(
		0x1234,       // xid
		0,            // CALL
		2,            // rpcvers
		100000, 4, 3, // program, version, procedure
	)
	none := words(0, 0) // AUTH_NONE, no body
	tests := []struct {
		name string
		msg  []byte
		want oncrpc.Call
		err  error
	}{
		{"plain", join(header, none, none, []byte("args")),
			oncrpc.Call{XID: 0x1234, Program: 100000, Version: 4, Procedure: 3, Args: []byte("args"),
				Cred: oncrpc.OpaqueAuth{Body: []byte{}}, Verf: oncrpc.OpaqueAuth{Body: []byte{}}}, nil},
		{"longest credential", join(header, words(9, 400), make([]byte, 400), none),
			oncrpc.Call{XID: 0x1234, Program: 100000, Version: 4, Procedure: 3, Args: []byte{},
				Cred: oncrpc.OpaqueAuth{Flavor: 9, Body: make([]byte, 400)}, Verf: oncrpc.OpaqueAuth{Body: []byte{}}}, nil},
		{"empty", nil, oncrpc.Call{}, oncrpc.ErrHeader},
		{"credential over 400 bytes", join(header, words(0, 401), make([]byte, 404), none), oncrpc.Call{}, oncrpc.ErrHeader},
		{"verifier over 400 bytes", join(header, none, words(0, 404), make([]byte, 404)), oncrpc.Call{}, oncrpc.ErrHeader},
		{"verifier claims more than there is", join(header, none, words(0, 8, 1)), oncrpc.Call{}, oncrpc.ErrHeader},
		{"reply", join(words(1, 1, 2, 100000, 4, 3), none, none), oncrpc.Call{}, oncrpc.ErrNotCall},
		{"RPC version 3", join(words(1, 0, 3, 100000, 4, 3), none, none), oncrpc.Call{}, oncrpc.ErrVersion},
		{"no verifier", join(header, none), oncrpc.Call{}, oncrpc.ErrHeader},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := oncrpc.ParseCall(tt.msg)
			if err != tt.err {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("call differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCheckCred(t *testing.T) {
	sys := func(machine string, gids int) []byte {
		return oncrpc.AppendSysCred(nil, &oncrpc.SysCred{Machine: machine, GIDs: make([]uint32, gids)})
	}
	long := string(bytes.Repeat([]byte("m"), 256))
	tests := []struct {
		name   string
		flavor oncrpc.AuthFlavor
		body   []byte
		want   oncrpc.AuthStat
	}{
		{"none", oncrpc.AuthNone, nil, oncrpc.AuthOK},
		{"none with a body", oncrpc.AuthNone, []byte("body"), oncrpc.AuthOK},
		{"sys", oncrpc.AuthSys, sys("client", 3), oncrpc.AuthOK},
		{"sys, 16 groups", oncrpc.AuthSys, sys("", 16), oncrpc.AuthOK},
		{"sys, 17 groups", oncrpc.AuthSys, sys("", 17), oncrpc.AuthBadCred},
		{"sys, 255 byte name", oncrpc.AuthSys, sys(long[:255], 0), oncrpc.AuthOK},
		{"sys, 256 byte name", oncrpc.AuthSys, sys(long, 0), oncrpc.AuthBadCred},
		{"sys, empty", oncrpc.AuthSys, nil, oncrpc.AuthBadCred},
		{"sys, truncated", oncrpc.AuthSys, sys("client", 3)[:20], oncrpc.AuthBadCred},
		{"sys, more behind", oncrpc.AuthSys, append(sys("client", 3), 1, 2, 3, 4), oncrpc.AuthOK},
		{"short", oncrpc.AuthShort, nil, oncrpc.AuthRejectedCred},
		{"dh", oncrpc.AuthDH, nil, oncrpc.AuthFailed},
		{"gss", oncrpc.RPCSecGSS, nil, oncrpc.AuthBadCred},
		{"unknown", 390000, nil, oncrpc.AuthRejectedCred},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := oncrpc.Call{Cred: oncrpc.OpaqueAuth{Flavor: tt.flavor, Body: tt.body}}
			if got := c.CheckCred(); got != tt.want {
				t.Errorf("CheckCred() = %d, want %d", got, tt.want)
			}
		})
	}
}

func TestReplies(t *testing.T) {
	tests := []struct {
		name string
		msg  []byte
		want oncrpc.Reply
	}{
		{"success", append(oncrpc.AppendAccepted(nil, 7, oncrpc.Success), "data"...),
			oncrpc.Reply{XID: 7, Verf: oncrpc.OpaqueAuth{Body: []byte{}}, Results: []byte("data")}},
		{"mismatch", oncrpc.AppendProgMismatch(nil, 7, 2, 4),
			oncrpc.Reply{XID: 7, Verf: oncrpc.OpaqueAuth{Body: []byte{}}, Accept: oncrpc.ProgMismatch, Low: 2, High: 4}},
		{"denied", oncrpc.AppendAuthError(nil, 7, oncrpc.AuthTooWeak),
			oncrpc.Reply{XID: 7, Stat: oncrpc.MsgDenied, Reject: oncrpc.AuthError, Auth: oncrpc.AuthTooWeak}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := oncrpc.ParseReply(tt.msg)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("reply differs (-want +got):\n%s", diff)
			}
		})
	}
	if n := len(oncrpc.AppendAccepted(nil, 1, 0)); n != oncrpc.AcceptedSize {
		t.Errorf("an accepted reply has %d bytes, AcceptedSize says %d", n, oncrpc.AcceptedSize)
	}
	if n := len(oncrpc.AppendAuthError(nil, 1, 0)); n != oncrpc.AuthErrorSize {
		t.Errorf("a denied reply has %d bytes, AuthErrorSize says %d", n, oncrpc.AuthErrorSize)
	}
}

func TestReadRecord(t *testing.T) {
	const last = 1 << 31
	tests := []struct {
		name string
		in   []byte
		max  int
		want string
		err  error
	}{
		{"one fragment", join(words(last|3), []byte("abc")), 3, "abc", nil},
		{"three fragments", join(words(1), []byte("a"), words(2), []byte("bc"), words(last|1), []byte("d")), 4, "abcd", nil},
		{"nothing", nil, 9, "", io.EOF},
		{"half a header", []byte{0x80, 0}, 9, "", io.ErrUnexpectedEOF},
		{"cut", join(words(last|9), []byte("abc")), 9, "", io.ErrUnexpectedEOF},
		{"second fragment missing", join(words(1), []byte("a")), 9, "a", io.ErrUnexpectedEOF},
		{"too long", join(words(last|4), []byte("abcd")), 3, "", oncrpc.ErrRecordTooLong},
		{"too long together", join(words(2), []byte("ab"), words(last|2), []byte("cd")), 3, "ab", oncrpc.ErrRecordTooLong},
		{"longest claim", words(last | 0x7fffffff), 9000, "", oncrpc.ErrRecordTooLong},
		{"empty fragment", words(0, 0, 0, last), 9, "", oncrpc.ErrEmptyFragment},
		{"empty last fragment", words(last), 9, "", oncrpc.ErrEmptyFragment},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for name, r := range map[string]io.Reader{
				"at once": bytes.NewReader(tt.in), "byte by byte": iotest.OneByteReader(bytes.NewReader(tt.in)),
			} {
				got, err := oncrpc.ReadRecord(r, nil, tt.max)
				if err != tt.err || err == nil && string(got) != tt.want {
					t.Errorf("%s: %q, %v; want %q, %v", name, got, err, tt.want, tt.err)
				}
			}
		})
	}
}

// TestReadRecordTakesNoMemoryForClaims sends a header that claims a gigabyte.
func TestReadRecordTakesNoMemoryForClaims(t *testing.T) {
	in := words(1<<31 | 1<<30)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := oncrpc.ReadRecord(bytes.NewReader(in), nil, 1<<31-1); err != io.ErrUnexpectedEOF {
		t.Fatalf("error %v, want %v", err, io.ErrUnexpectedEOF)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 1<<20 {
		t.Errorf("%d bytes allocated for a claim", got)
	}
}

func TestWriteRecord(t *testing.T) {
	b := oncrpc.BeginRecord([]byte("before"))
	b = oncrpc.EndRecord(append(b, "record"...), len("before"))
	want := join([]byte("before"), words(1<<31|6), []byte("record"))
	if !bytes.Equal(b, want) {
		t.Errorf("%q, want %q", b, want)
	}
}

func TestParseDoesNotAllocate(t *testing.T) {
	msg := oncrpc.AppendCall(nil, &oncrpc.Call{Program: 100000, Version: 2, Procedure: 3, Args: make([]byte, 16)})
	buf := make([]byte, 0, 64)
	n := testing.AllocsPerRun(100, func() {
		c, err := oncrpc.ParseCall(msg)
		if err != nil || c.CheckCred() != oncrpc.AuthOK {
			t.Fatal(err)
		}
		oncrpc.AppendAccepted(buf, c.XID, oncrpc.Success)
	})
	if n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func FuzzParseCall(f *testing.F) {
	f.Add(oncrpc.AppendCall(nil, &oncrpc.Call{XID: 1, Program: 100000, Version: 2, Procedure: 3, Args: make([]byte, 16)}))
	f.Add(words(1, 0, 2, 100000, 4, 3, 1, 0xffffffff))
	f.Fuzz(func(t *testing.T, msg []byte) {
		c, err := oncrpc.ParseCall(msg)
		if err != nil {
			return
		}
		c.CheckCred()
		again, err := oncrpc.ParseCall(oncrpc.AppendCall(nil, &c))
		if err != nil {
			t.Fatalf("what was written does not parse: %v", err)
		}
		if diff := cmp.Diff(c, again); diff != "" {
			t.Errorf("round trip differs (-first +second):\n%s", diff)
		}
	})
}

func FuzzParseReply(f *testing.F) {
	f.Add(oncrpc.AppendAccepted(nil, 1, oncrpc.Success))
	f.Add(oncrpc.AppendProgMismatch(nil, 1, 2, 4))
	f.Add(oncrpc.AppendAuthError(nil, 1, oncrpc.AuthTooWeak))
	f.Fuzz(func(t *testing.T, msg []byte) {
		if r, err := oncrpc.ParseReply(msg); err == nil && len(r.Results) > len(msg) {
			t.Errorf("%d bytes of results in %d bytes", len(r.Results), len(msg))
		}
	})
}

func FuzzReadRecord(f *testing.F) {
	f.Add(join(words(1), []byte("a"), words(1<<31|2), []byte("bc")))
	f.Add(words(0x7fffffff))
	f.Fuzz(func(t *testing.T, in []byte) {
		const max = 100
		got, err := oncrpc.ReadRecord(bytes.NewReader(in), nil, max)
		if len(got) > max || err == nil && len(got) == 0 {
			t.Errorf("record of %d bytes, error %v", len(got), err)
		}
	})
}
