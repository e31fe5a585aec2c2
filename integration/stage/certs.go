package stage

import (
	"crypto/x509"
	"fmt"
	"path/filepath"

	"mailmux/tools/certs/pki"
)

// Authority is a certificate authority for one run of the tests, with its files in one directory.
type Authority struct {
	File string         // its certificate in PEM
	Pool *x509.CertPool // its certificate alone

	dir    string
	ca     *pki.CA
	issued int
}

// Pair names the files of a certificate and its key, in PEM.
type Pair struct{ Cert, Key string }

// NewAuthority makes an authority that keeps its files in dir, under the name given.
func NewAuthority(dir, name string) (*Authority, error) {
	ca, err := pki.NewCA(name, pki.ECDSA)
	if err != nil {
		return nil, err
	}
	if err := ca.Write(dir, name); err != nil {
		return nil, err
	}
	return &Authority{File: filepath.Join(dir, name+".pem"), Pool: ca.Pool(), dir: dir, ca: ca}, nil
}

// Issue makes a server's certificate for a name and other names.
func (a *Authority) Issue(name string, others ...string) (Pair, error) {
	return a.issue(pki.Request{Name: name, Hosts: append([]string{name}, others...)})
}

// IssueClient makes the certificate of a mail user, named by an e-mail address.
func (a *Authority) IssueClient(address string) (Pair, error) {
	return a.issue(pki.Request{Name: address, Hosts: []string{address}, Client: true})
}

func (a *Authority) issue(r pki.Request) (Pair, error) {
	p, err := a.ca.Issue(r)
	if err != nil {
		return Pair{}, err
	}
	a.issued++
	base := fmt.Sprintf("%s-%d", r.Name, a.issued)
	if err := p.Write(a.dir, base); err != nil {
		return Pair{}, err
	}
	base = filepath.Join(a.dir, base)
	return Pair{Cert: base + ".pem", Key: base + ".key"}, nil
}
