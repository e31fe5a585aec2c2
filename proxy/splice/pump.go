package splice

import (
	"crypto/tls"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Reason says how a pair came to its end.
type Reason uint8

// The reasons. The first thing that happened counts.
const (
	Unknown       Reason = iota
	ClientClosed         // the client ended its direction first
	BackendClosed        // the backend did
	ClientReset          // the client's connection broke
	BackendReset         // the backend's did
	Idle                 // no byte for Config.Idle
	Closed               // Pair.Close: an operator, a moved account, the end of a drain
	Failed               // the relay could not take the connections over, or panicked
)

func (r Reason) String() string {
	return [...]string{"unknown", "client closed", "backend closed", "client reset", "backend reset", "idle", "closed here",
		"relay failed"}[r]
}

// Result is what a pair did.
type Result struct {
	Up, Down int64 // bytes from client to backend, and back, after the hand-over
	Reason   Reason
	Panic    string // what the relay panicked with, and where; "" if it did not
}

// Ended is told of a pair's end.
type Ended interface {
	// Ended is called once, when both connections are closed. It must not wait.
	Ended(Result)
	// BackendLost is called when the backend went away while the client was asking nothing of it. It says how long the
	// client is to be kept before it is let go; 0 is at once.
	BackendLost() time.Duration
}

// Leg is one connection that goes into a pair.
type Leg struct {
	Conn  net.Conn  // a *Sock, or any other connection
	TLS   *tls.Conn // over Conn, nil on a plain leg
	Ahead []byte    // read from this leg already: it goes to the other one first
	Gate  *Gate     // of the backend's leg: the pair ends when it is closed; nil without one
}

// Config of a Pump.
type Config struct {
	// Idle ends a pair without a byte in either direction.
	Idle time.Duration
	// HalfClosed ends a pair one of whose directions has ended, without a byte in the other one.
	HalfClosed time.Duration
}

// unsolicited is how long ago the client's last byte must be for the backend's end not to be an answer to it, such as to
// LOGOUT.
const unsolicited = 5

// Pump relays pairs. It is safe for use by many goroutines.
type Pump struct {
	cfg    atomic.Pointer[Config]
	active atomic.Int64
	done   chan struct{}
	wg     sync.WaitGroup // pairs and goroutines

	mu     sync.Mutex
	closed bool
}

// New makes a Pump. Close it to end its pairs.
func New(cfg Config) *Pump {
	p := &Pump{done: make(chan struct{})}
	p.cfg.Store(&cfg)
	p.wg.Go(p.sweep)
	return p
}

// Configure changes the time limits, for the pairs there are as well.
func (p *Pump) Configure(cfg Config) { p.cfg.Store(&cfg) }

// Active is the number of pairs.
func (p *Pump) Active() int { return int(p.active.Load()) }

// Close ends all pairs and waits until their connections are closed and their ends are told.
func (p *Pump) Close() {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		close(p.done)
	}
	p.mu.Unlock()
	for _, pair := range watched.pairs(p) {
		pair.Close()
	}
	p.wg.Wait()
}

// enter counts a pair, unless the Pump is closed.
func (p *Pump) enter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.wg.Add(1)
	p.active.Add(1)
	return true
}

func (p *Pump) leave() {
	p.active.Add(-1)
	p.wg.Done()
}

// Start relays between two legs from now on, and owns their connections. What was read ahead is passed on first. It
// returns at once; done is told of the end, possibly before Start returns.
func (p *Pump) Start(client, backend Leg, done Ended) *Pair {
	pair := &Pair{pump: p, done: done, last: clock(), gate: backend.Gate}
	pair.self, pair.lastUp = pair, pair.last
	pair.client.fd, pair.backend.fd = -1, -1
	if !p.enter() {
		pair.ended, pair.told = true, true
		client.Conn.Close()
		backend.Conn.Close()
		done.Ended(Result{Reason: Closed})
		return pair
	}
	cs, ok1 := client.Conn.(*Sock)
	bs, ok2 := backend.Conn.(*Sock)
	if !ok1 || !ok2 {
		p.startCopy(pair, client, backend)
		return pair
	}
	pair.mu.Lock()
	defer pair.unlock()
	pair.poller = cs.poller
	if !pair.client.take(pair, cs, client.TLS) || !pair.backend.take(pair, bs, backend.TLS) {
		cs.Close()
		bs.Close()
		pair.end(Failed)
		return pair
	}
	pair.up.ahead(client.Ahead)
	pair.down.ahead(backend.Ahead)
	pair.begin()
	return pair
}

// begin has the poller do what is to be done already: pass on what was read ahead, or lies in TLS, where no event tells of
// it. Room to write is an event at once.
func (p *Pair) begin() {
	select {
	case <-p.pump.done: // since Start looked: Close may have missed this pair
		p.end(Closed)
		return
	default:
	}
	if p.client.readable || p.backend.readable || len(p.up.pending)+len(p.down.pending) > 0 {
		e := &p.client
		e.watchOut = true
		if err := p.poller.change(e.fd, e.generation, true); err != nil {
			p.end(Failed)
		}
	}
}

// take moves a connection into the end's hands, and to the pair's poller. The pair is locked.
func (e *end) take(p *Pair, s *Sock, t *tls.Conn) bool {
	if !s.take(p, e) {
		return false
	}
	e.tls = t
	if t != nil {
		e.sock = s
		e.readable = true
	}
	return true
}

// ahead queues bytes in front of everything else.
func (f *flow) ahead(b []byte) {
	if len(b) > 0 {
		f.pending = b
		f.bytes = int64(len(b))
	}
}

// Close ends the pair. What waits to be written is lost. It may be called again.
func (p *Pair) Close() {
	p.mu.Lock()
	defer p.unlock()
	if p.closeCopy != nil {
		p.because(Closed)
		p.closeCopy()
		return
	}
	p.end(Closed)
}

// end closes both connections; unlock reports it. The pair is locked.
func (p *Pair) end(r Reason) {
	if p.ended {
		return
	}
	p.ended = true
	p.because(r)
	p.client.close()
	p.backend.close()
	p.up.drop(p.poller)
	p.down.drop(p.poller)
}

// unlock unlocks the pair, and tells of its end, if that has come. It is told behind the lock: whoever is told takes locks
// of its own, under which others ask the pair for its bytes.
func (p *Pair) unlock() {
	tell := p.ended && !p.told
	p.told = p.told || tell
	result := Result{Up: p.up.bytes, Down: p.down.bytes, Reason: p.reason, Panic: p.panic}
	p.mu.Unlock()
	if tell {
		p.done.Ended(result)
		p.pump.leave()
	}
}

func (e *end) close() {
	if e.gone || e.fd < 0 {
		return
	}
	e.sayGoodbye()
	e.gone = true
	if e.sock != nil && e.sock.queue != nil {
		putQueue(e.sock.queue)
		e.sock.queue = nil
	}
	e.tls = nil
	closeWatched(e.fd)
}

// solicited says that the backend's end, if it comes now, is not that of a lost backend: the client is told at once.
func (p *Pair) solicited(b *poller) bool {
	return p.client.gone || p.up.eof || b.now-p.lastUp < unsolicited && p.reason != BackendReset
}

// keepClient lets go of a lost backend, and of the client only some time later, if so many are lost that they should not
// all come back at once. It reports whether the client is kept.
func (p *Pair) keepClient(b *poller) bool {
	if p.solicited(b) {
		return false
	}
	wait := p.done.BackendLost()
	if wait <= 0 {
		return false
	}
	p.lost = true
	p.up.eof, p.up.shut = true, true
	p.backend.close()
	time.AfterFunc(wait, func() {
		p.mu.Lock()
		defer p.unlock()
		p.end(BackendClosed)
	})
	return true
}

// sweepEvery is how often idle pairs are looked for.
const sweepEvery = 5 * time.Second

// sweep ends the pairs that are idle for too long.
func (p *Pump) sweep() {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-p.done:
			return
		case <-tick.C:
		}
		cfg := p.cfg.Load()
		for _, pair := range watched.pairs(p) {
			pair.endIfIdle(cfg, clock())
		}
	}
}

func (p *Pair) endIfIdle(cfg *Config, now int64) {
	p.mu.Lock()
	defer p.unlock()
	silent := time.Duration(now-p.last) * time.Second
	if silent >= cfg.Idle || (p.up.eof || p.down.eof) && !p.lost && silent >= cfg.HalfClosed {
		p.end(Idle)
	}
}

// Bytes are those moved so far.
func (p *Pair) Bytes() (up, down int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.up.bytes, p.down.bytes
}
