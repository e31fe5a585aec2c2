package splice

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"
)

// report is the end of a pair, for a test to wait for.
type report struct {
	done chan Result
	keep time.Duration
}

func newReport() *report                       { return &report{done: make(chan Result, 1)} }
func (r *report) Ended(res Result)             { r.done <- res }
func (r *report) BackendLost() time.Duration   { return r.keep }
func (r *report) wait(t testing.TB) (x Result) { t.Helper(); return receive(t, r.done) }

func receive[T any](t testing.TB, c chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(20 * time.Second):
		t.Fatal("nothing came within 20 seconds")
	}
	return v
}

func newPump(t testing.TB) *Pump {
	t.Helper()
	p := New(Config{Idle: time.Hour, HalfClosed: time.Minute})
	t.Cleanup(p.Close)
	return p
}

// tcpPair is a connection on the loopback, both ends.
func tcpPair(t testing.TB) (near, far *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return s.(*net.TCPConn), c.(*net.TCPConn)
}

func testTLS(t testing.TB) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"test"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{
		Certificates:                []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		DynamicRecordSizingDisabled: true,
	}
}

// halfCloser is what a test's end of a session is.
type halfCloser interface {
	net.Conn
	CloseWrite() error
}

// leg makes one leg of a pair, under TLS if config is not nil, and returns the peer's end of it. On the backend's leg
// the relay is TLS's client.
func leg(t testing.TB, config *tls.Config, backend bool) (Leg, halfCloser) {
	t.Helper()
	near, far := tcpPair(t)
	sock, err := NewSock(near)
	if err != nil {
		t.Fatal(err)
	}
	if config == nil {
		return Leg{Conn: sock}, far
	}
	client := &tls.Config{InsecureSkipVerify: true, MaxVersion: config.MaxVersion, DynamicRecordSizingDisabled: true}
	ours, theirs := tls.Server(sock, config), tls.Client(far, client)
	if backend {
		ours, theirs = tls.Client(sock, client), tls.Server(far, config)
	}
	errs := make(chan error, 1)
	go func() { errs <- theirs.Handshake() }()
	if err := ours.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, errs); err != nil {
		t.Fatal(err)
	}
	return Leg{Conn: sock, TLS: ours}, theirs
}

// kinds runs a test for each combination of plain and TLS legs.
func kinds(t *testing.T, f func(t *testing.T, client, backend *tls.Config)) {
	config := testTLS(t)
	old := config.Clone()
	old.MaxVersion = tls.VersionTLS12
	for name, c := range map[string][2]*tls.Config{
		"plain-plain": {nil, nil}, "tls-plain": {config, nil}, "plain-tls": {nil, config}, "tls-tls": {config, config}, "tls12-plain": {old, nil},
	} {
		t.Run(name, func(t *testing.T) { f(t, c[0], c[1]) })
	}
}

func sendAll(t testing.TB, c net.Conn, seed uint64, size int) chan [32]byte {
	sum := make(chan [32]byte, 1)
	go func() {
		r := mrand.NewChaCha8([32]byte{byte(seed)})
		dice := mrand.New(mrand.NewPCG(seed, 1))
		h := sha256.New()
		for left := size; left > 0; {
			b := make([]byte, min(left, 1+dice.IntN(200_000)))
			r.Read(b)
			h.Write(b)
			if _, err := c.Write(b); err != nil {
				t.Errorf("write with %d bytes left: %v", left, err)
				break
			}
			left -= len(b)
		}
		sum <- [32]byte(h.Sum(nil))
	}()
	return sum
}

func take(t testing.TB, c net.Conn, size int) chan [32]byte {
	sum := make(chan [32]byte, 1)
	go func() {
		h := sha256.New()
		if n, err := io.CopyN(h, c, int64(size)); err != nil {
			t.Errorf("read %d of %d bytes: %v", n, size, err)
		}
		sum <- [32]byte(h.Sum(nil))
	}()
	return sum
}

// Bulk in both directions at once arrives whole and in order, ahead bytes first, over every kind of leg.
func TestBothWays(t *testing.T) {
	kinds(t, func(t *testing.T, ct, bt *tls.Config) {
		p := newPump(t)
		cl, client := leg(t, ct, false)
		bl, backend := leg(t, bt, true)
		cl.Ahead, bl.Ahead = []byte("from client "), []byte("from backend ")
		r := newReport()
		p.Start(cl, bl, r)
		for _, x := range []struct {
			c    net.Conn
			want string
		}{{backend, "from client "}, {client, "from backend "}} {
			got := make([]byte, len(x.want))
			if _, err := io.ReadFull(x.c, got); err != nil || string(got) != x.want {
				t.Fatalf("ahead: got %q, %v", got, err)
			}
		}
		const size = 20 << 20
		s1, s2 := sendAll(t, client, 1, size), sendAll(t, backend, 2, size)
		g1, g2 := take(t, backend, size), take(t, client, size)
		if receive(t, s1) != receive(t, g1) || receive(t, s2) != receive(t, g2) {
			t.Fatal("bytes were changed, lost or reordered")
		}
		// The end of one direction leaves the other one open.
		client.CloseWrite()
		if n, err := backend.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Fatalf("half-close arrived as %d, %v", n, err)
		}
		io.WriteString(backend, "still here")
		got := make([]byte, 10)
		if _, err := io.ReadFull(client, got); err != nil || string(got) != "still here" {
			t.Fatalf("after half-close: %q, %v", got, err)
		}
		backend.Close()
		if rest, err := io.ReadAll(client); len(rest) != 0 || err != nil {
			t.Fatalf("at the end: %q, %v", rest, err)
		}
		res := r.wait(t)
		if res.Up != size+12 || res.Down != size+23 || res.Reason != ClientClosed {
			t.Errorf("result %+v", res)
		}
	})
}

// Small exchanges, one after the other: no byte waits for another.
func TestPingPong(t *testing.T) {
	kinds(t, func(t *testing.T, ct, bt *tls.Config) {
		p := newPump(t)
		cl, client := leg(t, ct, false)
		bl, backend := leg(t, bt, true)
		p.Start(cl, bl, newReport())
		go io.Copy(backend, backend)
		for i := range 500 {
			want := fmt.Appendf(nil, "line %d %s\r\n", i, bytes.Repeat([]byte("x"), i*i%5000))
			if _, err := client.Write(want); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(want))
			if _, err := io.ReadFull(client, got); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("exchange %d: %v", i, err)
			}
		}
	})
}

// A reader that stops makes the writer stop: the relay holds a bounded rest, and goes on when the reader does.
func TestSlowReader(t *testing.T) {
	kinds(t, func(t *testing.T, ct, bt *tls.Config) {
		p := newPump(t)
		cl, client := leg(t, ct, false)
		bl, backend := leg(t, bt, true)
		p.Start(cl, bl, newReport())
		chunk := make([]byte, 64<<10)
		written := 0
		backend.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
		for {
			n, err := backend.Write(chunk)
			written += n
			if err != nil {
				break
			}
		}
		if written > 64<<20 {
			t.Fatalf("took %d bytes that nobody reads", written)
		}
		if ct != nil || bt != nil {
			return // TLS does not go on after a write that timed out
		}
		backend.SetWriteDeadline(time.Time{})
		backend.CloseWrite()
		if n, err := io.Copy(io.Discard, client); err != nil || n != int64(written) {
			t.Fatalf("read %d of %d bytes, %v", n, written, err)
		}
	})
}

// A reset of one leg ends the pair, and says whose it was.
func TestReset(t *testing.T) {
	kinds(t, func(t *testing.T, ct, bt *tls.Config) {
		for _, who := range []string{"client", "backend"} {
			p := newPump(t)
			cl, client := leg(t, ct, false)
			bl, backend := leg(t, bt, true)
			r := newReport()
			p.Start(cl, bl, r)
			broken, other, want := client, backend, ClientReset
			if who == "backend" {
				broken, other, want = backend, client, BackendReset
			}
			under := broken.(net.Conn)
			if tc, ok := under.(*tls.Conn); ok {
				under = tc.NetConn()
			}
			under.(*net.TCPConn).SetLinger(0)
			under.Close()
			io.Copy(io.Discard, other)
			other.Close()
			if res := r.wait(t); res.Reason != want {
				t.Errorf("%s reset: %+v", who, res)
			}
		}
	})
}

// An idle pair is ended after its time, a busy one is not, in whichever direction it is busy.
func TestIdle(t *testing.T) {
	p := newPump(t)
	p.Configure(Config{Idle: time.Hour, HalfClosed: time.Hour})
	cl, client := leg(t, nil, false)
	bl, _ := leg(t, nil, true)
	r := newReport()
	pair := p.Start(cl, bl, r)
	io.WriteString(client, "x")
	cfg := &Config{Idle: 10 * time.Second, HalfClosed: 10 * time.Second}
	pair.endIfIdle(cfg, clock()+9)
	if p.Active() != 1 {
		t.Fatal("ended too early")
	}
	pair.endIfIdle(cfg, clock()+11)
	if res := r.wait(t); res.Reason != Idle {
		t.Errorf("%+v", res)
	}
}

// A lost backend's client is kept for as long as the engine says, and let go at once when it leaves by itself.
func TestKeptClient(t *testing.T) {
	for _, leaves := range []bool{true, false} {
		p := newPump(t)
		cl, client := leg(t, nil, false)
		bl, backend := leg(t, nil, true)
		r := newReport()
		r.keep = time.Hour
		if !leaves {
			r.keep = 300 * time.Millisecond
		}
		began := time.Now()
		p.Start(cl, bl, r)
		backend.(*net.TCPConn).SetLinger(0)
		backend.Close()
		if leaves {
			client.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			if _, err := client.Read(make([]byte, 1)); err == io.EOF {
				t.Fatal("the client was not kept")
			}
			client.Close()
		}
		r.wait(t)
		if !leaves && time.Since(began) < r.keep {
			t.Error("let go too early")
		}
	}
}

// What a lost backend said last is not kept back together with its client.
func TestKeptClientHearsTheLastWords(t *testing.T) {
	p := newPump(t)
	cl, client := leg(t, nil, false)
	bl, backend := leg(t, nil, true)
	r := newReport()
	r.keep = time.Hour
	pair := p.Start(cl, bl, r)
	pair.mu.Lock()
	pair.lastUp -= unsolicited
	io.WriteString(backend, "* BYE closing\r\n") // with the FIN behind it, when the poller gets to look
	backend.Close()
	time.Sleep(10 * time.Millisecond)
	pair.mu.Unlock()
	got := make([]byte, 15)
	if _, err := io.ReadFull(client, got); err != nil || string(got) != "* BYE closing\r\n" {
		t.Errorf("read %q, %v", got, err)
	}
	client.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := client.Read(got); err == io.EOF {
		t.Error("the client was not kept")
	}
	pair.Close()
	if res := r.wait(t); res.Down != 15 || res.Reason != BackendClosed {
		t.Errorf("%+v", res)
	}
}

// Last words and the end arrive together, and in order, whoever speaks them.
func TestLastWords(t *testing.T) {
	kinds(t, func(t *testing.T, ct, bt *tls.Config) {
		for _, byClient := range []bool{true, false} {
			p := newPump(t)
			cl, client := leg(t, ct, false)
			bl, backend := leg(t, bt, true)
			r := newReport()
			pair := p.Start(cl, bl, r)
			says, hears := backend, client
			if byClient {
				says, hears = client, backend
			}
			pair.mu.Lock()
			io.WriteString(says, "bye")
			says.CloseWrite()
			time.Sleep(5 * time.Millisecond)
			pair.mu.Unlock()
			if got, err := io.ReadAll(hears); err != nil || string(got) != "bye" {
				t.Fatalf("read %q, %v", got, err)
			}
			io.WriteString(hears, "see you")
			hears.CloseWrite()
			if got, err := io.ReadAll(says); err != nil || string(got) != "see you" {
				t.Fatalf("read %q, %v", got, err)
			}
			if res := r.wait(t); res.Up+res.Down != 10 {
				t.Errorf("%+v", res)
			}
		}
	})
}

// Idle pairs hold no goroutine, and give everything back at their end.
func TestNothingHeld(t *testing.T) {
	p := newPump(t)
	before := runtime.NumGoroutine()
	var reports []*report
	var ends []halfCloser
	for range 200 {
		cl, client := leg(t, nil, false)
		bl, backend := leg(t, nil, true)
		r := newReport()
		p.Start(cl, bl, r)
		reports, ends = append(reports, r), append(ends, client, backend)
	}
	if n := runtime.NumGoroutine(); n > before+2 {
		t.Errorf("%d goroutines for 200 idle pairs", n-before)
	}
	for _, e := range ends {
		e.Close()
	}
	for _, r := range reports {
		r.wait(t)
	}
	if n := len(watched.pairs(p)); n != 0 {
		t.Errorf("%d closed pairs are still watched", n)
	}
}

// Pipes take the place of sockets in tests: the relay's goroutines do the same.
func TestPipes(t *testing.T) {
	p := newPump(t)
	c1, c2 := net.Pipe()
	b1, b2 := net.Pipe()
	r := newReport()
	pair := p.Start(Leg{Conn: c1, Ahead: []byte("a")}, Leg{Conn: b1}, r)
	got := make([]byte, 2)
	go io.WriteString(c2, "b")
	if _, err := io.ReadFull(b2, got); err != nil || string(got) != "ab" {
		t.Fatalf("%q %v", got, err)
	}
	pair.Close()
	if res := r.wait(t); res.Reason != Closed || res.Up != 2 {
		t.Errorf("%+v", res)
	}
}

// A session that dies in the middle of a bulk transfer leaves bytes in its pipe. They die with it: the sessions after it
// hear nothing of them.
func TestBytesDieWithTheirSession(t *testing.T) {
	p := newPump(t)
	theirs := bytes.Repeat([]byte{'x'}, 1<<20)
	for range 2 * runtime.GOMAXPROCS(0) {
		cl, _ := leg(t, nil, false) // does not read
		bl, backend := leg(t, nil, true)
		r := newReport()
		pair := p.Start(cl, bl, r)
		backend.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		for err := error(nil); err == nil; {
			_, err = backend.Write(theirs)
		}
		if pair.Close(); r.wait(t).Down < 1<<20 {
			t.Fatal("no bulk transfer was under way")
		}
	}
	for range 2 * runtime.GOMAXPROCS(0) {
		cl, client := leg(t, nil, false)
		bl, backend := leg(t, nil, true)
		p.Start(cl, bl, newReport())
		go func() {
			backend.Write(make([]byte, 4<<20))
			backend.CloseWrite()
		}()
		got, err := io.ReadAll(client)
		if err != nil || len(got) != 4<<20 {
			t.Fatalf("read %d bytes, %v", len(got), err)
		}
		if i := bytes.IndexByte(got, 'x'); i >= 0 {
			t.Fatalf("byte %d and those behind it were sent in another session", i)
		}
	}
}

// A panic in the relay ends the pair that it happened in, and tells where; other pairs go on.
func TestPanicEndsOnePair(t *testing.T) {
	p := newPump(t)
	for range 2 * runtime.GOMAXPROCS(0) {
		cl, client := leg(t, nil, false)
		bl, backend := leg(t, nil, true)
		cl.TLS = new(tls.Conn) // panics when it is read
		r := newReport()
		p.Start(cl, bl, r)
		if res := r.wait(t); res.Reason != Failed || !strings.Contains(res.Panic, "nil pointer") || !strings.Contains(res.Panic, "moveUp") {
			t.Fatalf("%+v", res)
		}
		for _, c := range []net.Conn{client, backend} {
			if _, err := c.Read(make([]byte, 1)); err == nil {
				t.Fatal("still open")
			}
		}
	}
	cl, client := leg(t, nil, false)
	bl, backend := leg(t, nil, true)
	p.Start(cl, bl, newReport())
	io.WriteString(client, "x")
	if _, err := io.ReadFull(backend, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}

// A peer that has TLS answer again and again, and does not read, loses its connection instead of growing a queue.
func TestQueueIsBounded(t *testing.T) {
	p := newPump(t)
	cl, _ := leg(t, nil, false)
	bl, _ := leg(t, nil, true)
	sock := cl.Conn.(*Sock)
	pair := p.Start(cl, bl, newReport())
	pair.mu.Lock()
	defer pair.mu.Unlock()
	answer, sent := make([]byte, 27), 0
	for sent < 1<<20 {
		n, err := sock.Write(answer)
		if err != nil {
			break
		}
		sent += n
	}
	if sent > maxQueue || sent < scratchSize {
		t.Errorf("%d bytes wait", sent)
	}
}
