package warmstart

import (
	"crypto/rand"
	"errors"

	"rpcward/internal/registry"
)

// When our file is written anew, without what was removed since, and in which
// steps: each save does one, so that none takes long and all of them together
// cost a bounded share of the saving.
const (
	smallFile = 64 << 10 // bytes that a file may always grow by
	stepSize  = 256      // registrations to write in each save, more where more is saved at once
	perChange = 4        // registrations to write for each change that is saved

	flushAt = 64 << 10 // bytes that are written at once
)

// compaction is a new file that will take the place of our file.
type compaction struct {
	journal
	from  *registry.Snapshot // what it begins with
	place registry.Place     // up to which it is written
	since []registry.Change  // saved in our file meanwhile
	buf   []byte
	count int // of records in buf
}

// compact begins a new file for s.
func (d *Dir) compact(s *registry.Snapshot, exported bool) (*compaction, error) {
	file, err := d.own.create(stateFile + tempSuffix)
	if err != nil {
		return nil, err
	}
	c := &compaction{journal: journal{file: file, inode: d.own.id(stateFile + tempSuffix).Inode}, from: s, place: s.Own()}
	var identity [identitySize]byte
	rand.Read(identity[:])
	head, seed := appendHead(nil, identity, &state{boot: d.boot, exported: exported, seen: d.seen})
	c.seed = seed
	err = errors.Join(d.own.give(file), c.write(head, 0))
	if err != nil {
		d.abandon(c)
		return nil, err
	}
	return c, nil
}

// step writes about n more registrations and reports whether all are written.
func (c *compaction) step(n int) (done bool, err error) {
	for next, reg := range c.from.From(c.place) {
		if n--; n < 0 {
			return false, c.flush()
		}
		if err := c.add(registry.Change{Set: reg}); err != nil {
			return false, err
		}
		c.place = next
	}
	for ; len(c.since) > 0; c.since = c.since[1:] {
		if n--; n < 0 {
			return false, c.flush()
		}
		if err := c.add(c.since[0]); err != nil {
			return false, err
		}
	}
	return true, c.flush()
}

func (c *compaction) add(change registry.Change) error {
	b := appendRecord(c.buf, c.seed, c.next+uint32(c.count)|lastOfBatch, change)
	if len(b)-len(c.buf) > recordHead+maxChange+4 {
		return errLongChange
	}
	c.buf = b
	c.count++
	if len(b) >= flushAt {
		return c.flush()
	}
	return nil
}

func (c *compaction) flush() error {
	err := c.write(c.buf, c.count)
	c.buf, c.count = c.buf[:0], 0
	return err
}

// rewrite writes s into a new file that takes the place of ours.
func (d *Dir) rewrite(s *registry.Snapshot, exported bool) error {
	d.abandon(d.compaction)
	c, err := d.compact(s, exported)
	if err != nil {
		return err
	}
	if _, err = c.step(s.Len()); err == nil {
		err = d.replaceBy(c)
	}
	if err != nil {
		d.abandon(c)
	}
	return err
}

// replaceBy makes the file of c ours.
func (d *Dir) replaceBy(c *compaction) error {
	if err := d.own.root.Rename(stateFile+tempSuffix, stateFile); err != nil {
		return err
	}
	if d.journal != nil {
		d.journal.file.Close()
	}
	j := c.journal // a copy, as c has a snapshot that nobody else may need
	d.journal, d.compaction = &j, nil
	d.growTo = 2*j.size + d.small
	return nil
}

// abandon removes the file of c, which may be nil.
func (d *Dir) abandon(c *compaction) {
	if c != nil {
		c.file.Close()
		d.own.root.Remove(stateFile + tempSuffix)
	}
	d.compaction = nil
}

// goOn does some of the compaction if our file has grown, now that these
// changes, which make s, are saved in it. A failure is not one of the save: the
// file is good, and will be tried again when it has grown more.
func (d *Dir) goOn(changes []registry.Change, s *registry.Snapshot) {
	var err error
	switch {
	case d.compaction != nil:
		d.compaction.since = append(d.compaction.since, changes...)
	case d.journal.size < d.growTo:
		return
	default:
		d.compaction, err = d.compact(s, false)
	}
	if c := d.compaction; c != nil {
		done := false
		if done, err = c.step(max(d.step, perChange*len(changes))); done && err == nil {
			err = d.replaceBy(c)
		}
	}
	if err != nil {
		d.abandon(d.compaction)
		d.growTo = d.journal.size + d.journal.size/2
	}
}
