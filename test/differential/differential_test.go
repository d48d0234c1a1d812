package differential

import (
	"os"
	"strconv"
	"testing"
	"time"

	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// Environment variables.
const (
	callsEnv = "RPCWARD_DIFF_CALLS" // how many calls to compare in all
	seedEnv  = "RPCWARD_DIFF_SEED"  // where the random calls begin
)

// What a plain test run compares: always the same calls, so that a failure is
// of what changed. Other seeds are for those who look for more.
const (
	defaultCalls = 20000
	defaultSeed  = 20261123
)

func number(t *testing.T, env string, otherwise uint64) uint64 {
	t.Helper()
	v := os.Getenv(env)
	if v == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", env, err)
	}
	return n
}

// TestRandomCalls compares random calls under each setup.
func TestRandomCalls(t *testing.T) {
	lab.NeedRoot(t)
	calls := int(number(t, callsEnv, defaultCalls))
	seed := number(t, seedEnv, defaultSeed)
	for i, tt := range []struct {
		name  string
		setup Setup
		share int // percent of the calls
	}{
		{"open", Setup{}, 70},
		{"denied", Setup{Denied: true}, 10},
		{"insecure", Setup{Insecure: true}, 10},
		{"forwarding", Setup{Forward: true}, 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := calls * tt.share / 100
			t.Logf("%d calls, %s=%d", n, seedEnv, seed)
			p := newPair(t, tt.setup)
			start := time.Now()
			p.run(NewGenerator(seed+uint64(i)), n, 20)
			t.Logf("%d calls in %v, explained: %v", n, time.Since(start).Round(time.Millisecond), p.seen)
		})
	}
}

// TestLongAnswers compares what is said of many registrations and of many
// programs that were asked for: more than fits into a datagram.
func TestLongAnswers(t *testing.T) {
	lab.NeedRoot(t)
	const registrations = 700
	seed := number(t, seedEnv, defaultSeed)
	t.Logf("%s=%d", seedEnv, seed)
	p := newPair(t, Setup{})
	for i := range uint32(registrations) {
		m := rpcbind.Mapping{Program: 300000 + i, Version: 1, Prot: rpcbind.ProtTCP, Port: 2000 + i}
		p.mustPlay(t, rpcbind.ProcSet, m)
		p.mustPlay(t, rpcbind.ProcGetAddr, m)
	}
	g := NewGenerator(seed)
	g.NoChanges = true
	p.run(g, 8000, 5)
	t.Logf("explained: %v", p.seen)
	for _, name := range []string{"dump-over-udp", "fragments", "getstat-bounded", "no-amplification"} {
		if p.seen[name] == 0 {
			t.Errorf("%s was not met", name)
		}
	}
}

// mustPlay plays a call of version 2 as root.
func (p *pair) mustPlay(t *testing.T, proc rpcbind.Proc, m rpcbind.Mapping) {
	t.Helper()
	s := Step{Msg: oncrpc.AppendCall(nil, &oncrpc.Call{
		XID: m.Program, Program: rpcbind.Program, Version: rpcbind.Version2,
		Procedure: uint32(proc), Args: rpcbind.AppendMapping(nil, m),
	})}
	if why := p.play(&s); why != "" {
		t.Fatal(why)
	}
}
