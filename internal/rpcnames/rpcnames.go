// Package rpcnames turns RPC program numbers into names and back: by the
// host's /etc/rpc if it has one, otherwise by the well-known programs.
//
// The file is read once per process, at the first look-up, and never through
// NIS or another name service: a port mapper that asked one would wait for
// itself. All functions may be called from several goroutines.
package rpcnames

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"

	"rpcward/rpcbind"
)

// Path is the file of program names, rpc(5).
const Path = "/etc/rpc"

// maxFile bounds what is read of the file, in bytes; Debian's has 1 KiB.
const maxFile = 1 << 20

// table is the content of an rpc(5) file. Of several entries for a name or a
// number the first counts.
type table struct {
	names   map[uint32]string
	numbers map[string]uint32
	all     map[uint32][]string // names and aliases, in the order of the file
}

var host = sync.OnceValue(func() *table {
	f, err := os.Open(Path)
	if err != nil {
		return nil
	}
	defer f.Close()
	return read(f)
})

// Name returns the name of a program, "" if it has none.
func Name(number uint32) string {
	if t := host(); t != nil {
		return t.names[number]
	}
	return rpcbind.ProgramName(number)
}

// Number returns the number of the program with that name or alias.
func Number(name string) (uint32, bool) {
	if t := host(); t != nil {
		n, ok := t.numbers[name]
		return n, ok
	}
	return rpcbind.ProgramNumber(name)
}

// read parses an rpc(5) file: on each line a name, a number, aliases, and
// after "#" a comment. Lines that are none are passed over, as getrpcent(3) does.
func read(r io.Reader) *table {
	t := &table{names: map[uint32]string{}, numbers: map[string]uint32{}, all: map[uint32][]string{}}
	lines := bufio.NewScanner(io.LimitReader(r, maxFile))
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		number, err := strconv.ParseUint(fields[1], 10, 32)
		if err != nil {
			continue
		}
		t.add(uint32(number), fields[0], fields[2:])
	}
	return t
}

func (t *table) add(number uint32, name string, aliases []string) {
	if _, ok := t.names[number]; !ok {
		t.names[number] = name
	}
	for _, n := range append([]string{name}, aliases...) {
		t.all[number] = append(t.all[number], n)
		if _, ok := t.numbers[n]; !ok {
			t.numbers[n] = number
		}
	}
}
