// Command startup measures, for each port mapper that it is given, the time
// from exec to the first answer over UDP and the memory in use when idle. It
// runs them by turns, so that what else the machine does meets all alike, and
// prints a table in Markdown. Run it by test/compare, which makes a namespace.
package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"rpcward/oncrpc"
	"rpcward/rpcbind"
)

const rounds = 21

// sample is what one start showed.
type sample struct {
	first time.Duration // from exec to the first answer
	rss   int           // VmRSS in KiB after a second without calls, proc(5)
}

func main() {
	programs := os.Args[1:]
	samples := map[string][]sample{}
	for range rounds {
		for _, p := range programs {
			s, err := measure(p)
			if err != nil {
				fmt.Fprintf(os.Stderr, "startup: %s: %v\n", p, err)
				os.Exit(1)
			}
			samples[p] = append(samples[p], s)
		}
	}
	fmt.Println("| program | exec to first answer, median | slowest | VmRSS idle, median |")
	fmt.Println("|---|---|---|---|")
	for _, p := range programs {
		list := samples[p]
		slices.SortFunc(list, func(a, b sample) int { return int(a.first - b.first) })
		median, slowest := list[len(list)/2].first, list[len(list)-1].first
		slices.SortFunc(list, func(a, b sample) int { return a.rss - b.rss })
		fmt.Printf("| `%s` | %.1f ms | %.1f ms | %.1f MB |\n", p,
			median.Seconds()*1e3, slowest.Seconds()*1e3, float64(list[len(list)/2].rss)/1024)
	}
}

// measure starts a program, given with its options, and ends it.
func measure(command string) (sample, error) {
	words := strings.Fields(command)
	conn, err := net.Dial("udp", "127.0.0.1:111")
	if err != nil {
		return sample{}, err
	}
	defer conn.Close()
	cmd := exec.Command(words[0], words[1:]...)
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return sample{}, err
	}
	defer cmd.Wait()
	defer cmd.Process.Signal(unix.SIGTERM)
	if err := awaitAnswer(conn); err != nil {
		return sample{}, err
	}
	s := sample{first: time.Since(begin)}
	time.Sleep(time.Second)
	s.rss, err = residentKiB(cmd.Process.Pid)
	return s, err
}

// awaitAnswer asks until there is an answer, ten times a millisecond.
func awaitAnswer(conn net.Conn) error {
	call := oncrpc.AppendCall(nil, &oncrpc.Call{XID: 1, Program: rpcbind.Program, Version: rpcbind.Version2})
	buf := make([]byte, 1024)
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		conn.Write(call) // refused until the port is open
		conn.SetReadDeadline(time.Now().Add(100 * time.Microsecond))
		if n, err := conn.Read(buf); err == nil && n == oncrpc.AcceptedSize {
			return nil
		}
	}
	return fmt.Errorf("no answer in 10 s")
}

func residentKiB(pid int) (int, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	var kib int
	_, err = fmt.Sscan(rest, &kib)
	return kib, err
}
