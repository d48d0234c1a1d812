package oncrpc

import (
	"encoding/binary"
	"errors"
	"io"
	"slices"
)

// Record marking puts a header before each fragment of a message on a stream:
// the length in 31 bits and, as the top bit, whether it is the last fragment.
// RFC 5531, Section 11.
const (
	// RecordHeaderSize is the length of a fragment's header in bytes.
	RecordHeaderSize = 4

	lastFragment = 1 << 31
)

// Errors of ReadRecord that make the stream unusable.
var (
	ErrRecordTooLong = errors.New("oncrpc: record longer than allowed")
	ErrEmptyFragment = errors.New("oncrpc: empty fragment")
)

// growStep is how much room ReadRecord makes ahead of the bytes that arrive,
// so that a claimed length costs no memory before it is backed by bytes.
const growStep = 16 << 10

// ReadRecord reads one record of at most max bytes, joins its fragments and
// appends them to buf. At the end of the stream before the first byte it
// returns io.EOF, inside a record io.ErrUnexpectedEOF. A fragment without
// bytes is refused: a peer could send them for ever.
func ReadRecord(r io.Reader, buf []byte, max int) ([]byte, error) {
	start := len(buf)
	for first := true; ; first = false {
		n, last, err := readFragmentHeader(r, &buf)
		if err != nil {
			if err == io.EOF && !first {
				err = io.ErrUnexpectedEOF
			}
			return buf, err
		}
		if n == 0 {
			return buf, ErrEmptyFragment
		}
		if n > max-(len(buf)-start) {
			return buf, ErrRecordTooLong
		}
		if buf, err = readN(r, buf, n); err != nil {
			return buf, err
		}
		if last {
			return buf, nil
		}
	}
}

// readFragmentHeader borrows room behind *buf, which keeps its length, so that
// the header bytes need no memory of their own.
func readFragmentHeader(r io.Reader, buf *[]byte) (n int, last bool, err error) {
	*buf = slices.Grow(*buf, RecordHeaderSize)
	head := (*buf)[len(*buf) : len(*buf)+RecordHeaderSize]
	if _, err := io.ReadFull(r, head); err != nil {
		return 0, false, err
	}
	v := binary.BigEndian.Uint32(head)
	return int(v &^ lastFragment), v&lastFragment != 0, nil
}

func readN(r io.Reader, buf []byte, n int) ([]byte, error) {
	for n > 0 {
		step := min(n, growStep)
		at := len(buf)
		buf = slices.Grow(buf, step)[:at+step]
		if _, err := io.ReadFull(r, buf[at:]); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return buf[:at], err
		}
		n -= step
	}
	return buf, nil
}

// BeginRecord appends room for a record's header. What is appended after it is
// the record, up to EndRecord.
func BeginRecord(b []byte) []byte { return append(b, 0, 0, 0, 0) }

// EndFragment completes what BeginRecord began when b was start bytes long as a
// fragment of less than 2^31 bytes that another one follows.
func EndFragment(b []byte, start int) []byte {
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-RecordHeaderSize))
	return b
}

// EndRecord completes the record that BeginRecord began when b was start bytes
// long: one last fragment. A record has less than 2^31 bytes.
func EndRecord(b []byte, start int) []byte {
	b = EndFragment(b, start)
	b[start] |= lastFragment >> 24
	return b
}
