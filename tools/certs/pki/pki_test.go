package pki_test

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"testing"
	"time"

	"mailmux/tools/certs/pki"
)

// handshake joins a TLS client and a TLS server, and returns the error of the client or else of the server.
func handshake(t *testing.T, client, server *tls.Config) error {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") // both sides may write at once, which net.Pipe cannot
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		nc, err := l.Accept()
		if err == nil {
			defer nc.Close()
			err = tls.Server(nc, server).Handshake()
		}
		done <- err
	}()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	err = tls.Client(nc, client).Handshake()
	if err != nil {
		nc.Close()
	}
	if serverErr := <-done; err == nil {
		return serverErr
	}
	return err
}

// newCA makes an authority or ends the test.
func newCA(t *testing.T) *pki.CA {
	t.Helper()
	ca, err := pki.NewCA("test", pki.ECDSA)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// issue makes a pair or ends the test.
func issue(t *testing.T, ca *pki.CA, r pki.Request) *pki.Pair {
	t.Helper()
	pair, err := ca.Issue(r)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func TestCertificatesAreTakenAndRefused(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	client := issue(t, ca, pki.Request{Name: "ann", Client: true})
	for _, algorithm := range []pki.Algorithm{pki.ECDSA, pki.RSA} {
		server := issue(t, ca, pki.Request{Hosts: []string{"mail.example.com", "127.0.0.1", "::1"}, Algorithm: algorithm})
		config := &tls.Config{
			Certificates: []tls.Certificate{server.Certificate},
			ClientAuth:   tls.RequireAndVerifyClientCert,
			ClientCAs:    ca.Pool(),
		}
		for name, wantOK := range map[string]bool{"mail.example.com": true, "127.0.0.1": true, "::1": true, "example.com": false, "127.0.0.2": false} {
			err := handshake(t, &tls.Config{RootCAs: ca.Pool(), ServerName: name, Certificates: []tls.Certificate{client.Certificate}}, config)
			if (err == nil) != wantOK {
				t.Errorf("%s to %s: %v", algorithm, name, err)
			}
		}
		if err := handshake(t, &tls.Config{RootCAs: other.Pool(), ServerName: "mail.example.com", Certificates: []tls.Certificate{client.Certificate}}, config); err == nil {
			t.Error("another authority's certificate was taken")
		}
	}
	expired := issue(t, ca, pki.Request{Hosts: []string{"mail.example.com"}, Lifetime: -time.Hour})
	err := handshake(t, &tls.Config{RootCAs: ca.Pool(), ServerName: "mail.example.com"}, &tls.Config{Certificates: []tls.Certificate{expired.Certificate}})
	if err == nil {
		t.Error("an expired certificate was taken")
	}
	if _, err := ca.Issue(pki.Request{}); err == nil {
		t.Error("a certificate for nobody was issued")
	}
	if _, err := ca.Issue(pki.Request{Name: "x", Algorithm: "dsa"}); err == nil {
		t.Error("a key of an unknown kind was made")
	}
}

func TestFilesAreReadBack(t *testing.T) {
	dir := t.TempDir()
	if err := newCA(t).Write(dir, "ca"); err != nil {
		t.Fatal(err)
	}
	ca, err := pki.LoadCA(dir, "ca")
	if err != nil {
		t.Fatal(err)
	}
	pair := issue(t, ca, pki.Request{Hosts: []string{"a.example.com"}})
	if err := pair.Write(dir, "server"); err != nil {
		t.Fatal(err)
	}
	loaded, err := tls.LoadX509KeyPair(dir+"/server.pem", dir+"/server.key")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := loaded.Leaf.Verify(x509.VerifyOptions{Roots: ca.Pool(), DNSName: "a.example.com"}); err != nil {
		t.Error(err)
	}
	info, err := os.Stat(dir + "/server.key")
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v", info.Mode(), err)
	}
	if _, err := pki.LoadCA(dir, "server"); err == nil {
		t.Error("a server certificate was loaded as an authority")
	}
}
