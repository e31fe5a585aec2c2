package proxy

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
)

// certificates are the frontend's own, found by server name.
type certificates struct {
	first  *tls.Certificate
	byName map[string]*tls.Certificate
}

// load reads the files. It joins all faults; each begins with the key.
func (t *TLS) load() (*certificates, error) {
	if len(t.Certificates) == 0 {
		return nil, nil
	}
	var faults []error
	c := &certificates{byName: make(map[string]*tls.Certificate)}
	for i, files := range t.Certificates {
		pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
		if err != nil {
			faults = append(faults, fmt.Errorf("certificates[%d]: %w", i, err))
			continue
		}
		c.add(&pair)
	}
	return c, errors.Join(faults...)
}

func (c *certificates) add(pair *tls.Certificate) {
	if c.first == nil {
		c.first = pair
	}
	names := pair.Leaf.DNSNames
	if len(names) == 0 {
		names = []string{pair.Leaf.Subject.CommonName}
	}
	for _, n := range names {
		if n = strings.ToLower(n); c.byName[n] == nil {
			c.byName[n] = pair
		}
	}
}

// find returns the certificate for a server name: of that name, of the wildcard above it, or else the first one.
func (c *certificates) find(name string) *tls.Certificate {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if pair := c.byName[name]; pair != nil {
		return pair
	}
	if _, parent, ok := strings.Cut(name, "."); ok {
		if pair := c.byName["*."+parent]; pair != nil {
			return pair
		}
	}
	return c.first
}

// tlsServer is the one tls.Config of a server. It lives as long as its settings do, over reloads of the certificates,
// so that its ticket keys do, too, and clients can resume.
type tlsServer struct {
	settings tlsSettings
	config   *tls.Config
	certs    atomic.Pointer[certificates]
}

// tlsSettings are what a new tls.Config is needed for when it changes.
type tlsSettings struct {
	minVersion string
	clientCA   string // the file's contents
	tickets    string // the same
}

// newTLS makes the server's TLS, or puts the certificates into the one there is if nothing else has changed.
func newTLS(t *TLS, old *tlsServer) (*tlsServer, error) {
	certs, err := t.load()
	if err != nil || certs == nil {
		return nil, err
	}
	settings := tlsSettings{minVersion: t.MinVersion}
	var faults []error
	for key, f := range map[string]struct {
		path string
		into *string
	}{"client_ca_file": {t.ClientCAFile, &settings.clientCA}, "ticket_key_file": {t.TicketKeyFile, &settings.tickets}} {
		if f.path == "" {
			continue
		}
		text, err := os.ReadFile(f.path)
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", key, err))
		}
		*f.into = string(text)
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	if old == nil || old.settings != settings {
		old = &tlsServer{settings: settings}
		if old.config, err = settings.config(); err != nil {
			return nil, err
		}
		current := old
		old.config.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return current.certs.Load().find(hello.ServerName), nil
		}
	}
	// Sessions that began before the reload may get the new certificate, which is as good.
	old.certs.Store(certs)
	return old, nil
}

func (s *tlsSettings) config() (*tls.Config, error) {
	c := &tls.Config{
		MinVersion: tls.VersionTLS12,
		// Small first records serve web pages. Mail is lines, or bulk that wants whole records from the start.
		DynamicRecordSizingDisabled: true,
	}
	if s.minVersion == "1.3" {
		c.MinVersion = tls.VersionTLS13
	}
	if s.clientCA != "" {
		c.ClientCAs = x509.NewCertPool()
		if !c.ClientCAs.AppendCertsFromPEM([]byte(s.clientCA)) {
			return nil, errors.New("client_ca_file: no certificate in PEM form found")
		}
		c.ClientAuth = tls.VerifyClientCertIfGiven
	}
	if s.tickets != "" {
		var keys [][32]byte
		for line := range strings.Lines(s.tickets) {
			if line = strings.TrimSpace(line); len(line) >= 32 {
				keys = append(keys, sha256.Sum256([]byte(line)))
			}
		}
		if len(keys) == 0 {
			return nil, errors.New("ticket_key_file: no line of at least 32 characters; make one with: openssl rand -hex 32")
		}
		c.SetSessionTicketKeys(keys)
	}
	return c, nil
}

// handshake puts TLS over the client's connection. The login timeout bounds it.
func (s *Session) handshake() error {
	t := tls.Server(s.nc, s.state.tls.config)
	err := t.Handshake()
	if err != nil {
		s.server.metrics.Handshake(s.Service(), false, err)
		return fmt.Errorf("TLS handshake with the client: %w", err)
	}
	state := t.ConnectionState()
	s.server.metrics.Handshake(s.Service(), state.DidResume, nil)
	s.tls = t
	s.identity.TLS = true
	s.identity.Name = state.ServerName
	s.certUser = s.state.clientName(state.PeerCertificates)
	s.server.registry.note(&s.record.tls, tls.VersionName(state.Version))
	return nil
}

// clientName is the account that a verified client certificate names, "" for none.
func (st *State) clientName(chain []*x509.Certificate) string {
	switch {
	case len(chain) == 0:
		return ""
	case st.clientNameBy == "cn":
		return chain[0].Subject.CommonName
	case len(chain[0].EmailAddresses) == 1:
		return chain[0].EmailAddresses[0]
	}
	return ""
}
