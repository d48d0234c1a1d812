package peers

import (
	"context"
	"errors"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"rpcward/test/lab"
)

// site is a port mapper with services whose ports are fixed, so that two of
// them can be compared.
type site struct {
	pm lab.PortMapper
	*lab.Net
}

func newSite(t *testing.T, pm lab.PortMapper) site {
	t.Helper()
	n, p := serve(t, pm)
	n.Server.Start("rpc.rquotad", "-F", "-p", "875")
	lab.WaitRegistered(t, n.Server, "100011", "1,2", lab.AllIP)
	n.Server.Start("rpc.statd", "--no-notify", "-F", "-p", "662")
	lab.WaitRegistered(t, n.Server, "100024", "1", lab.AllIP)
	// How often we asked is in the statistics. A new start begins them again.
	if err := p.Stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	lab.StartPortMapper(t, n.Server, pm, "-w")
	return site{pm, n}
}

// run returns all that a command prints, with how it ended.
func (s site) run(t *testing.T, h *lab.Host, command string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	args := strings.Fields(command)
	out, err := h.Run(ctx, args[0], args[1:]...)
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return err.Error() // with both outputs
	case err != nil:
		t.Fatal(err)
	}
	return out
}

// What the distribution's tools print about rpcward is what they print about
// rpcbind, save the differences that docs/differences.md names.
func TestToolsPrintTheSame(t *testing.T) {
	t.Parallel()
	lab.NeedCommand(t, "rpcinfo", "rpc.rquotad", "rpc.statd", "showmount", "nmap")
	stock, ours := newSite(t, lab.Stock(t)), newSite(t, lab.Rpcward(t))

	for _, command := range []string{
		"rpcinfo",
		"rpcinfo -s",
		"rpcinfo -p",
		"rpcinfo -m",
		"rpcinfo -p 127.0.0.1",
		"rpcinfo -t 127.0.0.1 100011",
		"rpcinfo -T tcp6 ::1 100011 2",
	} {
		t.Run("server: "+command, func(t *testing.T) {
			want, got := stock.run(t, stock.Server, command), ours.run(t, ours.Server, command)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-rpcbind +rpcward\n%s", diff)
			}
		})
	}
	for _, command := range []string{
		"rpcinfo -p 10.99.0.1",
		"rpcinfo 10.99.0.1",
		"rpcinfo fd99::1",
		"rpcinfo -s 10.99.0.1",
		"rpcinfo -s fd99::1",
		"rpcinfo -m 10.99.0.1",
		"rpcinfo -l 10.99.0.1 100011 2",
		"rpcinfo -l fd99::1 100011 2",
		"rpcinfo -l 10.99.0.1 200999 1",
		"rpcinfo -T udp 10.99.0.1 100000",
		"rpcinfo -T tcp 10.99.0.1 100000",
		"rpcinfo -T udp6 fd99::1 100000",
		"rpcinfo -T tcp6 fd99::1 100000",
		"rpcinfo -T udp 10.99.0.1 100011",
		"rpcinfo -T tcp 10.99.0.1 100011 2",
		"rpcinfo -T udp6 fd99::1 100011 1",
		"rpcinfo -T tcp6 fd99::1 100011",
		"rpcinfo -t 10.99.0.1 100024",
		"rpcinfo -u 10.99.0.1 100024 1",
		"rpcinfo -n 875 -t 10.99.0.1 100011",
		"rpcinfo -n 111 -u 10.99.0.1 100000",
		"rpcinfo -a 10.99.0.1.0.111 -T udp 100000 4",
		"rpcinfo -u 10.99.0.1 200999",   // not registered
		"rpcinfo -t 10.99.0.1 100011 9", // another version
		"rpcinfo -T tcp 10.99.0.1 100000 9",
		"rpcinfo -m 10.99.0.1",
		"showmount -e 10.99.0.1", // no mount server
		"nmap -n -Pn -sT -p 111 --script rpcinfo 10.99.0.1",
		"nmap -n -Pn -sU -p 111 --script rpcinfo 10.99.0.1",
		"nmap -6 -n -Pn -sT -p 111 --script rpcinfo fd99::1",
	} {
		t.Run("inside: "+command, func(t *testing.T) {
			want := withoutLocal(stock.run(t, stock.Inside, command))
			got := withoutTime(ours.run(t, ours.Inside, command))
			if diff := cmp.Diff(withoutTime(want), got); diff != "" {
				t.Errorf("-rpcbind +rpcward\n%s", diff)
			}
			if len(got) < 20 {
				t.Errorf("printed only %q", got)
			}
		})
	}
}

// localLine is a registration under the netid local in rpcinfo's long listing.
var localLine = regexp.MustCompile(`(?m)^ +[0-9]+ +[0-9]+ +local .*\n`)

// withoutLocal takes out what rpcward does not tell other hosts, the paths of
// unix sockets: docs/differences.md, hidden-paths.
func withoutLocal(out string) string {
	out = localLine.ReplaceAllString(out, "")
	// In the short listing the netids stand in a column of fixed width.
	return strings.ReplaceAll(out, "local,udp,tcp,udp6,tcp6          ", "udp,tcp,udp6,tcp6                ")
}

// timing is what nmap tells about its own run and the link.
var timing = regexp.MustCompile(`(?m)^(Starting Nmap|Nmap done|Host is up|MAC Address).*\n`)

func withoutTime(out string) string { return timing.ReplaceAllString(out, "") }
