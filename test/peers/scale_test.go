package peers

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"rpcward/oncrpc"
	"rpcward/rpcbind"
	"rpcward/test/lab"
	"rpcward/xdr"
)

// many is how many registrations the tests of scale make. RFC 1833 knows no limit.
const many = 100_000

// setCall is a record with a call of SET for the service of a number.
func setCall(i uint32) []byte {
	m := rpcbind.RPCB[string]{Program: 1<<29 + i/3, Version: 1 + i%3, NetID: "tcp", Addr: fmt.Sprintf("0.0.0.0.%d.%d", 40+i>>8&0x7f, i&0xff)}
	return oncrpc.EndRecord(oncrpc.AppendCall(oncrpc.BeginRecord(nil), &oncrpc.Call{
		XID: i, Program: rpcbind.Program, Version: 3, Procedure: lab.ProcSet, Args: rpcbind.AppendRPCB(nil, &m),
	}), 0)
}

// readTrue reads the answer to a SET, which must be TRUE.
func readTrue(r *bufio.Reader, buf []byte) error {
	msg, err := oncrpc.ReadRecord(r, buf[:0], 1<<10)
	if err != nil {
		return err
	}
	reply, err := oncrpc.ParseReply(msg)
	if x := xdr.NewReader(reply.Results); err != nil || !x.Bool() {
		return fmt.Errorf("SET %d: reply %+v, %w", reply.XID, reply, err)
	}
	return nil
}

// registerAll makes n registrations over one connection, without waiting for
// each answer.
func registerAll(h *lab.Host, n uint32) error {
	conn, err := lab.DialAs(h, 0)
	if err != nil {
		return err
	}
	defer conn.Close()
	sent := make(chan error, 1)
	go func() {
		w := bufio.NewWriter(conn)
		for i := range n {
			w.Write(setCall(i))
		}
		sent <- w.Flush()
	}()
	r, buf := bufio.NewReader(conn), make([]byte, 0, 64)
	for range n {
		if err := readTrue(r, buf); err != nil {
			conn.Close()
			<-sent
			return err
		}
	}
	return <-sent
}

// With 100,000 registrations everything still works, a kill loses none, and
// the clients that there are can read the list: libtirpc's rpcinfo in version
// 2 and 3, and a packet analyser that knows the protocol. (nmap's script loses
// most of a long list, of rpcbind's too.)
func TestHundredThousand(t *testing.T) {
	t.Parallel()
	lab.NeedCommand(t, "rpcinfo", "tcpdump", "tshark")
	n, p := serve(t, lab.Rpcward(t))
	if err := registerAll(n.Server, many); err != nil {
		t.Fatal(err)
	}
	p.Stop(syscall.SIGKILL)
	lab.StartPortMapper(t, n.Server, lab.Rpcward(t))

	if got := listOverTCP(t, n.Server); got < many {
		t.Fatalf("%d registrations after the kill", got)
	}
	if got := strings.Count(n.Inside.MustRun("rpcinfo", "10.99.0.1"), "\n"); got < many {
		t.Errorf("rpcinfo lists %d registrations", got)
	}
	capture := lab.PublicDir(t) + "/capture.pcap"
	tcpdump := n.Server.Start("tcpdump", "-i", "any", "-U", "-B", "65536", "-Z", "root", "-w", capture, "tcp", "port", "111")
	tcpdump.WaitLog("listening on")
	if got := strings.Count(n.Inside.MustRun("rpcinfo", "-p", "10.99.0.1"), "\n"); got < many {
		t.Errorf("rpcinfo -p lists %d registrations", got)
	}
	if err := tcpdump.Stop(syscall.SIGINT); err != nil {
		t.Errorf("tcpdump: %v", err)
	}
	answers := tshark(t, "-r", capture, "-Y", "rpc.procedure == 4 && rpc.msgtyp == 1", "-T", "fields", "-e", "rpc.replystat", "-e", "_ws.malformed")
	if answers != "0\t\n" {
		t.Errorf("answers, by status and fault: %q", answers)
	}
}

// BenchmarkSet registers over unix sockets with so many registered already:
// one caller that waits for each answer, eight that do, and one that doesn't.
func BenchmarkSet(b *testing.B) {
	lab.NeedRoot(b)
	for _, registered := range []uint32{10, many} {
		for _, callers := range []int{1, 8} {
			b.Run(fmt.Sprintf("%d/callers=%d", registered, callers), func(b *testing.B) {
				h := lab.NewHost(b, "server")
				lab.StartPortMapper(b, h, lab.Rpcward(b))
				if err := registerAll(h, registered); err != nil {
					b.Fatal(err)
				}
				b.ResetTimer()
				took := make([][]time.Duration, callers)
				var wg sync.WaitGroup
				for c := range callers {
					conn, err := lab.DialAs(h, 0)
					if err != nil {
						b.Fatal(err)
					}
					defer conn.Close()
					wg.Go(func() { took[c] = timeSets(b, conn, many+uint32(c)<<24, b.N/callers) })
				}
				wg.Wait()
				b.StopTimer()
				all := slices.Sorted(slices.Values(slices.Concat(took...)))
				if len(all) == 0 {
					return
				}
				b.ReportMetric(float64(len(all))/b.Elapsed().Seconds(), "SET/s")
				b.ReportMetric(float64(all[len(all)/2].Microseconds()), "p50-µs")
				b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "p99-µs")
				b.ReportMetric(float64(all[len(all)-1].Microseconds()), "max-µs")
			})
		}
	}
}

func timeSets(b *testing.B, conn net.Conn, first uint32, n int) (took []time.Duration) {
	r, buf := bufio.NewReader(conn), make([]byte, 0, 64)
	for i := range uint32(n) {
		call := setCall(first + i)
		begin := time.Now()
		if _, err := conn.Write(call); err != nil {
			b.Error(err)
			return took
		}
		if err := readTrue(r, buf); err != nil {
			b.Error(err)
			return took
		}
		took = append(took, time.Since(begin))
	}
	return took
}

// BenchmarkStartWithMany starts with 100,000 registrations that a killed
// rpcward or an ended rpcbind left, up to the first answer, and lists them all
// over TCP.
func BenchmarkStartWithMany(b *testing.B) {
	lab.NeedRoot(b)
	h := lab.NewHost(b, "server")
	p := lab.StartPortMapper(b, h, lab.Rpcward(b))
	if err := registerAll(h, many); err != nil {
		b.Fatal(err)
	}
	for _, left := range []struct {
		by  string
		sig syscall.Signal
	}{{"rpcward", syscall.SIGKILL}, {"rpcbind", syscall.SIGTERM}} {
		b.Run(left.by, func(b *testing.B) {
			var start, list time.Duration
			rss := 0
			for b.Loop() {
				p.Stop(left.sig)
				if left.by == "rpcbind" {
					h.MustRun("rm", "-r", "/run/rpcward")
				}
				begin := time.Now()
				p = lab.StartPortMapper(b, h, lab.Rpcward(b), "-w")
				start += time.Since(begin)
				begin = time.Now()
				if n := listOverTCP(b, h); n < many {
					b.Fatalf("%d registrations", n)
				}
				list += time.Since(begin)
				rss = max(rss, rssOf(b, p))
			}
			b.ReportMetric(float64(rss)/1024, "RSS-MiB")
			b.ReportMetric(float64(start.Milliseconds())/float64(b.N), "start-ms")
			b.ReportMetric(float64(list.Milliseconds())/float64(b.N), "DUMP-ms")
		})
	}
}

// rssOf returns VmRSS in KiB, proc(5).
func rssOf(b *testing.B, p *lab.Process) (kib int) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		b.Fatal(err)
	}
	return kib
}

// listOverTCP returns how many registrations there are, read to the last one.
func listOverTCP(t testing.TB, h *lab.Host) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	conn, err := h.Dial("tcp", "127.0.0.1:111")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	call := oncrpc.Call{Program: rpcbind.Program, Version: 4, Procedure: lab.ProcDump}
	conn.Write(oncrpc.EndRecord(oncrpc.AppendCall(oncrpc.BeginRecord(nil), &call), 0))
	msg, err := oncrpc.ReadRecord(bufio.NewReaderSize(conn, 64<<10), nil, 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	reply, err := oncrpc.ParseReply(msg)
	if err != nil {
		t.Fatal(err)
	}
	r := xdr.NewReader(reply.Results)
	return len(rpcbind.ReadRPCBs(&r))
}
