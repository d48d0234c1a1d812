package xdr_test

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"rpcward/xdr"
)

func TestReader(t *testing.T) {
	tests := []struct {
		name string
		data []byte
		read func(*xdr.Reader) any
		want any
		rest int
		err  error
	}{
		{"uint32", []byte{0, 1, 2, 3, 9}, func(r *xdr.Reader) any { return r.Uint32() }, uint32(0x010203), 1, nil},
		{"uint32 short", []byte{0, 1, 2}, func(r *xdr.Reader) any { return r.Uint32() }, uint32(0), 0, xdr.ErrShort},
		{"bool true", []byte{0, 0, 0, 1}, func(r *xdr.Reader) any { return r.Bool() }, true, 0, nil},
		{"bool other", []byte{0, 0, 1, 0}, func(r *xdr.Reader) any { return r.Bool() }, true, 0, nil},
		{"opaque", []byte{0, 0, 0, 3, 'a', 'b', 'c', 0}, func(r *xdr.Reader) any { return string(r.Opaque(3)) }, "abc", 0, nil},
		{"opaque padding not zero", []byte{0, 0, 0, 1, 'a', 1, 2, 3}, func(r *xdr.Reader) any { return string(r.Opaque(3)) }, "a", 0, nil},
		{"opaque without padding", []byte{0, 0, 0, 3, 'a', 'b', 'c'}, func(r *xdr.Reader) any { return string(r.Opaque(3)) }, "", 0, xdr.ErrShort},
		{"opaque empty", []byte{0, 0, 0, 0}, func(r *xdr.Reader) any { return string(r.Opaque(0)) }, "", 0, nil},
		{"opaque too long", []byte{0, 0, 0, 4, 1, 2, 3, 4}, func(r *xdr.Reader) any { return string(r.Opaque(3)) }, "", 0, xdr.ErrTooLong},
		{"opaque claims 4 GiB", []byte{0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4}, func(r *xdr.Reader) any { return string(r.Opaque(math.MaxInt)) }, "", 0, xdr.ErrShort},
		{"fixed opaque", []byte{1, 2, 3, 4, 5, 0, 0, 0, 7}, func(r *xdr.Reader) any { return string(r.FixedOpaque(5)) }, "\x01\x02\x03\x04\x05", 1, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := xdr.NewReader(tt.data)
			if got := tt.read(&r); got != tt.want {
				t.Errorf("read %v, want %v", got, tt.want)
			}
			if !errors.Is(r.Err(), tt.err) {
				t.Errorf("error %v, want %v", r.Err(), tt.err)
			}
			if len(r.Rest()) != tt.rest {
				t.Errorf("%d bytes left, want %d", len(r.Rest()), tt.rest)
			}
		})
	}
}

func TestErrorSticks(t *testing.T) {
	r := xdr.NewReader([]byte{0, 0, 0, 9, 0, 0, 0, 1})
	r.Opaque(8)
	if got := r.Uint32(); got != 0 {
		t.Errorf("read %d after an error, want 0", got)
	}
	if r.Err() != xdr.ErrTooLong {
		t.Errorf("error %v, want the first one", r.Err())
	}
}

func TestAppendDoesNotAllocate(t *testing.T) {
	buf := make([]byte, 0, 256)
	n := testing.AllocsPerRun(100, func() {
		b := xdr.AppendUint32(buf, 7)
		b = xdr.AppendBool(b, true)
		b = xdr.AppendString(b, "0.0.0.0.0.111")
		b = xdr.AppendOpaque(b, b[:5])
		r := xdr.NewReader(b)
		r.Uint32()
		r.Bool()
		r.Opaque(100)
	})
	if n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func FuzzRoundTrip(f *testing.F) {
	f.Add(uint32(0), []byte(nil))
	f.Add(uint32(1<<31), []byte("odd"))
	f.Fuzz(func(t *testing.T, v uint32, s []byte) {
		b := xdr.AppendUint32(nil, v)
		b = xdr.AppendOpaque(b, s)
		b = xdr.AppendFixedOpaque(b, s)
		b = xdr.AppendString(b, string(s))
		if len(b)%4 != 0 {
			t.Fatalf("%d bytes written, not whole blocks", len(b))
		}
		r := xdr.NewReader(b)
		if got := r.Uint32(); got != v {
			t.Errorf("read %d, want %d", got, v)
		}
		for _, got := range [][]byte{r.Opaque(len(s)), r.FixedOpaque(len(s)), r.Opaque(len(s))} {
			if !bytes.Equal(got, s) {
				t.Errorf("read %q, want %q", got, s)
			}
		}
		if r.Err() != nil || len(r.Rest()) != 0 {
			t.Errorf("error %v, %d bytes left", r.Err(), len(r.Rest()))
		}
	})
}
