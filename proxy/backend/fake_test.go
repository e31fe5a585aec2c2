package backend

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"mailmux/proxy/splice"
)

// fake is a member on the loopback: each connection is given to a function, and closed when that returns.
type fake struct {
	listener net.Listener
	address  string
	work     sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool
	count int
}

// serve starts a member. It is stopped with the test, or by stop.
func serve(t testing.TB, talk func(c net.Conn)) *fake {
	t.Helper()
	return serveAt(t, "127.0.0.1:0", talk)
}

func serveAt(t testing.TB, address string, talk func(c net.Conn)) *fake {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{listener: l, address: l.Addr().String(), conns: make(map[net.Conn]bool)}
	f.work.Go(func() { f.accept(talk) })
	t.Cleanup(f.stop)
	return f
}

func (f *fake) accept(talk func(c net.Conn)) {
	for {
		c, err := f.listener.Accept()
		if err != nil {
			return
		}
		f.mu.Lock()
		f.conns[c] = true
		f.count++
		f.mu.Unlock()
		f.work.Go(func() {
			defer c.Close()
			talk(c)
		})
	}
}

// stop ends the member as a kill would: the port is closed and every connection is reset.
func (f *fake) stop() {
	f.listener.Close()
	f.mu.Lock()
	for c := range f.conns {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	f.mu.Unlock()
	f.work.Wait()
}

// accepted is how many connections came in so far.
func (f *fake) accepted() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count
}

// Members of all kinds.
func greetIMAP(c net.Conn) {
	io.WriteString(c, "* OK ready\r\n")
	readLine(c, 1000)
	io.WriteString(c, "* BYE\r\na OK\r\n")
}
func saysNothing(c net.Conn) { io.Copy(io.Discard, c) }
func talksGarbage(c net.Conn) {
	io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
}
func talksEndlessly(c net.Conn) {
	for {
		if _, err := io.WriteString(c, "* * * * * * * * * * * * * * * * "); err != nil {
			return
		}
	}
}
func hangsUp(net.Conn) {}

// refusing is an address that refuses connections.
func refusing(t testing.TB) string {
	t.Helper()
	f := serve(t, hangsUp)
	f.stop()
	return f.address
}

// member is the only member of the host "back1.example.com" at an address.
func member(t testing.TB, address string, settings Settings, options Options) *Member {
	t.Helper()
	cfg := Config{Hosts: map[string]HostConfig{"back1.example.com": {Members: members(address), Settings: settings}}}
	return host(t, table(t, cfg, options), "back1.example.com").Members()[0]
}

// dial connects and fails the test if that fails.
func dial(t testing.TB, m *Member, d DialInfo) *splice.Sock {
	t.Helper()
	c, err := m.Dial(context.Background(), "imap", d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// authority signs certificates for tests.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // its certificate, in PEM
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir()}
	a.file, _ = a.issue(t, "authority", nil)
	return a
}

// issue writes a certificate and its key, and returns the files.
func (a *authority) issue(t testing.TB, name string, usage []x509.ExtKeyUsage) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: usage,
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert == nil {
		if a.cert, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
		a.key = key
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(a.dir, name+".pem"), filepath.Join(a.dir, name+".key")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// server is the TLS configuration of a member of that name.
func (a *authority) server(t testing.TB, name string) *tls.Config {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(a.issue(t, name, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	return &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: roots}
}
