package tally

import (
	"io"
	"net"
	"sync"
)

// Link is a wire between a frontend and a server, which can be cut.
type Link struct {
	l      net.Listener
	target string

	mu    sync.Mutex
	cut   bool
	hole  bool // bytes vanish instead of the connections
	conns map[net.Conn]bool
	work  sync.WaitGroup
}

// NewLink listens on any free port of the loopback interface and passes on to target.
func NewLink(target string) (*Link, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	k := &Link{l: l, target: target, conns: map[net.Conn]bool{}}
	k.work.Go(k.accept)
	return k, nil
}

// Addr is where it listens.
func (k *Link) Addr() string { return k.l.Addr().String() }

// Cut ends all connections and refuses new ones.
func (k *Link) Cut() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cut = true
	for c := range k.conns {
		c.Close()
	}
}

// Swallow lets every byte vanish: nobody is told.
func (k *Link) Swallow() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.hole = true
}

// Mend takes Cut and Swallow back. What was swallowed is lost, so the connections of that time end.
func (k *Link) Mend() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.hole {
		for c := range k.conns {
			c.Close()
		}
	}
	k.cut, k.hole = false, false
}

// Close ends the link.
func (k *Link) Close() {
	k.l.Close()
	k.Cut()
	k.work.Wait()
}

func (k *Link) accept() {
	for {
		c, err := k.l.Accept()
		if err != nil {
			return
		}
		if !k.keep(c) {
			continue
		}
		k.work.Go(func() { k.pass(c) })
	}
}

// keep notes a connection, or ends it while the link is cut.
func (k *Link) keep(c net.Conn) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cut {
		c.Close()
		return false
	}
	k.conns[c] = true
	return true
}

func (k *Link) pass(c net.Conn) {
	defer k.drop(c)
	far, err := net.Dial("tcp", k.target)
	if err != nil || !k.keep(far) {
		return
	}
	defer k.drop(far)
	done := make(chan struct{})
	k.work.Go(func() {
		k.copy(far, c)
		far.Close()
		close(done)
	})
	k.copy(c, far)
	c.Close()
	<-done
}

func (k *Link) drop(c net.Conn) {
	c.Close()
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.conns, c)
}

func (k *Link) copy(dst io.Writer, src io.Reader) {
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		k.mu.Lock()
		hole := k.hole
		k.mu.Unlock()
		if n > 0 && !hole {
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
