package warmstart

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"rpcward/internal/registry"
	"rpcward/rpcbind"
	"rpcward/xdr"
)

// Our own file is a head and then records of changes, which are only ever
// appended. A new file has one record for each registration. The head is a line
// of text, the rest is XDR (RFC 4506):
//
//	"rpcward registrations 2\n"
//	opaque  identity[16];     /* random: that of no other file */
//	string  boot<64>;         /* of the kernel's boot_id, random(4) */
//	bool    exported;         /* at a clean end, rpcbind's files beside it */
//	struct { unsigned hyper inode, size, mtime; } seen[2];
//	unsigned int checksum;    /* CRC-32C of all before it */
//
// A record:
//
//	unsigned int size;        /* of the change in bytes */
//	unsigned int number;      /* of the record, from 0; top bit: the last that was saved at once */
//	union switch (unsigned int what) {
//	case 1: rpcb registered;  /* RFC 1833, Section 2.1 */
//	case 2: struct { unsigned int program, version; string netid<>; } removed<>;
//	} change;
//	unsigned int checksum;    /* CRC-32C of the head and the record */
//
// What is saved at once counts as a whole or not at all. A file that ends
// within it was being written when the process was killed; nobody was told
// that it is saved.
const (
	journalMagic = "rpcward registrations 2\n"
	identitySize = 16

	lastOfBatch = 1 << 31

	recordHead = 8   // bytes before the change
	maxChange  = 512 // bytes, more than any change has
)

// What a record says.
const (
	registered = 1
	removed    = 2
)

// errLongChange is not met: the port mapper accepts no address that is so long.
var errLongChange = errors.New("an address is too long to be saved")

// journal is our own file, open to be appended to.
type journal struct {
	file  *os.File
	inode uint64
	size  int64  // of what counts, in bytes
	seed  uint32 // checksum of the head
	next  uint32 // number of the next record
	// unsure: after size may be what could not be taken back.
	unsure bool
}

// appendHead appends a head and returns its checksum too.
func appendHead(b []byte, identity [identitySize]byte, st *state) ([]byte, uint32) {
	start := len(b)
	b = append(b, journalMagic...)
	b = append(b, identity[:]...)
	b = xdr.AppendString(b, st.boot)
	b = xdr.AppendBool(b, st.exported)
	for _, id := range st.seen {
		for _, v := range []uint64{id.Inode, id.Size, id.ModTime} {
			b = binary.BigEndian.AppendUint64(b, v)
		}
	}
	seed := crc32.Checksum(b[start:], castagnoli)
	return xdr.AppendUint32(b, seed), seed
}

// appendRecord appends the record of a change that has the given number. The
// top bit of number is the caller's.
func appendRecord(b []byte, seed, number uint32, c registry.Change) []byte {
	start := len(b)
	b = xdr.AppendUint32(xdr.AppendUint32(b, 0), number)
	if c.Set != nil {
		b = appendRegistration(xdr.AppendUint32(b, registered), c.Set)
	} else {
		b = xdr.AppendUint32(xdr.AppendUint32(b, removed), uint32(len(c.Unset)))
		for _, r := range c.Unset {
			b = xdr.AppendUint32(xdr.AppendUint32(b, r.Program), r.Version)
			b = xdr.AppendString(b, r.NetID.String())
		}
	}
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-recordHead))
	return xdr.AppendUint32(b, crc32.Update(seed, castagnoli, b[start:]))
}

// appendBatch appends records of changes that count together, the first of
// which is the journal's next.
func (j *journal) appendBatch(b []byte, changes []registry.Change) ([]byte, error) {
	for i, c := range changes {
		number, start := j.next+uint32(i), len(b)
		if i == len(changes)-1 {
			number |= lastOfBatch
		}
		b = appendRecord(b, j.seed, number, c)
		if len(b)-start > recordHead+maxChange+crc32.Size {
			return b, errLongChange
		}
	}
	return b, nil
}

// write appends bytes that hold so many records. After an error none counts.
func (j *journal) write(b []byte, records int) error {
	if j.size+int64(len(b)) > maxFile {
		return fmt.Errorf("%s would have more than %d bytes", stateFile, maxFile)
	}
	if _, err := j.file.WriteAt(b, j.size); err != nil {
		j.unsure = j.file.Truncate(j.size) != nil
		return err
	}
	j.size += int64(len(b))
	j.next += uint32(records)
	return nil
}

// readState reads our own file, of this version or the one before. It needs
// memory for what is in the file, not for what the file claims.
func readState(file io.Reader) (state, error) {
	r := bufio.NewReaderSize(file, 64<<10)
	magic, _ := r.Peek(len(journalMagic))
	if string(magic) != journalMagic {
		data, err := io.ReadAll(r)
		if err != nil {
			return state{}, err
		}
		return decodeVersion1(data)
	}
	st, seed, err := readHead(r)
	if err != nil {
		return state{}, err
	}
	h := history{at: map[registry.Key]int{}}
	st.lost, err = h.read(r, seed)
	st.services = h.result()
	return st, err
}

// readHead reads a head that appendHead wrote, and returns its checksum too.
func readHead(r *bufio.Reader) (state, uint32, error) {
	const most = len(journalMagic) + identitySize + 4 + maxBoot + 4 + 2*3*8 + crc32.Size
	data, err := r.Peek(most)
	if err != nil && err != io.EOF {
		return state{}, 0, err
	}
	x := xdr.NewReader(data[len(journalMagic):])
	x.FixedOpaque(identitySize)
	st := readStart(&x)
	n := len(data) - len(x.Rest())
	seed := x.Uint32()
	if x.Err() != nil || crc32.Checksum(data[:n], castagnoli) != seed {
		return state{}, 0, errChecksum
	}
	r.Discard(n + crc32.Size)
	return st, seed, nil
}

// history is what the records of a file make, one after the other.
type history struct {
	registrations
	at     map[registry.Key]int // where in fit what is still registered is
	batch  []change             // read, but the last of them was not
	number uint32               // of the next record
}

// change is what a record says, as it was read.
type change struct {
	isSet bool
	set   registry.Registration
	err   error          // why set can't be registered
	unset []registry.Key // if it is no set
}

// read reads records up to the end of the file, and returns how many of those
// that were written can't be read. It goes on behind bytes that make no sense.
func (h *history) read(r *bufio.Reader, seed uint32) (lost int, err error) {
	damaged, torn := false, false // since the last good record; torn: the file ends there
	for {
		data, err := peekRecord(r, seed)
		if err == io.EOF {
			break
		}
		if err != nil && !errors.Is(err, errRecord) {
			return lost, err
		}
		if err == nil && h.take(data, &lost) {
			damaged, torn = false, false
			r.Discard(len(data))
			continue
		}
		if !damaged {
			damaged, torn = true, errors.Is(err, errTorn)
		}
		r.Discard(4)
	}
	if damaged && !torn {
		lost++
	}
	return lost, nil
}

// Reasons why there is no record here.
var (
	errRecord = errors.New("not a record")
	errTorn   = fmt.Errorf("%w, or not all of it", errRecord)
)

// peekRecord returns the next record whole, but doesn't go on.
func peekRecord(r *bufio.Reader, seed uint32) ([]byte, error) {
	head, err := r.Peek(recordHead)
	if len(head) == 0 {
		return nil, err
	}
	if err == io.EOF {
		return nil, errTorn
	}
	if err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head)
	if size == 0 || size > maxChange {
		return nil, errRecord
	}
	data, err := r.Peek(recordHead + int(size) + crc32.Size)
	if err == io.EOF {
		return nil, errTorn
	}
	if err != nil {
		return nil, err
	}
	sum := len(data) - crc32.Size
	if crc32.Update(seed, castagnoli, data[:sum]) != binary.BigEndian.Uint32(data[sum:]) {
		return nil, errRecord
	}
	return data, nil
}

// take takes a record, unless it makes no sense here. Records that are missing
// before it are added to lost.
func (h *history) take(data []byte, lost *int) bool {
	number := binary.BigEndian.Uint32(data[4:])
	last := number&lastOfBatch != 0
	number &^= lastOfBatch
	c, err := readChange(data[recordHead : len(data)-crc32.Size])
	if err != nil || number < h.number {
		return false
	}
	if number > h.number { // others were saved after what is missing, so all before it was
		*lost += int(number - h.number)
		h.commit()
	}
	h.number = number + 1
	if h.batch = append(h.batch, c); last {
		h.commit()
	}
	return true
}

func readChange(data []byte) (change, error) {
	var c change
	r := xdr.NewReader(data)
	switch r.Uint32() {
	case registered:
		c.isSet = true
		c.set, c.err = readRegistration(&r)
	case removed:
		for range r.Uint32() {
			k := registry.Key{Program: r.Uint32(), Version: r.Uint32(), NetID: rpcbind.ParseNetIDBytes(rpcbind.ReadString(&r))}
			if r.Err() != nil {
				break
			}
			c.unset = append(c.unset, k)
		}
	default:
		return c, errFormat
	}
	if r.Err() != nil || len(r.Rest()) > 0 {
		return c, errFormat
	}
	return c, nil
}

// commit makes the changes of the batch.
func (h *history) commit() {
	for _, c := range h.batch {
		for _, k := range c.unset {
			delete(h.at, k)
		}
		if c.isSet && c.set.Program != rpcbind.Program {
			h.register(c.set, c.err)
		}
	}
	h.batch = h.batch[:0]
	if len(h.fit) > 2*len(h.at)+1024 {
		h.result()
	}
}

func (h *history) register(reg registry.Registration, err error) {
	delete(h.at, reg.Key) // of a removal that was lost
	if err == nil && len(h.at) >= registry.MaxRegistrations {
		err = errTooMany
	}
	if err != nil {
		h.reject(reg.Key, err)
		return
	}
	h.at[reg.Key] = len(h.fit)
	h.fit = append(h.fit, reg)
}

// result drops what was removed.
func (h *history) result() registrations {
	kept := h.fit[:0]
	for i, reg := range h.fit {
		if at, ok := h.at[reg.Key]; ok && at == i {
			h.at[reg.Key] = len(kept)
			kept = append(kept, reg)
		}
	}
	h.fit = kept
	return h.registrations
}
