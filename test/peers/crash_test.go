package peers

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	"rpcward/rpcbind"
	"rpcward/test/lab"
)

const (
	crashes = 100
	writers = 8
	keys    = 24 // of each writer
)

// registrar is a client that sets and unsets services of its own, and knows
// what it was told.
type registrar struct {
	first uint32 // its lowest program number
	rng   *rand.Rand

	set          map[uint32]bool // acknowledged state of each program
	doubtful     uint32          // program whose last change was not answered, 0 for none
	acknowledged int
}

// work changes the registry until the port mapper is gone.
func (r *registrar) work(h *lab.Host) error {
	conn, err := lab.DialAs(h, 0)
	if err != nil {
		return nil // killed already
	}
	defer conn.Close()
	for {
		program := r.first + r.rng.Uint32N(keys)
		proc := uint32(lab.ProcSet)
		if r.set[program] {
			proc = lab.ProcUnset
		}
		done, err := lab.Change(conn, proc, registration(program))
		if err != nil {
			r.doubtful = program
			return nil
		}
		if !done {
			return fmt.Errorf("procedure %d of %d was answered FALSE", proc, program)
		}
		r.set[program] = proc == lab.ProcSet
		r.acknowledged++
	}
}

func registration(program uint32) *rpcbind.RPCB[string] {
	return &rpcbind.RPCB[string]{Program: program, Version: 1, NetID: "tcp", Addr: fmt.Sprintf("0.0.0.0.100.%d", program%256)}
}

// check compares how often each program is registered with what r was told,
// and learns what became of the change that was not answered.
func (r *registrar) check(t *testing.T, count map[uint32]int) {
	t.Helper()
	for program := r.first; program < r.first+keys; program++ {
		n := count[program]
		switch {
		case n > 1:
			t.Errorf("program %d is registered %d times", program, n)
		case program == r.doubtful:
			r.set[program] = n == 1
		case r.set[program] && n == 0:
			t.Errorf("SET of program %d was answered TRUE, and is lost", program)
		case !r.set[program] && n == 1:
			t.Errorf("UNSET of program %d was answered TRUE, and it is back", program)
		}
	}
	r.doubtful = 0
}

// What was answered TRUE survives kill -9 at any moment. There is no control:
// rpcbind saves at a clean exit only.
func TestNothingAcknowledgedIsLost(t *testing.T) {
	t.Parallel()
	pm := lab.Rpcward(t)
	h := lab.NewHost(t, "server")
	rounds := crashes
	if testing.Short() {
		rounds = 10
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var clients [writers]*registrar
	for i := range clients {
		clients[i] = &registrar{
			first: 300000 + uint32(i)*1000,
			rng:   rand.New(rand.NewPCG(seed, uint64(i)+1)),
			set:   make(map[uint32]bool),
		}
	}
	for range rounds {
		p := lab.StartPortMapper(t, h, pm, "-w")
		compare(t, h, clients[:])
		crash(t, p, clients[:], time.Duration(rng.Int64N(int64(40*time.Millisecond))))
		if t.Failed() {
			return
		}
	}
	lab.StartPortMapper(t, h, pm, "-w")
	compare(t, h, clients[:])

	total := 0
	for _, c := range clients {
		total += c.acknowledged
	}
	t.Logf("%d changes acknowledged, %d kills", total, rounds)
	if total < rounds*writers {
		t.Errorf("only %d changes were acknowledged in %d rounds", total, rounds)
	}
}

// crash kills the port mapper while all clients change its registry.
func crash(t *testing.T, p *lab.Process, clients []*registrar, after time.Duration) {
	t.Helper()
	var wg sync.WaitGroup
	for _, c := range clients {
		wg.Go(func() {
			if err := c.work(p.Host); err != nil {
				t.Error(err)
			}
		})
	}
	time.Sleep(after)
	p.Stop(syscall.SIGKILL)
	wg.Wait()
}

// compare checks the registry against what all clients were told.
func compare(t *testing.T, h *lab.Host, clients []*registrar) {
	t.Helper()
	count := make(map[uint32]int)
	for _, m := range lab.Dump(t, h) {
		count[m.Program]++
	}
	for _, c := range clients {
		c.check(t, count)
	}
}
