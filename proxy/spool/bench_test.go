package spool

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// BenchmarkAccept is accept-and-queue with fsync, of messages of 4 KiB, by so many senders at once. Compare with
// BenchmarkSyncEach: what one file, fsync, rename and fsync of the directory for each message gives.
func BenchmarkAccept(b *testing.B) {
	for _, senders := range []int{1, 10, 50, 200} {
		b.Run(fmt.Sprint(senders), func(b *testing.B) {
			s, err := Open(Config{Dir: b.TempDir()}, Services{Hostname: "mx.example.com"})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			body := strings.Repeat("0123456789abcde\r\n", 240)
			e := &Envelope{From: "ann@example.org", To: []Recipient{{Address: "bob@example.com", Host: "back1"}}, Tried: true}
			var left atomic.Int64
			left.Store(int64(b.N))
			b.ResetTimer()
			var wg sync.WaitGroup
			for range senders {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						if _, err := s.Accept(b.Context(), e, strings.NewReader(body)); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}

func BenchmarkSyncEach(b *testing.B) {
	root := b.TempDir()
	dir, err := os.Open(root)
	if err != nil {
		b.Fatal(err)
	}
	defer dir.Close()
	body := []byte(strings.Repeat("0123456789abcde\r\n", 240))
	for i := range b.N {
		name := fmt.Sprintf("%s/%d", root, i)
		f, err := os.Create(name)
		if err != nil {
			b.Fatal(err)
		}
		_, err = f.Write(body)
		if err == nil {
			err = f.Sync()
		}
		f.Close()
		if err == nil {
			err = os.Rename(name, name+".eml")
		}
		if err == nil {
			err = dir.Sync()
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}
