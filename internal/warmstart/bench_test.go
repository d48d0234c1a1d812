package warmstart

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"rpcward/internal/registry"
	"rpcward/rpcbind"
)

var sizes = []int{10, 1000, 100000}

// manyServices are n services in no order.
func manyServices(n int) []registry.Registration {
	list := make([]registry.Registration, n)
	for i := range list {
		program := uint32(i) * 2654435761 >> 2
		addr := fmt.Sprintf("0.0.0.0.%d.%d", 1+i>>8&0x7f, i&0xff)
		list[i] = at(1<<30+program, uint32(1+i%3), rpcbind.TCP, addr, registry.Superuser)
	}
	return list
}

// benchRegistry is a registry of n services that is kept in a folder of dir.
func benchRegistry(b *testing.B, dir string, n int) (*registry.Registry, *Dir) {
	b.Helper()
	d, err := Open(filepath.Join(dir, "own"), Options{UID: os.Geteuid(), GID: os.Getegid()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { d.Close() })
	r := registry.New(own, manyServices(n), d)
	if err := d.Save(nil, r.Snapshot()); err != nil {
		b.Fatal(err)
	}
	return r, d
}

// change sets the service of a number, or unsets it, in turns.
func benchChange(r *registry.Registry, i int) error {
	reg := at(uint32(i)>>1, 1, rpcbind.UDP, "0.0.0.0.8.1", registry.Superuser)
	ok, err := true, error(nil)
	if i&1 == 0 {
		ok, err = r.Set(reg)
	} else {
		ok, err = r.Unset(reg.Program, 1, nil, registry.Superuser)
	}
	if !ok {
		return fmt.Errorf("change %d: %v, %w", i, ok, err)
	}
	return nil
}

// BenchmarkSet sets and unsets, saved, compactions included, from one caller
// and from eight at once.
func BenchmarkSet(b *testing.B) {
	for _, n := range sizes {
		for _, callers := range []int{1, 8} {
			b.Run(fmt.Sprintf("%d/callers=%d", n, callers), func(b *testing.B) {
				r, _ := benchRegistry(b, b.TempDir(), n)
				took := make([][]time.Duration, callers)
				b.ResetTimer()
				var wg sync.WaitGroup
				for c := range callers {
					wg.Go(func() {
						for i := range b.N / callers {
							begin := time.Now()
							if err := benchChange(r, c<<24+i); err != nil {
								b.Error(err)
								return
							}
							took[c] = append(took[c], time.Since(begin))
						}
					})
				}
				wg.Wait()
				b.StopTimer()
				all := slices.Sorted(slices.Values(slices.Concat(took...)))
				if len(all) == 0 {
					return
				}
				b.ReportMetric(float64(len(all))/b.Elapsed().Seconds(), "changes/s")
				b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "p99-µs")
				b.ReportMetric(float64(all[len(all)-1].Microseconds()), "max-µs")
			})
		}
	}
}

// BenchmarkFlush is what flushing each save to the disk would cost.
func BenchmarkFlush(b *testing.B) {
	for _, flush := range []bool{false, true} {
		b.Run(fmt.Sprint("flush=", flush), func(b *testing.B) {
			r, d := benchRegistry(b, b.TempDir(), 1000)
			i := 0
			for b.Loop() {
				if err := benchChange(r, i); err != nil {
					b.Fatal(err)
				}
				if flush {
					if err := d.journal.file.Sync(); err != nil {
						b.Fatal(err)
					}
				}
				i++
			}
		})
	}
}

// BenchmarkReplay reads a file and makes a registry of it, as a start does: of
// registrations only, and with as many changes behind them as there may be.
func BenchmarkReplay(b *testing.B) {
	for _, n := range sizes {
		list := manyServices(n)
		churn := sets(list...)
		for i := range list {
			churn = append(churn, registry.Change{Unset: []*registry.Registration{&list[i]}}, registry.Change{Set: &list[i]})
		}
		for name, file := range map[string][]byte{"compact": fileOf(&state{}, sets(list...)), "grown": fileOf(&state{}, churn)} {
			b.Run(fmt.Sprintf("%d/%s", n, name), func(b *testing.B) {
				b.SetBytes(int64(len(file)))
				b.ReportAllocs()
				for b.Loop() {
					st, err := readState(bytes.NewReader(file))
					if err != nil || st.lost > 0 {
						b.Fatal(st.lost, err)
					}
					if s := registry.New(own, st.services.fit, nil).Snapshot(); s.Len() != n+len(own) {
						b.Fatal(s.Len())
					}
				}
			})
		}
	}
}

// BenchmarkImport reads rpcbind.xdr and makes a registry of it.
func BenchmarkImport(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			file := appendRpcbind(nil, registry.New(own, manyServices(n), nil).Snapshot())
			b.SetBytes(int64(len(file)))
			b.ReportAllocs()
			for b.Loop() {
				list, err := decodeRpcbind(file)
				if err != nil || list.unfit > 0 {
					b.Fatal(list.why, err)
				}
				registry.New(own, list.fit, nil)
			}
		})
	}
}

// BenchmarkRewrite writes the whole file, as a start and an end do.
func BenchmarkRewrite(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r, d := benchRegistry(b, b.TempDir(), n)
			for b.Loop() {
				if err := d.Save(nil, r.Snapshot()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkResync reads a file of the longest size in which nothing is right,
// but everything looks like the beginning of a record.
func BenchmarkResync(b *testing.B) {
	head, _ := appendHead(nil, [identitySize]byte{}, &state{})
	rest := bytes.Repeat([]byte{0, 0, 2, 0}, 8<<20/4)
	b.SetBytes(int64(len(rest)))
	for b.Loop() {
		if _, err := readState(io.MultiReader(bytes.NewReader(head), bytes.NewReader(rest))); err != nil {
			b.Fatal(err)
		}
	}
}
