package proxy

import (
	"bufio"
	"io"
	"net"
	"testing"
)

// BenchmarkSession is a whole session over the loopback: connect, log in, one exchange through the relay, close. Client
// and backend share the process, so only its allocations and the change of its time say something.
func BenchmarkSession(b *testing.B) {
	s := newSite(b, func(c *Config) { c.Limits.PerAccount, c.Limits.PerAddress = 1_000_000, 1_000_000 })
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		r := bufio.NewReader(nil)
		for pb.Next() {
			c, err := net.Dial("tcp", s.addr)
			if err != nil {
				b.Fatal(err)
			}
			r.Reset(c)
			r.ReadString('\n')
			io.WriteString(c, "LOGIN ann right\r\n")
			r.ReadString('\n')
			r.ReadString('\n')
			io.WriteString(c, "x\r\n")
			if line, err := r.ReadString('\n'); line != "x\r\n" {
				b.Fatal(line, err)
			}
			c.Close()
		}
	})
}
