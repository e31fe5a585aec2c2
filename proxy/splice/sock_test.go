package splice

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sockPair is a connection on the loopback: our end and the peer's.
func sockPair(t testing.TB) (*Sock, *net.TCPConn) {
	t.Helper()
	near, far := tcpPair(t)
	s, err := NewSock(near)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, far
}

// result is how a Read or a Write came back.
type result struct {
	n   int
	err error
}

func inBackground(f func() (int, error)) chan result {
	c := make(chan result, 1)
	go func() {
		n, err := f()
		c <- result{n, err}
	}()
	return c
}

// waits fails the test if something is there already, or comes while nothing should.
func waits(t testing.TB, c chan result) {
	t.Helper()
	select {
	case r := <-c:
		t.Fatalf("did not wait: %d, %v", r.n, r.err)
	case <-time.After(20 * time.Millisecond):
	}
}

func TestReadWaits(t *testing.T) {
	s, peer := sockPair(t)
	buf := make([]byte, 10)
	for _, word := range []string{"one", "two", "0123456789", "three"} {
		read := inBackground(func() (int, error) { return s.Read(buf) })
		waits(t, read)
		io.WriteString(peer, word)
		if r := receive(t, read); r.err != nil || string(buf[:r.n]) != word {
			t.Fatalf("read %q, %v", buf[:r.n], r.err)
		}
	}
	io.WriteString(peer, "last")
	peer.CloseWrite()
	if rest, err := io.ReadAll(s); err != nil || string(rest) != "last" {
		t.Errorf("read %q, %v", rest, err)
	}
	for range 2 {
		if n, err := s.Read(buf); n != 0 || err != io.EOF {
			t.Errorf("read %d, %v behind the end", n, err)
		}
	}
	if _, err := io.WriteString(s, "still here"); err != nil {
		t.Error(err)
	}
	if err := s.CloseWrite(); err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(peer); err != nil || string(got) != "still here" {
		t.Errorf("the peer read %q, %v", got, err)
	}
}

func TestUnreadComesFirst(t *testing.T) {
	s, peer := sockPair(t)
	s.Unread([]byte("abc"))
	io.WriteString(peer, "def")
	got := make([]byte, 6)
	if _, err := io.ReadFull(s, got); err != nil || string(got) != "abcdef" {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestWriteWaits(t *testing.T) {
	s, peer := sockPair(t)
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	for range 2 { // the second time the poller is asked for room already
		wrote := inBackground(func() (int, error) { return s.Write(big) })
		waits(t, wrote)
		got := make([]byte, len(big))
		if _, err := io.ReadFull(peer, got); err != nil || !bytes.Equal(got, big) {
			t.Fatalf("the peer got something else (%v)", err)
		}
		if r := receive(t, wrote); r.err != nil || r.n != len(big) {
			t.Fatalf("wrote %d, %v", r.n, r.err)
		}
	}
}

func TestSockReset(t *testing.T) {
	s, peer := sockPair(t)
	peer.SetLinger(0)
	read := inBackground(func() (int, error) { return s.Read(make([]byte, 1)) })
	waits(t, read)
	peer.Close()
	if r := receive(t, read); !errors.Is(r.err, syscall.ECONNRESET) {
		t.Errorf("read: %v", r.err)
	}
	if _, err := s.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("write: %v", err)
	}
}

func TestDeadlines(t *testing.T) {
	s, peer := sockPair(t)
	buf := make([]byte, 1)
	read := func() chan result { return inBackground(func() (int, error) { return s.Read(buf) }) }
	soon := func() time.Time { return time.Now().Add(30 * time.Millisecond) }
	passed := func(c chan result) {
		t.Helper()
		if r := receive(t, c); !errors.Is(r.err, os.ErrDeadlineExceeded) {
			t.Fatalf("%d, %v", r.n, r.err)
		} else if e, ok := r.err.(net.Error); !ok || !e.Timeout() {
			t.Fatalf("%v is no timeout", r.err)
		}
	}

	s.SetReadDeadline(soon())
	passed(read())
	io.WriteString(peer, "a")
	passed(read()) // a deadline that has passed holds until there is another one
	s.SetReadDeadline(time.Time{})
	if r := receive(t, read()); r.n != 1 {
		t.Fatal(r)
	}

	s.SetDeadline(time.Now().Add(time.Hour))
	waiting := read()
	waits(t, waiting)
	s.SetDeadline(soon()) // moved up
	passed(waiting)

	s.SetReadDeadline(soon())
	waiting = read()
	s.SetReadDeadline(time.Now().Add(time.Hour)) // moved on
	time.Sleep(60 * time.Millisecond)
	waits(t, waiting)
	s.SetReadDeadline(time.Unix(1, 0)) // to long ago
	passed(waiting)

	s.SetReadDeadline(time.Time{})
	waiting = read()
	waits(t, waiting)
	io.WriteString(peer, "b")
	if r := receive(t, waiting); r.n != 1 {
		t.Fatal(r)
	}

	s.SetDeadline(time.Time{})
	s.SetWriteDeadline(soon())
	passed(inBackground(func() (int, error) { return s.Write(make([]byte, 64<<20)) }))
	waiting = read() // reading has none
	waits(t, waiting)
	s.Close()
	if r := receive(t, waiting); !errors.Is(r.err, net.ErrClosed) {
		t.Error(r.err)
	}
}

func TestCloseWakes(t *testing.T) {
	s, _ := sockPair(t)
	read := inBackground(func() (int, error) { return s.Read(make([]byte, 1)) })
	wrote := inBackground(func() (int, error) { return s.Write(make([]byte, 64<<20)) })
	waits(t, read)
	waits(t, wrote)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	for _, c := range []chan result{read, wrote} {
		if r := receive(t, c); !errors.Is(r.err, net.ErrClosed) {
			t.Error(r.err)
		}
	}
	_, readErr := s.Read(make([]byte, 1))
	_, writeErr := s.Write([]byte("x"))
	for i, err := range []error{readErr, writeErr, s.Close(), s.SetDeadline(time.Now()), s.CloseWrite(), s.Control(func(int) { t.Error("control of a closed socket") })} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%d: %v", i, err)
		}
	}
	if s.LocalAddr() != nil {
		t.Error("an address that nobody asked for in time")
	}
}

// Who closes a connection that another goroutine uses must not make it use the next one that gets the same descriptor.
func TestCloseWhileUsed(t *testing.T) {
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				s, peer := sockPair(t)
				var users sync.WaitGroup
				users.Go(func() {
					buf := make([]byte, 100)
					for {
						n, err := s.Read(buf)
						if string(buf[:n]) != "hello"[:n] {
							t.Errorf("read %q", buf[:n])
						}
						if err != nil {
							return
						}
					}
				})
				users.Go(func() { io.WriteString(s, "hi") })
				io.WriteString(peer, "hello")
				s.SetDeadline(time.Now().Add(time.Minute))
				s.Close()
				users.Wait()
				peer.SetLinger(0) // no port is left in TIME_WAIT
				peer.Close()
			}
		})
	}
	wg.Wait()
}

// An event that was under way when its descriptor was closed is not one of the next connection with that number.
func TestLateEvent(t *testing.T) {
	s, _ := sockPair(t)
	s.event(s.poller, s.fd, s.generation-1, unix.EPOLLIN|unix.EPOLLHUP)
	if s.readable || s.hup {
		t.Error("a Sock took another one's event")
	}
	p, r := newPump(t), newReport()
	bl, _ := leg(t, nil, true)
	pair := p.Start(Leg{Conn: s}, bl, r)
	pair.event(pair.poller, pair.client.fd, pair.client.generation-1, unix.EPOLLIN|unix.EPOLLHUP)
	if pair.client.readable || pair.client.hup {
		t.Error("a Pair took another one's event")
	}
	s.event(s.poller, pair.client.fd, pair.client.generation, unix.EPOLLRDHUP)
	pair.mu.Lock()
	defer pair.mu.Unlock()
	if !pair.client.hup {
		t.Error("an event under way at the hand-over was lost")
	}
}

// What came before the hand-over, read or not, is relayed, whichever pollers the legs were with.
func TestHandOverWithBytesWaiting(t *testing.T) {
	p := newPump(t)
	for range 20 {
		client, clientPeer := sockPair(t)
		backend, backendPeer := sockPair(t)
		io.WriteString(clientPeer, "to the backend")
		io.WriteString(backendPeer, "to the client")
		backendPeer.CloseWrite()
		r := newReport()
		p.Start(Leg{Conn: client}, Leg{Conn: backend, Ahead: []byte("ahead ")}, r)
		if got, err := io.ReadAll(clientPeer); err != nil || string(got) != "ahead to the client" {
			t.Fatalf("the client got %q, %v", got, err)
		}
		clientPeer.CloseWrite()
		if got, err := io.ReadAll(backendPeer); err != nil || string(got) != "to the backend" {
			t.Fatalf("the backend got %q, %v", got, err)
		}
		r.wait(t)
		for i, err := range []error{client.SetDeadline(time.Now()), client.Control(func(int) {})} {
			if err != errTaken {
				t.Errorf("%d: %v", i, err)
			}
		}
	}
}

// Legs that were closed before the hand-over make no pair, and cost nobody else a descriptor.
func TestHandOverOfAClosedLeg(t *testing.T) {
	for _, first := range []bool{true, false} {
		p, r := newPump(t), newReport()
		client, clientPeer := sockPair(t)
		backend, backendPeer := sockPair(t)
		closed, peer := client, backendPeer
		if !first {
			closed, peer = backend, clientPeer
		}
		closed.Close()
		p.Start(Leg{Conn: client}, Leg{Conn: backend}, r)
		if res := r.wait(t); res.Reason != Failed {
			t.Errorf("%+v", res)
		}
		if _, err := peer.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the other leg is not closed: %v", err)
		}
		var stat unix.Stat_t
		if err := unix.Fstat(0, &stat); err != nil {
			t.Fatalf("standard input was closed: %v", err)
		}
	}
}

func TestAcceptAndDial(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a, err := NewAcceptor(l.(*net.TCPListener))
	if err != nil {
		t.Fatal(err)
	}
	to := a.Addr().(*net.TCPAddr).AddrPort()
	accepted := make(chan *Sock, 1)
	go func() {
		s, err := a.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- s
	}()
	c, err := Dial(context.Background(), nil, to, time.Now().Add(time.Minute), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s := receive(t, accepted)
	defer s.Close()
	local, remote := c.Addrs()
	if remote != to || s.RemoteAddr().String() != local.String() || s.LocalAddr().String() != to.String() {
		t.Errorf("%v to %v was accepted as %v to %v", local, remote, s.RemoteAddr(), s.LocalAddr())
	}
	near, err := Dial(context.Background(), s, to, time.Now().Add(time.Minute), nil)
	if err != nil {
		t.Fatal(err)
	}
	near.Close()
	if near.poller != s.poller {
		t.Error("a connection that is to be relayed to another one is with another poller")
	}
	a.Close()
	if _, err := a.Accept(); err != nil { // the connection that waits
		if _, err = a.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	}
}

// silentListener lets nobody in any more: its backlog is full, so that connects wait.
func silentListener(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	to := name(unix.SYS_GETSOCKNAME, fd)
	c, err := net.Dial("tcp", to.String()) // a backlog of 0 holds one
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO); err != nil {
			t.Fatal(err)
		} else if info.Unacked > 0 { // of a listening socket: those that wait to be accepted
			return to
		}
	}
	t.Fatal("the backlog does not fill")
	return to
}

func TestDialFails(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().(*net.TCPAddr).AddrPort()
	l.Close()
	silent := silentListener(t)
	bad := errors.New("not prepared")
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		name    string
		ctx     func() context.Context
		to      netip.AddrPort
		limit   time.Duration
		prepare func(int) error
		want    error
	}{
		{"nobody listens", t.Context, nobody, time.Minute, nil, syscall.ECONNREFUSED},
		{"canceled before", func() context.Context { return canceled }, nobody, time.Minute, nil, context.Canceled},
		{"not prepared", t.Context, nobody, time.Minute, func(int) error { return bad }, bad},
		{"no answer in time", t.Context, silent, 50 * time.Millisecond, nil, os.ErrDeadlineExceeded},
		{"no answer in the context's time", func() context.Context {
			ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(50*time.Millisecond))
			t.Cleanup(cancel)
			return ctx
		}, silent, time.Minute, nil, os.ErrDeadlineExceeded},
		{"canceled meanwhile", func() context.Context {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(50*time.Millisecond, cancel)
			return ctx
		}, silent, time.Minute, nil, context.Canceled},
	} {
		s, err := Dial(c.ctx(), nil, c.to, time.Now().Add(c.limit), c.prepare)
		// A context that is late says so itself, if it is asked first.
		if s != nil || !errors.Is(err, c.want) && !(c.want == os.ErrDeadlineExceeded && errors.Is(err, context.DeadlineExceeded)) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestTableGrows(t *testing.T) {
	var tab table
	if tab.get(5) != nil {
		t.Error("somebody watches in an empty table")
	}
	socks := make([]Sock, 5*chunkSize)
	var wg sync.WaitGroup
	for start := range 4 {
		wg.Go(func() {
			for fd := start; fd < len(socks); fd += 4 {
				socks[fd].self = &socks[fd]
				tab.set(fd, &socks[fd].self)
			}
		})
	}
	wg.Wait()
	for fd := range socks {
		if tab.get(fd) != &socks[fd] {
			t.Fatalf("%d is lost", fd)
		}
	}
	tab.set(7, nil)
	if tab.get(7) != nil || tab.get(len(socks)) != nil {
		t.Error("somebody watches where nobody should")
	}
}

// Who has connected before the end is accepted; Close would reset them.
func TestAcceptorEnds(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a, err := NewAcceptor(l.(*net.TCPListener))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	var clients []net.Conn
	for range 5 {
		c, err := net.Dial("tcp", a.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		clients = append(clients, c)
	}
	a.End()
	for range clients {
		s, err := a.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if _, err := s.Write([]byte("x")); err != nil {
			t.Error(err)
		}
	}
	if s, err := a.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("behind the last one there is %v, %v", s, err)
	}
	for _, c := range clients {
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Error(err)
		}
	}
	if _, err := net.Dial("tcp", a.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("behind the end a client has %v", err)
	}
}
