package directory

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"
)

// A connection is replaced when it is old: go-ldap counts message ids up without end, and servers drop a connection
// when the number leaves 31 bits. Nothing is in flight for that long.
const (
	maxAge      = time.Hour
	maxRequests = 1 << 30
	writeWithin = 5 * time.Second
	maxPacket   = 16 << 20
)

// boundPackets bounds what a server can make the BER decoder allocate; the library's own bound is 2 GiB, and global.
var boundPackets = sync.OnceFunc(func() { ber.MaxPacketLengthBytes = maxPacket })

// dialer makes connections that are ready for use.
type dialer struct {
	starttls bool
	tls      *tls.Config // nil without TLS
	bindDN   string
	password string
	external bool
	timeout  time.Duration
}

func newDialer(c Config) (*dialer, error) {
	boundPackets()
	d := &dialer{starttls: c.StartTLS, bindDN: c.BindDN, external: c.SASLExternal, timeout: c.Timeout}
	if c.BindPasswordFile != "" {
		password, err := os.ReadFile(c.BindPasswordFile)
		if err != nil {
			return nil, fmt.Errorf("bind_password_file: %w", err)
		}
		d.password = strings.TrimRight(string(password), "\r\n")
		if d.password == "" {
			return nil, fmt.Errorf("bind_password_file: %s is empty: a bind without a password is an anonymous one", c.BindPasswordFile)
		}
	}
	d.tls = &tls.Config{MinVersion: tls.VersionTLS12}
	if c.TLSCAFile != "" {
		pem, err := os.ReadFile(c.TLSCAFile)
		if err != nil {
			return nil, fmt.Errorf("tls_ca_file: %w", err)
		}
		d.tls.RootCAs = x509.NewCertPool()
		if !d.tls.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("tls_ca_file: %s holds no certificate in PEM", c.TLSCAFile)
		}
	}
	if c.TLSCertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.TLSCertFile, c.TLSKeyFile)
		if err != nil {
			return nil, fmt.Errorf("tls_cert_file: %w", err)
		}
		d.tls.Certificates = []tls.Certificate{pair}
	}
	return d, nil
}

// dial connects, encrypts and binds within the timeout.
func (d *dialer) dial(ctx context.Context, a address) (*conn, error) {
	c, err := d.connect(ctx, a)
	if err != nil {
		return nil, err
	}
	if err := d.bind(c); err != nil {
		c.drop()
		return nil, fmt.Errorf("bind to %s: %w", a.url, err)
	}
	return c, c.nc.SetDeadline(time.Time{})
}

// connect connects and encrypts. The connection has a deadline, which the caller takes away when it has bound.
func (d *dialer) connect(ctx context.Context, a address) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	nd := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3,
	}}
	raw, err := nd.DialContext(ctx, a.network, a.dial)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", a.url, err)
	}
	nc := &guarded{Conn: raw}
	if err := nc.SetDeadline(time.Now().Add(d.timeout)); err != nil {
		nc.Close()
		return nil, fmt.Errorf("connect to %s: %w", a.url, err)
	}
	config := d.tls.Clone()
	config.ServerName = a.host
	var under net.Conn = nc
	if a.scheme == "ldaps" {
		secure := tls.Client(nc, config)
		if err := secure.HandshakeContext(ctx); err != nil {
			nc.Close()
			return nil, fmt.Errorf("TLS with %s: %w", a.url, err)
		}
		under = secure
	}
	c := &conn{nc: nc, lc: ldap.NewConn(under, a.scheme == "ldaps"), expires: time.Now().Add(maxAge - rand.N(maxAge/4))}
	c.lc.Start()
	if d.starttls && a.scheme == "ldap" {
		if err := c.lc.StartTLS(config); err != nil {
			// When the server refuses, go-ldap has ended its reader already, and only Close ends the rest.
			c.drop()
			_ = c.lc.Close()
			return nil, fmt.Errorf("STARTTLS with %s: %w", a.url, err)
		}
	}
	return c, nil
}

func (d *dialer) bind(c *conn) error {
	switch {
	case d.external:
		return c.lc.ExternalBind()
	case d.bindDN != "":
		return c.lc.Bind(d.bindDN, d.password)
	}
	return nil
}

// conn is one connection. Many goroutines may search on it at once.
type conn struct {
	lc       *ldap.Conn
	nc       *guarded
	expires  time.Time
	requests atomic.Int64

	inFlight int // guarded by the pool's mutex
}

// usable says whether new requests may be sent on it.
func (c *conn) usable(now time.Time) bool {
	return !c.lc.IsClosing() && now.Before(c.expires) && c.requests.Load() < maxRequests
}

// drop ends the connection at once. Closing the socket under go-ldap makes its reader fail, and that ends the rest;
// its own Close would wait for a write that nobody reads.
func (c *conn) drop() { c.nc.Close() }

// watch drops the connection when nothing at all is heard for that long, until the function it gives is called.
func (c *conn) watch(silence time.Duration) (stop func()) {
	began := time.Now()
	ended, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		timer := time.NewTimer(silence)
		defer timer.Stop()
		for {
			select {
			case <-ended:
				return
			case <-timer.C:
			}
			heard := time.Unix(0, c.nc.heard.Load())
			if heard.Before(began) {
				heard = began
			}
			left := silence - time.Since(heard)
			if left <= 0 {
				c.drop()
				return
			}
			timer.Reset(left)
		}
	}()
	return func() { close(ended); <-watched }
}

// search asks, and gives what was found: at most limit entries, and one more as the proof that there are more. It fails
// unless the server said that the search is done.
func (c *conn) search(ctx context.Context, request *ldap.SearchRequest, limit int) ([]*ldap.Entry, error) {
	c.requests.Add(1)
	sent := time.Now()
	searching, cancel := context.WithCancel(ctx)
	defer cancel()
	var found []*ldap.Entry
	referral := ""
	response := c.lc.SearchAsync(searching, request, 4)
	for response.Next() {
		if e := response.Entry(); e != nil {
			if found = append(found, e); len(found) > limit {
				return found, nil
			}
		}
		if r := response.Referral(); r != "" {
			referral = r
		}
	}
	// A search that was cancelled, or whose connection closed, ends without an error and without entries: it must not
	// be taken for "no such user".
	if err := ctx.Err(); err != nil {
		if c.nc.heard.Load() < sent.UnixNano() {
			c.drop() // Not a byte since the question: the peer is gone, or as good as gone.
		}
		return nil, fmt.Errorf("no answer after %s: %w", time.Since(sent).Round(time.Millisecond), err)
	}
	if err := response.Err(); err != nil {
		if ldap.IsErrorWithCode(err, ldap.LDAPResultSizeLimitExceeded) && len(found) >= limit {
			return found, nil
		}
		if ldap.IsErrorWithCode(err, ldap.LDAPResultReferral) {
			return nil, fmt.Errorf("%w: choose a base that the server holds itself", errElsewhere)
		}
		return nil, err
	}
	if c.lc.IsClosing() {
		return nil, errClosed
	}
	if len(found) == 0 && referral != "" {
		return nil, fmt.Errorf("%w (%.200q): choose a base that the server holds itself", errElsewhere, referral)
	}
	return found, nil
}

var (
	errClosed    = errors.New("connection closed by the server")
	errElsewhere = errors.New("the server refers to another one, and referrals are not followed")
)

// isNetwork tells a broken connection from an answer, be it an error.
func isNetwork(err error) bool {
	if err == nil || isAnswer(err) || errors.Is(err, errElsewhere) {
		return false
	}
	var answer *ldap.Error
	if errors.As(err, &answer) {
		return answer.ResultCode >= ldap.ErrorNetwork
	}
	return true
}

// guarded gives every write a deadline, which go-ldap does not: a peer that stops reading would block every user of the
// connection for good. It also knows when the peer was last heard.
type guarded struct {
	net.Conn
	heard atomic.Int64 // nanoseconds since 1970
}

func (g *guarded) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	if n > 0 {
		g.heard.Store(time.Now().UnixNano())
	}
	return n, err
}

func (g *guarded) Write(p []byte) (int, error) {
	if err := g.Conn.SetWriteDeadline(time.Now().Add(writeWithin)); err != nil {
		return 0, err
	}
	n, err := g.Conn.Write(p)
	if err != nil {
		g.Conn.Close()
	}
	return n, err
}
