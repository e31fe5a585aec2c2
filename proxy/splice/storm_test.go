package splice

import (
	"bytes"
	"crypto/tls"
	"io"
	mrand "math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// stream is the bytes that one side of one session sends, and nobody else does.
type stream struct{ *mrand.ChaCha8 }

func newStream(session int, up bool) stream {
	var seed [32]byte
	seed[0], seed[1], seed[2] = byte(session), byte(session>>8), 'd'
	if up {
		seed[2] = 'u'
	}
	return stream{mrand.NewChaCha8(seed)}
}

// listen compares what comes with the stream until its end, and returns how much came.
func (s stream) listen(t *testing.T, c net.Conn, pause func()) (n int) {
	got, want := make([]byte, 100_000), make([]byte, 100_000)
	for {
		k, err := c.Read(got)
		s.Read(want[:k])
		if !bytes.Equal(got[:k], want[:k]) {
			t.Errorf("behind byte %d come bytes that were not sent there", n)
			return n
		}
		if n += k; err != nil {
			return n
		}
		pause()
	}
}

// TestNoByteGoesAstray runs many sessions at once that stop reading, break off, reset and are closed at any instant, on
// every kind of leg. What arrives is always the beginning of what was sent in that session, and all of it where it ended
// in order.
func TestNoByteGoesAstray(t *testing.T) {
	config := testTLS(t)
	p := newPump(t)
	var workers sync.WaitGroup
	for worker := range 16 {
		workers.Go(func() {
			for i := range 12 {
				stormSession(t, p, config, worker<<8|i)
			}
		})
	}
	workers.Wait()
	if n := p.Active(); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
}

func stormSession(t *testing.T, p *Pump, config *tls.Config, session int) {
	dice := mrand.New(mrand.NewPCG(1, uint64(session)))
	legTLS := func() *tls.Config {
		if dice.IntN(3) == 0 {
			return config
		}
		return nil
	}
	ct, bt := legTLS(), legTLS()
	cl, client := leg(t, ct, false)
	bl, backend := leg(t, bt, true)
	r := newReport()
	pair := p.Start(cl, bl, r)

	violent := dice.IntN(2) == 0 // somebody breaks off
	size := func() int {
		switch {
		case dice.IntN(3) > 0:
			return dice.IntN(1 << dice.IntN(20))
		case violent:
			return 16 << 20 // more than sockets hold
		}
		return 1<<20 + dice.IntN(4<<20)
	}
	up, down := size(), size()
	over := make(chan struct{})
	pause := func() {}
	if violent && dice.IntN(2) == 0 {
		pause = func() { <-over } // a reader that stops
	}
	var sides sync.WaitGroup
	speak := func(c halfCloser, up bool, n int) {
		s := newStream(session, up)
		for b := make([]byte, 64<<10); n > 0; {
			b = b[:min(n, 64<<10)]
			s.Read(b)
			if _, err := c.Write(b); err != nil {
				if !violent {
					t.Errorf("write with %d bytes left: %v", n, err)
				}
				return
			}
			n -= len(b)
		}
		c.CloseWrite()
	}
	hear := func(c halfCloser, up bool, n int) {
		got := newStream(session, up).listen(t, c, pause)
		if !violent && got != n {
			t.Errorf("%d of %d bytes came", got, n)
		}
	}
	sides.Go(func() { speak(client, true, up) })
	sides.Go(func() { speak(backend, false, down) })
	sides.Go(func() { hear(backend, true, up) })
	sides.Go(func() { hear(client, false, down) })
	if violent {
		<-time.After(time.Duration(dice.IntN(int(30 * time.Millisecond)))) // any instant
		breakOff(dice.IntN(3), pair, client, backend)
	}
	close(over)
	if res := r.wait(t); !violent && (res.Up != int64(up) || res.Down != int64(down)) {
		t.Errorf("%+v of %d and %d", res, up, down)
	}
	sides.Wait()
	client.Close()
	backend.Close()
}

// breakOff ends a session in the middle of something.
func breakOff(how int, pair *Pair, client, backend io.Closer) {
	switch how {
	case 0:
		pair.Close()
	case 1:
		reset(client)
	case 2:
		reset(backend)
	}
}

// reset closes a connection so that its peer is sent an RST.
func reset(c io.Closer) {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	c.Close()
}
