// Package xdr reads and writes the External Data Representation, RFC 4506.
//
// A Reader is a cursor over bytes that the caller owns; append functions write
// to a slice that the caller owns. Nothing here allocates, keeps state, uses
// reflection, or trusts a length that the remaining bytes do not back.
package xdr

import (
	"encoding/binary"
	"errors"
)

// Errors that a Reader's Err reports.
var (
	// ErrShort means that the data ended before the item did.
	ErrShort = errors.New("xdr: data ends too early")
	// ErrTooLong means that an item claims more bytes than its type may have.
	ErrTooLong = errors.New("xdr: item longer than its type allows")
)

// unit is the basic block size in bytes; every item fills whole blocks.
// RFC 4506, Section 3.
const unit = 4

// padding is the number of zero bytes that follow n bytes of opaque data.
func padding(n int) int { return -n & (unit - 1) }

// Reader decodes items one after the other from a byte slice. The first error
// sticks: every later read returns a zero value, so that a caller checks Err
// once, at the end. The zero Reader is an empty one.
type Reader struct {
	data []byte
	err  error
}

// NewReader returns a Reader of data. Slices that the Reader returns alias data.
func NewReader(data []byte) Reader { return Reader{data: data} }

// Err returns the first error met, or nil.
func (r *Reader) Err() error { return r.err }

// Rest returns the bytes not read yet. It is empty after an error.
func (r *Reader) Rest() []byte { return r.data }

func (r *Reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.data = nil
}

func (r *Reader) take(n int) []byte {
	if len(r.data) < n {
		r.fail(ErrShort)
		return nil
	}
	b := r.data[:n:n]
	r.data = r.data[n:]
	return b
}

// Uint32 reads an unsigned integer. RFC 4506, Section 4.2.
func (r *Reader) Uint32() uint32 {
	b := r.take(unit)
	if b == nil {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

// Bool reads a boolean. RFC 4506, Section 4.4, knows 0 and 1 only; like Sun's
// library, which every peer uses, any value but 0 is taken as true.
func (r *Reader) Bool() bool { return r.Uint32() != 0 }

// FixedOpaque reads n bytes and their padding. RFC 4506, Section 4.9.
// The padding's value is not looked at.
func (r *Reader) FixedOpaque(n int) []byte {
	b := r.take(n)
	if b != nil {
		r.take(padding(n))
	}
	if r.err != nil {
		return nil
	}
	return b
}

// Opaque reads variable-length opaque data, or a string, of at most max bytes.
// RFC 4506, Sections 4.10 and 4.11. The result aliases the Reader's data.
func (r *Reader) Opaque(max int) []byte {
	n := r.Uint32()
	if r.err != nil {
		return nil
	}
	if uint64(n) > uint64(max) {
		r.fail(ErrTooLong)
		return nil
	}
	return r.FixedOpaque(int(n))
}

// AppendUint32 appends an unsigned integer. RFC 4506, Section 4.2.
func AppendUint32(b []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(b, v) }

// AppendBool appends a boolean. RFC 4506, Section 4.4.
func AppendBool(b []byte, v bool) []byte {
	if v {
		return AppendUint32(b, 1)
	}
	return AppendUint32(b, 0)
}

// AppendFixedOpaque appends v and its padding. RFC 4506, Section 4.9.
func AppendFixedOpaque(b, v []byte) []byte {
	b = append(b, v...)
	return append(b, zeros[:padding(len(v))]...)
}

// AppendOpaque appends the length of v, v, and its padding. RFC 4506, Section 4.10.
func AppendOpaque(b, v []byte) []byte {
	b = AppendUint32(b, uint32(len(v)))
	return AppendFixedOpaque(b, v)
}

// AppendString appends s as AppendOpaque does. RFC 4506, Section 4.11.
func AppendString(b []byte, s string) []byte {
	b = AppendUint32(b, uint32(len(s)))
	b = append(b, s...)
	return append(b, zeros[:padding(len(s))]...)
}

var zeros [unit]byte
