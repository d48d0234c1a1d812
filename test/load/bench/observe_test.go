package bench

import (
	"fmt"
	"os"
	"time"

	"rpcward/rpcbind"
	"rpcward/test/lab"
	"rpcward/test/load"
)

// sample is what the kernel says of the server at a moment.
type sample struct {
	at          time.Time
	memory      int // VmRSS, kB
	threads     int
	descriptors int
}

func (b *bed) sample() sample {
	b.t.Helper()
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", b.proc.PID()))
	if err != nil {
		b.t.Fatal(err)
	}
	return sample{time.Now(), b.status("VmRSS"), b.status("Threads"), len(fds)}
}

// observe samples the server while it is under load.
func (s *soak) observe(d time.Duration) []sample {
	s.t.Helper()
	var list []sample
	pause := max(min(d/100, 2*time.Second), 20*time.Millisecond)
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(pause) {
		select {
		case <-s.bed.proc.Done():
			s.t.Fatalf("the server ended under load:\n%s", lastOf(s.bed.proc.Log()))
		default:
			list = append(list, s.bed.sample())
		}
	}
	return list
}

func lastOf(log string) string { return log[max(len(log)-10_000, 0):] }

// What counts as flat: the straight line through the samples after the first
// third, in which buffers and pools grow to what the load needs, may rise by
// this much from its beginning to its end.
const (
	maxMemoryRise = 4 << 10 // kB, or a tenth of the mean if that is more
	maxThreadRise = 4
)

// Descriptors are compared when the load has ended and connections have had time
// to be closed: the refused ones get 5 seconds.
const (
	calm           = 15 * time.Second
	maxDescriptors = 4 // more than before the load
)

// judge fails the soak if the server kept what it should not.
func (s *soak) judge(quiet sample, observed []sample) {
	s.t.Helper()
	warm := observed[len(observed)/3:]
	rise, mean := trend(warm, func(a sample) int { return a.memory })
	threads, _ := trend(warm, func(a sample) int { return a.threads })
	var after sample
	for end := time.Now().Add(calm); ; time.Sleep(time.Second) {
		after = s.bed.sample()
		if after.descriptors <= quiet.descriptors+maxDescriptors || time.Now().After(end) {
			break
		}
	}
	last := warm[len(warm)-1]
	s.notes = append(s.notes, fmt.Sprintf("a life of %.0f s: VmRSS %.1f MB, rising by %.1f MB after warm-up, %d threads, rising by %.1f; descriptors %d before, %d under load, %d after",
		last.at.Sub(observed[0].at).Seconds(), mean/1024, rise/1024, last.threads, threads, quiet.descriptors, last.descriptors, after.descriptors))
	if bound := max(maxMemoryRise, mean/10); rise > bound && !*racing {
		s.t.Errorf("memory is not flat: VmRSS rises by %.0f kB, more than %.0f", rise, bound)
	}
	if threads > maxThreadRise {
		s.t.Errorf("threads are not flat: %.1f more", threads)
	}
	if after.descriptors > quiet.descriptors+maxDescriptors {
		s.t.Errorf("descriptors leak: %d before the load, %d after", quiet.descriptors, after.descriptors)
	}
}

// trend fits a straight line by least squares, and says by how much it rises
// over all samples and what their mean is.
func trend(list []sample, value func(sample) int) (rise, mean float64) {
	n := float64(len(list))
	var meanX float64
	for _, a := range list {
		meanX += a.at.Sub(list[0].at).Seconds() / n
		mean += float64(value(a)) / n
	}
	var xy, xx float64
	for _, a := range list {
		dx := a.at.Sub(list[0].at).Seconds() - meanX
		xy += dx * (float64(value(a)) - mean)
		xx += dx * dx
	}
	if xx == 0 {
		return 0, mean
	}
	return xy / xx * list[len(list)-1].at.Sub(list[0].at).Seconds(), mean
}

// listed is a registration as DUMP names it.
type listed = rpcbind.RPCB[string]

// list counts how often each registration is listed.
func (b *bed) list() (map[listed]int, error) {
	count := map[listed]int{}
	err := b.Server.Do(func() error {
		_, list, err := load.ListOnce(load.Plan{Network: "unix", Path: lab.Sock, Timeout: 20 * time.Second})
		for _, r := range list {
			count[r]++
		}
		return err
	})
	return count, err
}
