package backend

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	"golang.org/x/sys/unix"
)

func TestDialSetsTheSocketUp(t *testing.T) {
	c := dial(t, member(t, serve(t, saysNothing).address, Settings{}, Options{}), DialInfo{})
	err := c.Control(func(fd int) {
		for _, o := range []struct {
			name              string
			level, opt, value int
		}{
			{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
			{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 60},
			{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 20},
			{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 120000},
		} {
			if got, err := unix.GetsockoptInt(fd, o.level, o.opt); err != nil || got != o.value {
				t.Errorf("%s is %d (%v), want %d", o.name, got, err, o.value)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestDialCountsAFailedConnectAtOnce(t *testing.T) {
	m := member(t, refusing(t), Settings{}, Options{})
	for n := range 3 {
		if !m.Available("imap") {
			t.Fatalf("out of service after %d failures", n)
		}
		_, err := m.Dial(context.Background(), "imap", DialInfo{})
		var failed *DialError
		if !errors.As(err, &failed) || !strings.Contains(err.Error(), "connection refused") {
			t.Fatalf("Dial: %v, want a *DialError", err)
		}
		m.Failed("imap", err) // counts nothing more
	}
	if m.Available("imap") {
		t.Error("in service after three failures")
	}
}

func TestDialThatWasCanceledSaysNothingAboutTheMember(t *testing.T) {
	m := member(t, refusing(t), Settings{}, Options{})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for range 5 {
		if _, err := m.Dial(ctx, "imap", DialInfo{}); !errors.Is(err, context.Canceled) {
			t.Fatalf("Dial: %v, want context.Canceled", err)
		}
	}
	if !m.Available("imap") {
		t.Error("sessions that went away took the member out")
	}
}

func TestDialRefusesOurselves(t *testing.T) {
	self := serve(t, saysNothing)
	m := member(t, self.address, Settings{}, Options{Self: func(a netip.AddrPort) bool { return a.String() == self.address }})
	for range 5 {
		if _, err := m.Dial(context.Background(), "imap", DialInfo{}); !errors.Is(err, ErrLoop) {
			t.Fatalf("Dial: %v, want ErrLoop", err)
		}
	}
	if self.accepted() != 0 {
		t.Error("we connected to ourselves")
	}
	if !m.Available("imap") {
		t.Error("a fault of the configuration opened the breaker")
	}
}

// names is a resolver of fixed answers; an error stands for an outage.
type names struct {
	mu      sync.Mutex
	addrs   []netip.Addr
	srv     map[string][]*net.SRV
	err     error
	odd     error // beside SRV records
	lookups int
}

func (n *names) LookupNetIP(_ context.Context, _, name string) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lookups++
	return n.addrs, n.err
}

func (n *names) LookupSRV(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lookups++
	if n.err != nil {
		return "", nil, n.err
	}
	if service != "" || proto != "" {
		name = "_" + service + "._" + proto + "." + name
	}
	records, ok := n.srv[name]
	if ok && n.odd != nil {
		return name, records, n.odd
	}
	if !ok {
		return "", nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	}
	var copies []*net.SRV
	for _, r := range records {
		one := *r
		copies = append(copies, &one)
	}
	return name, copies, nil
}

func (n *names) set(err error, addrs ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.err, n.addrs = err, nil
	for _, a := range addrs {
		n.addrs = append(n.addrs, netip.MustParseAddr(a))
	}
}

func TestDialTriesAllAddressesOfAName(t *testing.T) {
	f := serveAt(t, "127.0.0.3:0", saysNothing)
	_, port, _ := net.SplitHostPort(f.address)
	resolver := &names{}
	resolver.set(nil, "127.0.0.1", "127.0.0.2", "127.0.0.3")
	m := member(t, "store.example.com:"+port, Settings{}, Options{Resolver: resolver})
	for range 3 {
		c := dial(t, m, DialInfo{})
		if got := c.RemoteAddr().String(); got != f.address {
			t.Fatalf("connected to %s", got)
		}
	}
	if resolver.lookups != 1 {
		t.Errorf("%d lookups for three connects, want one", resolver.lookups)
	}
	if first, err := m.resolved.known(nil); err != nil || first[0].String() != "127.0.0.3" {
		t.Errorf("the next connect begins with %v, want the address that answered", first)
	}
}

func TestAnOutageOfTheDNSIsNotTheMembers(t *testing.T) {
	f := serve(t, saysNothing)
	_, port, _ := net.SplitHostPort(f.address)
	resolver := &names{}
	resolver.set(&net.DNSError{Err: "server misbehaving", IsTemporary: true})
	m := member(t, "store.example.com:"+port, Settings{}, Options{Resolver: resolver})
	for range 5 {
		if _, err := m.Dial(context.Background(), "imap", DialInfo{}); err == nil || !strings.Contains(err.Error(), "look up store.example.com") {
			t.Fatalf("Dial: %v, want the lookup's error", err)
		}
	}
	for range 5 {
		m.checkDone(imap, m.check(context.Background(), imap, m.settings.Load()), 0)
	}
	if !m.Available("imap") {
		t.Error("the DNS failed, and the member is out")
	}
	resolver.set(nil, "127.0.0.1")
	dial(t, m, DialInfo{})
	resolver.set(&net.DNSError{Err: "server misbehaving", IsTemporary: true})
	m.resolved.mu.Lock()
	m.resolved.until = time.Time{} // the answer has become old
	m.resolved.mu.Unlock()
	dial(t, m, DialInfo{}) // what was known last serves on

	gone := member(t, "store.example.com:"+port, Settings{}, Options{Resolver: resolver})
	resolver.set(&net.DNSError{Err: "no such host", IsNotFound: true})
	for range 3 {
		if _, err := gone.Dial(context.Background(), "imap", DialInfo{}); err == nil {
			t.Fatal("connected to a name that is not there")
		}
	}
	if gone.Available("imap") {
		t.Error("a member without a name takes sessions")
	}
}

func TestLookupsAreShared(t *testing.T) {
	resolver := &slowNames{begun: make(chan struct{}, 10), answer: make(chan struct{})}
	m := member(t, "store.example.com", Settings{}, Options{Resolver: resolver})
	gone, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	var first atomic.Value
	work.Go(func() { _, err := m.lookup(gone, "store.example.com"); first.Store(fmt.Sprint(err)) })
	<-resolver.begun
	var found atomic.Int64
	for range 5 {
		work.Go(func() {
			if addrs, err := m.lookup(context.Background(), "store.example.com"); err == nil && len(addrs) == 1 {
				found.Add(1)
			}
		})
	}
	cancel() // the one that asks goes away: another one asks
	<-resolver.begun
	close(resolver.answer)
	work.Wait()
	if found.Load() != 5 || len(resolver.begun) != 0 {
		t.Errorf("%d of 5 found the address, with %d more lookups", found.Load(), len(resolver.begun))
	}
}

// slowNames answers when it is told to.
type slowNames struct {
	names
	begun  chan struct{}
	answer chan struct{}
}

func (n *slowNames) LookupNetIP(ctx context.Context, _, _ string) ([]netip.Addr, error) {
	n.begun <- struct{}{}
	select {
	case <-n.answer:
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func TestConnectsToOneMemberAreBounded(t *testing.T) {
	m := member(t, "10.0.0.1", Settings{MaxConnecting: 2}, Options{})
	one, err := m.turn(context.Background(), imap)
	if err != nil {
		t.Fatal(err)
	}
	two, err := m.turn(context.Background(), imap)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := m.turn(ctx, imap); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a third connect: %v, want it to wait", err)
	}
	waited := make(chan error, 2)
	for range 2 {
		go func() { _, err := m.turn(context.Background(), imap); waited <- err }()
	}
	for m.turns.Load().waiting.Load() < 2 {
		time.Sleep(time.Millisecond)
	}
	one.release()
	if err := <-waited; err != nil {
		t.Errorf("a connect that waited: %v", err)
	}
	down(m, "imap")
	two.release()
	if err := <-waited; !errors.Is(err, ErrDown) {
		t.Errorf("a connect that waited while the member went down: %v, want ErrDown", err)
	}
	m.turns.Load().waiting.Store(2 * queueFactor)
	m.turns.Load().slots <- struct{}{}
	if _, err := m.turn(context.Background(), imap); !errors.Is(err, ErrBusy) {
		t.Errorf("a connect behind a full queue: %v, want ErrBusy", err)
	}
}

func TestSourceAddressesInTurn(t *testing.T) {
	f := serve(t, saysNothing)
	m := member(t, f.address, Settings{SourceAddresses: []netip.Addr{netip.MustParseAddr("127.0.0.7"), netip.MustParseAddr("::1"),
		netip.MustParseAddr("127.0.0.8")}}, Options{})
	seen := make(map[string]int)
	for range 4 {
		from, _, _ := net.SplitHostPort(dial(t, m, DialInfo{}).LocalAddr().String())
		seen[from]++
	}
	if seen["127.0.0.7"] != 2 || seen["127.0.0.8"] != 2 {
		t.Errorf("connected from %v, want each twice", seen)
	}
}

// deaf is an address that answers no connect: the queue of its listener is full.
func deaf(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", name.(*unix.SockaddrInet4).Port)
	for {
		c, err := net.DialTimeout("tcp", address, 100*time.Millisecond)
		if err != nil {
			return address
		}
		t.Cleanup(func() { c.Close() })
	}
}

func TestAConnectHasATimeout(t *testing.T) {
	address := deaf(t)
	withCancel, cancel := context.WithCancel(context.Background())
	defer cancel()
	for name, ctx := range map[string]context.Context{"background": context.Background(), "cancelable": withCancel} {
		m := member(t, address, Settings{ConnectTimeout: 50 * time.Millisecond, Breaker: BreakerConfig{Failures: 1}}, Options{})
		began := time.Now()
		_, err := m.Dial(ctx, "imap", DialInfo{})
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() || time.Since(began) > 2*time.Second {
			t.Errorf("%s: %v after %s, want a timeout", name, err, time.Since(began))
		}
		if m.Available("imap") {
			t.Errorf("%s: the timeout did not count", name)
		}
	}
	m := member(t, address, Settings{}, Options{})
	ended := make(chan error, 1)
	go func() { _, err := m.Dial(withCancel, "imap", DialInfo{}); ended <- err }()
	time.AfterFunc(20*time.Millisecond, cancel)
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("a connect that was canceled: %v", err)
	}
}

// received reads the PROXY header of the next connection.
func received(t *testing.T, version string, d DialInfo) *proxyproto.Header {
	t.Helper()
	got := make(chan *proxyproto.Header, 1)
	f := serve(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		h, err := proxyproto.Read(r)
		if err != nil {
			t.Errorf("reading the header: %v", err)
		}
		rest, _ := r.ReadString('\n')
		if rest != "hello\n" {
			t.Errorf("behind the header comes %q", rest)
		}
		got <- h
	})
	c := dial(t, member(t, f.address, Settings{ProxyProtocol: version}, Options{}), d)
	io.WriteString(c, "hello\n")
	return <-got
}

func TestProxyHeaders(t *testing.T) {
	client, local := netip.MustParseAddrPort("192.0.2.5:51234"), netip.MustParseAddrPort("198.51.100.1:993")
	mapped := netip.MustParseAddrPort("[::ffff:192.0.2.5]:51234")
	six := netip.MustParseAddrPort("[2001:db8::5]:51234")
	for _, c := range []struct {
		version           string
		d                 DialInfo
		transport         proxyproto.AddressFamilyAndProtocol
		source, connected string
	}{
		{"v1", DialInfo{Client: client, Local: local}, proxyproto.TCPv4, "192.0.2.5:51234", "198.51.100.1:993"},
		{"v1", DialInfo{Client: mapped, Local: local}, proxyproto.TCPv4, "192.0.2.5:51234", "198.51.100.1:993"},
		{"v2", DialInfo{Client: client, Local: local}, proxyproto.TCPv4, "192.0.2.5:51234", "198.51.100.1:993"},
		{"v2", DialInfo{Client: six, Local: netip.MustParseAddrPort("[2001:db8::1]:993")}, proxyproto.TCPv6, "[2001:db8::5]:51234", "[2001:db8::1]:993"},
	} {
		h := received(t, c.version, c.d)
		if h.Command != proxyproto.PROXY || h.TransportProtocol != c.transport || h.SourceAddr.String() != c.source || h.DestinationAddr.String() != c.connected {
			t.Errorf("%s of %v: %+v", c.version, c.d.Client, h)
		}
	}
	for _, version := range []string{"v1", "v2"} {
		if h := received(t, version, DialInfo{}); h.Command != proxyproto.LOCAL && h.TransportProtocol != proxyproto.UNSPEC {
			t.Errorf("%s of a connection of our own: %+v", version, h)
		}
	}
}

func TestProxyHeaderTellsOfTLS(t *testing.T) {
	a := newAuthority(t)
	d := DialInfo{Client: netip.MustParseAddrPort("192.0.2.5:1"), Local: netip.MustParseAddrPort("192.0.2.6:2"), SessionID: "Xyz9",
		ServerName: "mail.example.com",
		TLS: &tls.ConnectionState{Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256, NegotiatedProtocol: "imap",
			PeerCertificates: []*x509.Certificate{a.cert}, VerifiedChains: [][]*x509.Certificate{{a.cert}}}}
	list, err := received(t, "v2", d).TLVs()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[proxyproto.PP2Type]string)
	for _, tlv := range list {
		got[tlv.Type] = string(tlv.Value)
	}
	ssl := "\x07\x00\x00\x00\x00" + "\x21\x00\x07TLSv1.3" + "\x23\x00\x16TLS_AES_128_GCM_SHA256" + "\x22\x00\x09authority"
	want := map[proxyproto.PP2Type]string{proxyproto.PP2_TYPE_ALPN: "imap", proxyproto.PP2_TYPE_AUTHORITY: "mail.example.com",
		proxyproto.PP2_TYPE_UNIQUE_ID: "Xyz9", proxyproto.PP2_TYPE_SSL: ssl}
	if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
		t.Errorf("TLVs are %q, want %q", got, want)
	}
	d.TLS = &tls.ConnectionState{Version: tls.VersionTLS12, CipherSuite: tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}
	if value := string(sslValue(d.TLS)); !strings.HasPrefix(value, "\x01\x00\x00\x00\x01\x21\x00\x07TLSv1.2") {
		t.Errorf("without a certificate: %q", value)
	}
	d.TLS, d.Secured = nil, true
	if list, err = received(t, "v2", d).TLVs(); err != nil {
		t.Fatal(err)
	}
	if last := list[len(list)-1]; last.Type != proxyproto.PP2_TYPE_SSL || string(last.Value) != "\x01\x00\x00\x00\x01" {
		t.Errorf("behind a proxy that did TLS: %q", last)
	}
}

func TestTLSVerifiesTheName(t *testing.T) {
	a := newAuthority(t)
	for _, c := range []struct {
		name  string // of the certificate
		check string // tls_server_name
		fails bool
	}{
		{"back1.example.com", "", false},
		{"other.example.com", "", true},
		{"other.example.com", "other.example.com", false},
	} {
		config := a.server(t, c.name)
		f := serve(t, func(c net.Conn) {
			s := tls.Server(c, config)
			if s.Handshake() == nil {
				io.WriteString(s, "* OK\r\n") // the ticket comes with it
				io.Copy(io.Discard, s)
			}
		})
		m := member(t, f.address, Settings{TLS: "implicit", TLSCAFile: a.file, TLSServerName: c.check}, Options{})
		mode, client := m.TLS("imap")
		if mode != Implicit {
			t.Fatalf("mode is %s", mode)
		}
		var resumed bool
		var err error
		for range 2 {
			conn := tls.Client(dial(t, m, DialInfo{}), client)
			if err = conn.Handshake(); err != nil {
				break
			}
			if _, err = conn.Read(make([]byte, 10)); err != nil {
				t.Fatal(err)
			}
			resumed = conn.ConnectionState().DidResume
		}
		if (err != nil) != c.fails {
			t.Errorf("certificate of %s, asked for %q: %v", c.name, c.check, err)
		}
		if !c.fails && !resumed {
			t.Error("the second session did not resume the first")
		}
	}
}

func TestTLSShowsTheClientCertificate(t *testing.T) {
	a := newAuthority(t)
	config := a.server(t, "back1.example.com")
	config.ClientAuth = tls.RequireAndVerifyClientCert
	f := serve(t, func(c net.Conn) {
		s := tls.Server(c, config)
		if s.Handshake() == nil {
			io.WriteString(s, "* OK hello "+s.ConnectionState().PeerCertificates[0].Subject.CommonName+"\r\n")
		}
	})
	cert, key := a.issue(t, "mailmux", []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth})
	m := member(t, f.address, Settings{TLS: "implicit", TLSCAFile: a.file, TLSCertFile: cert, TLSKeyFile: key}, Options{})
	_, client := m.TLS("imap")
	line, err := readLine(tls.Client(dial(t, m, DialInfo{}), client), 100)
	if err != nil || string(line) != "* OK hello mailmux" {
		t.Errorf("the member says %q, %v", line, err)
	}
}

func BenchmarkDial(b *testing.B) {
	f := serve(b, saysNothing)
	m := member(b, f.address, Settings{}, Options{})
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	b.ReportAllocs()
	for b.Loop() {
		c, err := m.Dial(ctx, "imap", DialInfo{})
		if err != nil {
			b.Fatal(err)
		}
		c.Control(func(fd int) { // no port is left in TIME_WAIT
			unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		})
		c.Close()
	}
}

// BenchmarkNetDial is what the standard library's way costs, for comparison.
func BenchmarkNetDial(b *testing.B) {
	f := serve(b, saysNothing)
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	b.ReportAllocs()
	for b.Loop() {
		d := net.Dialer{Timeout: 5 * time.Second}
		c, err := d.DialContext(ctx, "tcp", f.address)
		if err != nil {
			b.Fatal(err)
		}
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
}
