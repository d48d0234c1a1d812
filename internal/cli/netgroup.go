package cli

import (
	"context"
	"os/exec"
	"strings"
)

// netgroupMembers asks getent(1), which knows all places where a netgroup may
// be kept, for the hosts of one. "" among them stands for every host.
func netgroupMembers(name string) []string {
	ctx, cancel := context.WithTimeout(context.Background(), hostPatience)
	defer cancel()
	out, err := exec.CommandContext(ctx, "/usr/bin/getent", "--", "netgroup", name).Output()
	if err != nil {
		return nil
	}
	var hosts []string
	for rest := string(out); ; {
		_, triple, found := strings.Cut(rest, "(")
		if !found {
			return hosts
		}
		triple, rest, _ = strings.Cut(triple, ")")
		host, _, _ := strings.Cut(triple, ",")
		hosts = append(hosts, strings.TrimSpace(host))
	}
}

func hasMembers(group string) bool { return len(netgroupMembers(group)) > 0 }

// inNetgroup is innetgr(3) for a host: names are compared as they are written.
func inNetgroup(group, host string) bool {
	for _, member := range netgroupMembers(group) {
		if member == "" || member == host {
			return true
		}
	}
	return false
}
