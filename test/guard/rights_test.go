package guard

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"rpcward/internal/firewall"
)

// The guard has CAP_NET_ADMIN and nothing else, can't get more, and no socket
// that takes anything from the network.
func TestRights(t *testing.T) {
	t.Parallel()
	_, guard := guarded(t, firewall.BackendNFT, lan)
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", guard.PID()))
	if err != nil || len(tasks) < 2 {
		t.Fatalf("threads: %v, %v", tasks, err)
	}
	const netAdmin = "0000000000001000" // 1 << CAP_NET_ADMIN
	for _, task := range tasks {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/status", guard.PID(), task.Name()))
		if err != nil {
			t.Fatal(err)
		}
		fields := map[string]string{}
		for line := range strings.Lines(string(data)) {
			name, value, _ := strings.Cut(line, ":")
			fields[name] = strings.TrimSpace(value)
		}
		for name, want := range map[string]string{"CapEff": netAdmin, "CapPrm": netAdmin, "CapInh": "0000000000000000", "CapAmb": "0000000000000000", "NoNewPrivs": "1"} {
			if fields[name] != want {
				t.Errorf("thread %s: %s is %s, want %s", task.Name(), name, fields[name], want)
			}
		}
	}

	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", guard.PID()))
	if err != nil {
		t.Fatal(err)
	}
	sockets := 0
	for _, fd := range fds {
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", guard.PID(), fd.Name()))
		if err != nil || !strings.HasPrefix(link, "socket:[") {
			continue
		}
		sockets++
		inode := strings.Trim(link, "socket:[]")
		for _, table := range []string{"tcp", "tcp6", "udp", "udp6", "udplite", "udplite6", "raw", "raw6", "icmp", "icmp6", "packet"} {
			data, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", guard.PID(), table))
			if err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			if strings.Contains(string(data), " "+inode+" ") {
				t.Errorf("a socket of the guard is in net/%s:\n%s", table, data)
			}
		}
	}
	if sockets < 3 {
		t.Errorf("%d sockets found, want those to netlink and to the port mapper", sockets)
	}
	if data, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", guard.PID())); err != nil || !strings.Contains(string(data), ":006F ") {
		t.Errorf("the port mapper's own socket is not seen in net/tcp: %v\n%s", err, data)
	}
}
