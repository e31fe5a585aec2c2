package prototest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Files are the certificates and secrets of a world, which one authority has signed.
type Files struct {
	CA     string // the authority's certificate
	Cert   string // the frontend's
	Key    string
	Secret string // the master user's password

	pool    *x509.CertPool
	backend tls.Certificate // of the home host
	client  tls.Certificate // of the account
}

// NewFiles writes the files into a directory of the test.
func NewFiles(t testing.TB) *Files {
	t.Helper()
	dir := t.TempDir()
	f := &Files{CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem"),
		Secret: filepath.Join(dir, "secret"), pool: x509.NewCertPool()}
	a := newAuthority(t)
	f.pool.AddCert(a.cert)
	frontend := a.issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: Hostname}, DNSNames: []string{Hostname}})
	f.backend = a.issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: Host}, DNSNames: []string{Host}})
	f.client = a.issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: "Ann"}, EmailAddresses: []string{Account}})
	key, err := x509.MarshalECPrivateKey(frontend.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	write := func(path string, content []byte) {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(f.CA, encodePEM("CERTIFICATE", a.cert.Raw))
	write(f.Cert, encodePEM("CERTIFICATE", frontend.Certificate[0]))
	write(f.Key, encodePEM("EC PRIVATE KEY", key))
	write(f.Secret, []byte("secret\n"))
	return f
}

func encodePEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	next int64
}

// The certificates hold from before the year 2000, in which the clock of a synctest bubble begins.
var (
	notBefore = time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)
	notAfter  = time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC)
)

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{key: newKey(t), next: 1}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test authority"}, NotBefore: notBefore,
		NotAfter: notAfter, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a.cert = sign(t, template, template, &a.key.PublicKey, a.key)
	return a
}

func (a *authority) issue(t testing.TB, template *x509.Certificate) tls.Certificate {
	t.Helper()
	a.next++
	template.SerialNumber = big.NewInt(a.next)
	template.NotBefore, template.NotAfter = notBefore, notAfter
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	key := newKey(t)
	cert := sign(t, template, a.cert, &key.PublicKey, a.key)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t testing.TB, template, parent *x509.Certificate, public *ecdsa.PublicKey, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// TLS gives the two ends of a member's TLS: the member's certificate is that of Host, and the other end wants it.
func TLS(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	f := NewFiles(t)
	return &tls.Config{Certificates: []tls.Certificate{f.backend}}, &tls.Config{RootCAs: f.pool, ServerName: Host}
}
