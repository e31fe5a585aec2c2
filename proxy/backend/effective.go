package backend

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
)

// effective is what holds for one member: every level of settings laid over the next, and the files read. It is never
// changed, only replaced.
type effective struct {
	Settings

	address  address
	weight   int
	priority int
	ports    [numServices]uint16
	modes    [numServices]Mode
	tls      *tls.Config // nil when no service has TLS
	local    local
	login    LoginMode
	master   Credentials
	proxy    byte // version of the PROXY header, 0 for none
	source4  []netip.Addr
	source6  []netip.Addr
	next     atomic.Uint64 // source address, in turn
	password string        // of the check's user
}

// local is the backend behind our own listeners, in place of a member's address that is one of them.
type local struct {
	ip    netip.Addr // the zero Addr for the member's own
	ports [numServices]uint16
	mode  Mode
}

// spec is one member as the configuration or a source lists it.
type spec struct {
	name     string
	address  address
	weight   int
	priority int
	ports    map[string]int // a source's own, before every other
	settings Settings       // the member's level laid over the host's and the defaults
	own      map[string]int // the member's own ports, before the port in its address
}

// compile makes the effective settings of a member of a host.
func (f *files) compile(host string, s spec) (*effective, error) {
	e := &effective{Settings: s.settings, address: s.address, weight: s.weight, priority: s.priority}
	for i, service := range services {
		word := s.settings.TLS
		if w, ok := s.settings.TLSServices[service.name]; ok {
			word = w
		}
		mode, err := parseMode(word)
		if err != nil {
			return nil, err
		}
		e.modes[i] = mode
		e.ports[i] = s.port(service.name, mode, i)
	}
	if err := e.compileLocal(); err != nil {
		return nil, err
	}
	e.proxy = map[string]byte{"v1": 1, "v2": 2}[s.settings.ProxyProtocol]
	for _, a := range s.settings.SourceAddresses {
		if a = a.Unmap(); a.Is4() {
			e.source4 = append(e.source4, a)
		} else {
			e.source6 = append(e.source6, a)
		}
	}
	return e, errors.Join(f.secrets(e), f.tlsConfig(host, e))
}

// compileLocal reads the settings of the backend behind our own listeners.
func (e *effective) compileLocal() (err error) {
	l := e.Settings.Local
	for i, service := range services {
		e.local.ports[i] = uint16(l.Ports[service.name])
	}
	if l.Address != "" {
		if e.local.ip, err = netip.ParseAddr(l.Address); err != nil {
			return err
		}
	}
	e.local.mode, err = parseMode(l.TLS)
	return err
}

// port is the service's port on the member: from the source, the member's ports, its address, the ports of the levels
// above, or the standard.
func (s spec) port(service string, mode Mode, index int) uint16 {
	for _, ports := range []map[string]int{s.ports, s.own} {
		if p, ok := ports[service]; ok {
			return uint16(p)
		}
	}
	if s.address.port != 0 {
		return s.address.port
	}
	if p, ok := s.settings.Ports[service]; ok {
		return uint16(p)
	}
	if mode == Implicit {
		return uint16(services[index].tlsPort)
	}
	return uint16(services[index].port)
}

// files reads each file of a configuration once: a thousand hosts share one CA file.
type files struct {
	contents map[string][]byte
	roots    map[string]*x509.CertPool
	certs    map[string]*tls.Certificate
}

func newFiles() *files {
	return &files{
		contents: make(map[string][]byte),
		roots:    make(map[string]*x509.CertPool),
		certs:    make(map[string]*tls.Certificate),
	}
}

func (f *files) read(path string) ([]byte, error) {
	if text, ok := f.contents[path]; ok {
		return text, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	f.contents[path] = text
	return text, nil
}

// secret is the content of a password file without its line end. An empty one is a fault: it would be tried as the empty
// password.
func (f *files) secret(path string) (string, error) {
	text, err := f.read(path)
	if err != nil {
		return "", err
	}
	secret := strings.TrimRight(string(text), "\r\n")
	if secret == "" {
		return "", fmt.Errorf("%s is empty", path)
	}
	return secret, nil
}

func (f *files) secrets(e *effective) error {
	if e.Login == "master" {
		e.login = Master
		e.master = Credentials{User: e.Master.User, Separator: e.Master.Separator}
		if e.Master.Format == "separator" {
			e.master.Format = Separator
		}
		password, err := f.secret(e.Master.PasswordFile)
		if err != nil {
			return fmt.Errorf("master.password_file: %w", err)
		}
		e.master.Password = password
	}
	if e.Check.User != "" {
		password, err := f.secret(e.Check.PasswordFile)
		if err != nil {
			return fmt.Errorf("check.password_file: %w", err)
		}
		e.password = password
	}
	return nil
}

// tlsConfig makes the member's TLS configuration. The certificate is verified against one name that the configuration
// gives, never against an address from the DNS.
func (f *files) tlsConfig(host string, e *effective) error {
	if e.modes == [numServices]Mode{} && e.local.mode == Off {
		return nil
	}
	name := e.TLSServerName
	if name == "" {
		name = e.address.name
	}
	if name == "" {
		name = host
	}
	config := &tls.Config{
		ServerName:         name,
		MinVersion:         tlsVersion,
		ClientSessionCache: tls.NewLRUClientSessionCache(4),
	}
	if e.TLSCAFile != "" {
		roots, err := f.pool(e.TLSCAFile)
		if err != nil {
			return fmt.Errorf("tls_ca_file: %w", err)
		}
		config.RootCAs = roots
	}
	if e.TLSCertFile != "" {
		cert, err := f.certificate(e.TLSCertFile, e.TLSKeyFile)
		if err != nil {
			return fmt.Errorf("tls_cert_file: %w", err)
		}
		config.Certificates = []tls.Certificate{*cert}
	}
	e.tls = config
	return nil
}

func (f *files) pool(path string) (*x509.CertPool, error) {
	if pool, ok := f.roots[path]; ok {
		return pool, nil
	}
	text, err := f.read(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", path)
	}
	f.roots[path] = pool
	return pool, nil
}

func (f *files) certificate(certFile, keyFile string) (*tls.Certificate, error) {
	id := certFile + "\x00" + keyFile
	if cert, ok := f.certs[id]; ok {
		return cert, nil
	}
	certPEM, err := f.read(certFile)
	if err != nil {
		return nil, err
	}
	keyPEM, err := f.read(keyFile)
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s with %s: %w", certFile, keyFile, err)
	}
	f.certs[id] = &cert
	return &cert, nil
}
