package stage

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Authority is a certificate authority for one run of the tests.
type Authority struct {
	File string         // its certificate in PEM
	Pool *x509.CertPool // its certificate alone

	dir    string
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	serial int64
}

// Pair names the files of a certificate and its key, in PEM.
type Pair struct{ Cert, Key string }

// NewAuthority makes an authority that keeps its files in dir, under the name given.
func NewAuthority(dir, name string) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the key of %s: %w", name, err)
	}
	a := &Authority{dir: dir, key: key, serial: 1, File: filepath.Join(dir, name+".pem")}
	template := a.template(name)
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = nil
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make the certificate of %s: %w", name, err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("read back the certificate of %s: %w", name, err)
	}
	a.Pool = x509.NewCertPool()
	a.Pool.AddCert(a.cert)
	if err := writePEM(a.File, "CERTIFICATE", der, 0o644); err != nil {
		return nil, err
	}
	return a, nil
}

// Issue makes a certificate for server and client use whose common name is name and whose alternative names are name
// (unless it is an e-mail address, which becomes an address name) and the others.
func (a *Authority) Issue(name string, others ...string) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, fmt.Errorf("make the key of %s: %w", name, err)
	}
	a.serial++
	template := a.template(name)
	for _, n := range append([]string{name}, others...) {
		switch ip := net.ParseIP(n); {
		case ip != nil:
			template.IPAddresses = append(template.IPAddresses, ip)
		case isAddress(n):
			template.EmailAddresses = append(template.EmailAddresses, n)
		default:
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return Pair{}, fmt.Errorf("make the certificate of %s: %w", name, err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Pair{}, fmt.Errorf("write the key of %s: %w", name, err)
	}
	base := filepath.Join(a.dir, fmt.Sprintf("%s-%d", name, a.serial))
	p := Pair{Cert: base + ".pem", Key: base + ".key"}
	if err := writePEM(p.Cert, "CERTIFICATE", der, 0o644); err != nil {
		return Pair{}, err
	}
	return p, writePEM(p.Key, "PRIVATE KEY", keyDER, 0o600)
}

func (a *Authority) template(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(a.serial),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(48 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
}

func isAddress(name string) bool {
	for i := range len(name) {
		if name[i] == '@' {
			return true
		}
	}
	return false
}

func writePEM(file, kind string, der []byte, mode os.FileMode) error {
	b := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	if err := os.WriteFile(file, b, mode); err != nil {
		return fmt.Errorf("write a certificate or key: %w", err)
	}
	return nil
}
