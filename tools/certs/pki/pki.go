// Package pki makes a certificate authority and certificates for the demo, the examples and the tests.
//
//	NewCA ── Issue(Request) ──▶ Pair (certificate and key) ── Write(dir, name) ──▶ name.pem, name.key
//
// Nothing here is fit for a real site: the keys of the authority lie beside the certificates.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Algorithm is the kind of key.
type Algorithm string

// The kinds of keys that are made here.
const (
	ECDSA Algorithm = "ecdsa" // P-256
	RSA   Algorithm = "rsa"   // 2048 bits
)

// defaultLifetime is how long certificates are valid that say nothing else.
const defaultLifetime = 825 * 24 * time.Hour

// Request says what certificate is wanted.
type Request struct {
	// Name is the common name. Empty: the first host.
	Name string
	// Hosts are the DNS names, wildcards too, IP addresses and e-mail addresses the certificate is for.
	Hosts []string
	// Client asks for a client certificate instead of a server certificate.
	Client bool
	// Algorithm is the kind of key. Empty: ECDSA.
	Algorithm Algorithm
	// Lifetime is how long it is valid from now. Zero: 825 days. Negative: it ended so long ago.
	Lifetime time.Duration
}

// Pair is a certificate with its key, ready for a TLS configuration and in PEM for files.
type Pair struct {
	Certificate tls.Certificate
	CertPEM     []byte // the certificate; for servers of a real site the chain would follow
	KeyPEM      []byte
}

// CA signs certificates. Its methods may be called from many goroutines.
type CA struct {
	Pair
	cert *x509.Certificate
	key  crypto.Signer
}

// NewCA makes an authority with a key of its own, valid for ten years.
func NewCA(name string, algorithm Algorithm) (*CA, error) {
	key, err := newKey(algorithm)
	if err != nil {
		return nil, err
	}
	template, err := newTemplate(name, 10*365*24*time.Hour)
	if err != nil {
		return nil, err
	}
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	return sign(template, template, key, key)
}

// Issue makes a key and a certificate for it.
func (ca *CA) Issue(r Request) (*Pair, error) {
	if r.Name == "" && len(r.Hosts) > 0 {
		r.Name = r.Hosts[0]
	}
	if r.Name == "" {
		return nil, fmt.Errorf("issue certificate: it has neither a name nor a host")
	}
	if r.Lifetime == 0 {
		r.Lifetime = defaultLifetime
	}
	key, err := newKey(r.Algorithm)
	if err != nil {
		return nil, err
	}
	template, err := newTemplate(r.Name, r.Lifetime)
	if err != nil {
		return nil, err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	if r.Client {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	for _, host := range r.Hosts {
		if addr, err := netip.ParseAddr(host); err == nil {
			template.IPAddresses = append(template.IPAddresses, addr.AsSlice())
			continue
		}
		if strings.Contains(host, "@") {
			template.EmailAddresses = append(template.EmailAddresses, host)
			continue
		}
		template.DNSNames = append(template.DNSNames, host)
	}
	issued, err := sign(template, ca.cert, key, ca.key)
	if err != nil {
		return nil, err
	}
	return &issued.Pair, nil
}

// Pool holds the authority's certificate alone, for the RootCAs or ClientCAs of a TLS configuration.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

// Write stores the pair as dir/name.pem and, readable by its owner only, dir/name.key.
func (p *Pair) Write(dir, name string) error {
	cert, key := filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	if err := os.WriteFile(cert, p.CertPEM, 0o644); err != nil {
		return fmt.Errorf("write certificate: %w", err)
	}
	if err := os.WriteFile(key, p.KeyPEM, 0o600); err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	return nil
}

// newKey makes a private key.
func newKey(algorithm Algorithm) (crypto.Signer, error) {
	var key crypto.Signer
	var err error
	switch algorithm {
	case ECDSA, "":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case RSA:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	default:
		return nil, fmt.Errorf("no such key algorithm: %q; use ecdsa or rsa", algorithm)
	}
	if err != nil {
		return nil, fmt.Errorf("make %s key: %w", algorithm, err)
	}
	return key, nil
}

// newTemplate has what all certificates have. They begin a day ago, so that machines with slow clocks take them.
func newTemplate(name string, lifetime time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("choose serial number: %w", err)
	}
	now := time.Now()
	begin, end := now.Add(-24*time.Hour), now.Add(lifetime)
	if end.Before(begin) {
		begin = end.Add(-24 * time.Hour)
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    begin,
		NotAfter:     end,
	}, nil
}

// sign makes the certificate of key, signed by the parent's key.
func sign(template, parent *x509.Certificate, key, parentKey crypto.Signer) (*CA, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		return nil, fmt.Errorf("sign certificate for %s: %w", template.Subject.CommonName, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read certificate back: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key of %s: %w", template.Subject.CommonName, err)
	}
	return &CA{
		cert: cert,
		key:  key,
		Pair: Pair{
			Certificate: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: cert},
			CertPEM:     pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
			KeyPEM:      pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
		},
	}, nil
}

// LoadCA reads an authority that Write stored.
func LoadCA(dir, name string) (*CA, error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key"))
	if err != nil {
		return nil, fmt.Errorf("load certificate authority: %w", err)
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok || !pair.Leaf.IsCA {
		return nil, fmt.Errorf("load certificate authority: %s is not one; remove it to have a new one made", filepath.Join(dir, name+".pem"))
	}
	ca := &CA{cert: pair.Leaf, key: key, Pair: Pair{Certificate: pair}}
	ca.CertPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Leaf.Raw})
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key of %s: %w", name, err)
	}
	ca.KeyPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return ca, nil
}
