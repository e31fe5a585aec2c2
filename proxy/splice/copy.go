package splice

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
)

// copied relays connections that have no descriptor to take over: one goroutine for each direction.
type copied struct {
	pair            *Pair
	client, backend net.Conn
	up, down        atomic.Int64
	first           atomic.Uint32 // the first Reason
}

func (p *Pump) startCopy(pair *Pair, client, backend Leg) {
	c := &copied{pair: pair, client: client.top(), backend: backend.top()}
	both := make(chan struct{})
	p.wg.Go(func() {
		c.flow(&c.up, c.backend, c.client, client.Ahead, ClientClosed)
		close(both)
	})
	p.wg.Go(func() {
		c.flow(&c.down, c.client, c.backend, backend.Ahead, BackendClosed)
		<-both
		c.end()
	})
	p.wg.Go(func() { // a Close of the pump or of the pair ends both
		select {
		case <-p.done:
			c.close()
		case <-both:
		}
	})
	pair.mu.Lock()
	pair.closeCopy = c.close
	pair.mu.Unlock()
}

func (l Leg) top() net.Conn {
	if l.TLS != nil {
		return l.TLS
	}
	return l.Conn
}

// flow copies one direction and passes its end on as a half-close, or as a close where there is no such thing.
func (c *copied) flow(n *atomic.Int64, dst, src net.Conn, ahead []byte, closed Reason) {
	sent, err := dst.Write(ahead)
	n.Add(int64(sent))
	if err == nil {
		var copied int64
		copied, err = io.Copy(dst, src)
		n.Add(copied)
	}
	if err != nil && !errors.Is(err, io.ErrClosedPipe) && !errors.Is(err, net.ErrClosed) {
		closed += ClientReset - ClientClosed
	}
	c.first.CompareAndSwap(uint32(Unknown), uint32(closed))
	if half, ok := dst.(interface{ CloseWrite() error }); ok && err == nil {
		half.CloseWrite()
		return
	}
	c.close()
}

func (c *copied) close() {
	c.client.Close()
	c.backend.Close()
}

func (c *copied) end() {
	c.close()
	p := c.pair
	p.mu.Lock()
	defer p.unlock()
	p.up.bytes, p.down.bytes = c.up.Load(), c.down.Load()
	p.because(Reason(c.first.Load()))
	p.end(p.reason)
}
