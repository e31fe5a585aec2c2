package stage

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"sync"
)

// relay stands where Postfix would when there is none: the Dovecots' submission services need a server behind them even
// to answer EHLO. It takes every message and keeps none.
type relay struct {
	l  net.Listener
	wg sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn
}

func startRelay(n *Network) (*relay, error) {
	l, err := net.Listen("tcp", n.Addr(HostPostfix, PortSMTP))
	if err != nil {
		return nil, fmt.Errorf("start a relay in the place of Postfix: %w", err)
	}
	r := &relay{l: l}
	r.wg.Go(r.serve)
	return r, nil
}

func (r *relay) serve() {
	for {
		conn, err := r.l.Accept()
		if err != nil {
			return
		}
		r.mu.Lock()
		r.conns = append(r.conns, conn)
		r.mu.Unlock()
		r.wg.Go(func() {
			defer conn.Close()
			take(conn)
		})
	}
}

// take speaks as much SMTP as a relay client needs, until the client goes.
func take(conn net.Conn) {
	lines := bufio.NewScanner(conn)
	lines.Buffer(nil, 1<<20)
	fmt.Fprint(conn, "220 relay ready\r\n")
	data := false
	for lines.Scan() {
		verb, _, _ := strings.Cut(strings.ToUpper(lines.Text()), " ")
		switch {
		case data && lines.Text() == ".":
			data = false
			fmt.Fprint(conn, "250 2.0.0 taken\r\n")
		case data:
		case verb == "EHLO":
			fmt.Fprint(conn, "250-relay\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES\r\n")
		case verb == "DATA":
			data = true
			fmt.Fprint(conn, "354 go on\r\n")
		case verb == "QUIT":
			fmt.Fprint(conn, "221 2.0.0 bye\r\n")
			return
		default:
			fmt.Fprint(conn, "250 2.0.0 ok\r\n")
		}
	}
}

// stop ends the relay and its connections.
func (r *relay) stop() {
	r.l.Close()
	r.mu.Lock()
	for _, c := range r.conns {
		c.Close()
	}
	r.mu.Unlock()
	r.wg.Wait()
}
