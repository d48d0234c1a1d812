package bench

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"rpcward/test/lab"
	"rpcward/test/load"
)

var (
	soakTime = flag.Duration("soak", 3*time.Second, "how long TestSoak loads the server")
	racing   = flag.Bool("racing", false, "TestSoak runs a server with the race detector in it, whose memory is not judged")
)

// TestSoak keeps rpcward under everything at once: look-ups, SET and UNSET,
// reloads each second, floods, garbage, connections. Short lives that end with
// kill -9 come first, then two long ones, in which memory and descriptors must
// stay flat.
func TestSoak(t *testing.T) {
	lab.NeedRoot(t)
	toolsOf(t)
	switch {
	case *racing:
		t.Setenv(lab.BinaryEnv, buildRacing(t))
	case *soakTime < time.Minute:
		t.Parallel() // nothing is judged that time decides
	}
	s := newSoak(t)
	short, long := *soakTime/5, *soakTime*2/5
	kills := max(leastKills, int(short.Minutes()))
	for range kills {
		s.live(short/time.Duration(kills), syscall.SIGKILL, false)
	}
	judged := long >= time.Minute // before that nothing is warm
	s.live(long, syscall.SIGKILL, judged)
	s.live(long, syscall.SIGTERM, judged)
	s.bed.startAgain(setting{})
	s.compare()
	t.Log(s.summary())
	for name, n := range map[string]uint64{
		"look-up was answered": s.answered.Load(), "change was acknowledged": s.changes(), "flood came": s.flooded.Load(), "stranger asked": s.strangers.Load(),
	} {
		if n == 0 {
			t.Errorf("no %s: the soak proves nothing", name)
		}
	}
}

const (
	leastKills = 5
	registrars = 4
)

func buildRacing(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "rpcward")
	out, err := exec.Command("go", "build", "-race", "-o", path, "rpcward/cmd/rpcward").CombinedOutput()
	if err != nil {
		t.Fatalf("building with the race detector: %v\n%s", err, out)
	}
	for dir := path; dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		os.Chmod(dir, 0o755) // the server runs it as another user
	}
	return path
}

// soak is a server, what is done to it, and what was seen.
type soak struct {
	t       *testing.T
	bed     *bed
	clients [registrars]*registrar

	dying                                              atomic.Bool // the life ends: the server may be gone
	asked, answered, lost, flooded, strangers, reloads atomic.Uint64
	kills                                              int
	notes                                              []string // of each long life
}

func newSoak(t *testing.T) *soak {
	s := &soak{t: t, bed: rpcwardBed(t)}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for i := range s.clients {
		s.clients[i] = newRegistrar(s.bed.Server, firstKey+load.Registration(i)*keys, seed+uint64(i))
	}
	s.bed.writeRules(0)
	s.bed.seed(looked)
	return s
}

// looked is how many registrations are looked up, which nobody changes.
const looked = 16

// live starts the server, puts it under load for a while and ends it; one that
// is judged is first left alone for a moment.
func (s *soak) live(d time.Duration, end syscall.Signal, judged bool) {
	s.t.Helper()
	s.bed.startAgain(setting{})
	s.compare()
	quiet := s.bed.sample()
	s.dying.Store(false)
	stop := make(chan struct{})
	var work sync.WaitGroup
	for _, f := range []func(<-chan struct{}){s.lookUp, s.reload, s.flood, s.garbage, s.beRefused} {
		work.Go(func() { f(stop) })
	}
	for _, c := range s.clients {
		work.Go(func() {
			if err := c.work(stop, &s.dying); err != nil {
				s.t.Error(err)
			}
		})
	}
	observed := s.observe(d)
	s.dying.Store(true) // from here on a look-up may go unanswered
	if end == syscall.SIGKILL && !judged {
		s.bed.proc.Signal(end) // in the midst of everything
	}
	close(stop)
	work.Wait()
	if judged {
		s.judge(quiet, observed)
	}
	err := s.bed.proc.Stop(end)
	if end == syscall.SIGTERM && err != nil {
		s.t.Errorf("the end after SIGTERM: %v", err)
	}
	if end == syscall.SIGKILL {
		s.kills++
	}
	s.readLog(s.bed.proc.Log())
	s.bed.proc = nil
	if s.t.Failed() {
		s.t.FailNow()
	}
}

// until runs f again and again until stop, with a pause between.
func until(stop <-chan struct{}, pause time.Duration, f func()) {
	for {
		f()
		select {
		case <-stop:
			return
		case <-time.After(pause):
		}
	}
}

func stopped(stop <-chan struct{}) bool {
	select {
	case <-stop:
		return true
	default:
		return false
	}
}

// patience is how long all look-ups may go unanswered, on a busy machine.
const patience = 10 * time.Second

// lookUp makes look-ups of all kinds from an allowed host. Each must be right.
func (s *soak) lookUp(stop <-chan struct{}) {
	kinds := []lookups{
		{from: overVeth, version: 2}, {from: overVeth, version: 4}, {from: overLoopback, version: 2},
		{from: overVeth, version: 2, tcp: true}, {from: overLoopback, version: 4, tcp: true},
	}
	i, answered := 0, time.Now()
	until(stop, 0, func() {
		l := kinds[i%len(kinds)]
		i++
		l.window, l.registrations, l.time = 16, looked, 200*time.Millisecond
		r, err := s.bed.tryLook(l)
		switch {
		case s.dying.Load():
			return
		case err != nil:
			s.t.Error(err)
		case r.Answered > 0:
			answered = time.Now()
		case time.Since(answered) > patience:
			s.t.Errorf("no look-up was answered for %v", patience)
		}
		s.asked.Add(r.Sent)
		s.answered.Add(r.Answered)
		s.lost.Add(r.Lost)
	})
}

// reload changes the policy each second, always so that the inside is answered
// and the stranger is not.
func (s *soak) reload(stop <-chan struct{}) {
	i := 0
	until(stop, time.Second, func() {
		s.bed.writeRules([]int{0, 10, 1000}[i%3])
		i++
		s.reloads.Add(1)
	})
}

// flood floods from outside, one kind after the other.
func (s *soak) flood(stop <-chan struct{}) {
	i := 0
	until(stop, 500*time.Millisecond, func() {
		s.floodFrom(s.bed.Stranger, load.Kinds[i%len(load.Kinds)], 20_000, lab.ServerWAN.String())
		i++
	})
}

// garbage comes also from a host that is allowed.
func (s *soak) garbage(stop <-chan struct{}) {
	kinds := []load.Kind{load.Garbage, load.Connects}
	i := 0
	until(stop, 500*time.Millisecond, func() {
		s.floodFrom(s.bed.Inside, kinds[i%len(kinds)], 500, lab.ServerIP.String())
		i++
	})
}

func (s *soak) floodFrom(h *lab.Host, kind load.Kind, rate float64, addr string) {
	var r load.Result
	if err := s.bed.begin(h, "flood", "-kind", string(kind), "-rate", fmt.Sprint(rate), "-addr", addr+":111", "-time", "500ms").read(&r); err != nil {
		s.t.Error(err)
	}
	s.flooded.Add(r.Sent)
}

// beRefused asks as the stranger, who must get no answer over UDP whatever the
// policy is changed to.
func (s *soak) beRefused(stop <-chan struct{}) {
	until(stop, 200*time.Millisecond, func() {
		var r load.Result
		err := s.bed.begin(s.bed.Stranger, "lookup", "-addr", lab.ServerWAN.String()+":111", "-window", "4",
			"-unchecked", "-time", "100ms", "-timeout", "100ms", "-warmup", "0s").read(&r)
		if err != nil {
			s.t.Error(err)
		}
		s.strangers.Add(r.Sent)
		if n := r.Answered + r.Late; n > 0 {
			s.t.Errorf("the stranger got %d answers", n)
		}
	})
}

// expected are the lines that a server may log under this load.
var expected = regexp.MustCompile(`^rpcward: (warning: )?(` + strings.Join([]string{
	`serving UDP and TCP port 111, .*`,
	`took over \d+ registrations from .*`,
	`policy in force answering=.*`,
	`connect from \S+ to \S*\(\S*\): request from unauthorized host`,
	`[\d,]+ more suppressed: requests from unauthorized hosts`,
	`[\d,]+ (more )?(request from an unauthorized host|requests from unauthorized hosts|answers? held back by the rate limit) in .* in the last \d+ s.*`,
	`(many|fewer) calls are refused.*`, // the kernel drops them
	`[\d,]+ packets of refused networks dropped in the kernel.*`,
}, "|") + `)$`)

// readLog reports what no server should say: a panic, a race, an error.
func (s *soak) readLog(log string) {
	s.t.Helper()
	const most = 20
	strange := 0
	for line := range strings.Lines(log) {
		if line = strings.TrimSpace(line); line != "" && !expected.MatchString(line) {
			if strange++; strange <= most {
				s.t.Errorf("unexpected in the log: %s", line)
			}
		}
	}
}

// compare checks the registry against what all clients were told.
func (s *soak) compare() {
	s.t.Helper()
	list, err := s.bed.list()
	if err != nil {
		s.t.Fatal(err)
	}
	for i := range load.Registration(looked) {
		if list[i.RPCB()] != 1 {
			s.t.Errorf("registration %d is listed %d times", i, list[i.RPCB()])
		}
	}
	for _, c := range s.clients {
		c.check(s.t, list)
	}
}

func (s *soak) changes() (n uint64) {
	for _, c := range s.clients {
		n += c.acknowledged
	}
	return n
}

func (s *soak) summary() string {
	share := 100 * float64(s.lost.Load()) / float64(max(s.asked.Load(), 1))
	return fmt.Sprintf("%d look-ups answered, %d lost (%.3f %%), %d changes acknowledged and none lost, %d reloads, %d kills, %d packets and connections of floods, %d calls of the stranger unanswered\n%s",
		s.answered.Load(), s.lost.Load(), share, s.changes(), s.reloads.Load(), s.kills, s.flooded.Load(), s.strangers.Load(), strings.Join(s.notes, "\n"))
}

// registrar is a client that registers services of its own and takes them back,
// and knows what it was told.
type registrar struct {
	host  *lab.Host
	first load.Registration
	rng   *rand.Rand

	set          [keys]bool // acknowledged state of each key
	doubtful     int        // key whose last change was not answered, -1 for none
	acknowledged uint64
}

// Keys of a registrar; those of the first begin at firstKey, above what is looked up.
const (
	keys     = 200
	firstKey = 100_000
)

func newRegistrar(h *lab.Host, first load.Registration, seed uint64) *registrar {
	return &registrar{host: h, first: first, rng: rand.New(rand.NewPCG(seed, 0)), doubtful: -1}
}

// work changes the registry until stop, or until the server is killed, which
// dying tells of.
func (r *registrar) work(stop <-chan struct{}, dying *atomic.Bool) error {
	conn, err := r.host.Dial("unix", lab.Sock)
	if err != nil {
		return fmt.Errorf("connecting to register: %w", err)
	}
	defer conn.Close()
	for !stopped(stop) {
		key := r.rng.IntN(keys)
		question := load.Set(r.first + load.Registration(key))
		if r.set[key] {
			question = load.Unset(r.first + load.Registration(key))
		}
		right, err := load.Ask(conn, question, 20*time.Second)
		switch {
		case err != nil && dying.Load():
			r.doubtful = key
			return nil
		case err != nil:
			return fmt.Errorf("a change was not answered: %w", err)
		case !right:
			return fmt.Errorf("a change of registration %d was answered FALSE", int(r.first)+key)
		}
		r.set[key] = !r.set[key]
		r.acknowledged++
		time.Sleep(time.Duration(r.rng.IntN(4)) * time.Millisecond)
	}
	return nil
}

// check compares the registry with what r was told, and learns what became of
// the change that was not answered.
func (r *registrar) check(t testing.TB, list map[listed]int) {
	t.Helper()
	for key := range keys {
		n := list[(r.first + load.Registration(key)).RPCB()]
		if key == r.doubtful {
			r.set[key] = n == 1
		}
		if n > 1 || r.set[key] != (n == 1) {
			t.Errorf("registration %d is listed %d times, and was acknowledged to be set: %t", int(r.first)+key, n, r.set[key])
		}
	}
	r.doubtful = -1
}
