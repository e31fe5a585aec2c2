package claims

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Config says by which etcd the frontends agree on the members of accounts, and how long one may be away from it.
type Config struct {
	// Endpoints are the addresses of the etcd servers, such as https://10.0.0.1:2379. All frontends of a site name the
	// same cluster.
	Endpoints []string `yaml:"endpoints"`
	// Embedded runs etcd inside this process, with its data in this directory: for a site of one frontend. It takes the
	// place of endpoints. Other processes of the machine reach it at unix://DIRECTORY/client.sock.
	Embedded string `yaml:"embedded"`
	// User is the name to log in to etcd with, where it wants one.
	User string `yaml:"user"`
	// PasswordFile holds the password of User; a line end behind it is left out. It is read again when etcd refuses it.
	PasswordFile string `yaml:"password_file"`
	// TLSCAFile holds the certificates of the authorities that etcd's certificates are signed by, in PEM: those of the
	// system when absent.
	TLSCAFile string `yaml:"tls_ca_file"`
	// TLSCertFile is the certificate that this frontend shows to etcd, in PEM: none when absent. It is read again, with
	// its key, for each connection.
	TLSCertFile string `yaml:"tls_cert_file"`
	// TLSKeyFile is the key of TLSCertFile.
	TLSKeyFile string `yaml:"tls_key_file"`
	// Name is what this frontend is called in status and lookup: the machine's name when absent.
	Name string `yaml:"name"`
	// Prefix is what the names of all keys begin with: /mailmux/ when absent. Sites that share an etcd differ in it.
	Prefix string `yaml:"prefix"`
	// Lease is how long a frontend that does not answer keeps its claims: 10s when absent. All frontends name the same.
	Lease time.Duration `yaml:"lease"`
	// Margin is how long before the end of its lease a frontend that cannot renew it closes its sessions: 3s when absent.
	Margin time.Duration `yaml:"margin"`
	// Timeout bounds one request to etcd: 3s when absent.
	Timeout time.Duration `yaml:"timeout"`
	// Linger is how long a claim is kept when the account's last session has ended, so that an account that comes again
	// and again finds its member's caches warm: not at all when absent.
	Linger time.Duration `yaml:"linger"`
	// OnOutage says what becomes of new sessions while etcd is away: refuse (the default: a temporary error) or hash (they
	// go by hash, and nothing makes sure that an account is on one member only).
	OnOutage string `yaml:"on_outage"`
	// Guard is on (the default) or off: a small second process that closes the sessions of a frontend that is stopped.
	Guard string `yaml:"guard"`
}

// Given says whether the section is there at all.
func (c *Config) Given() bool { return len(c.Endpoints) > 0 || c.Embedded != "" }

// WithDefaults fills in what is absent.
func (c Config) WithDefaults() Config {
	c.Lease = cmp.Or(c.Lease, 10*time.Second)
	c.Margin = cmp.Or(c.Margin, min(3*time.Second, c.Lease/2))
	c.Timeout = cmp.Or(c.Timeout, 3*time.Second)
	c.Prefix = cmp.Or(c.Prefix, "/mailmux/")
	c.OnOutage = cmp.Or(c.OnOutage, "refuse")
	if c.Name == "" {
		if name, err := os.Hostname(); err == nil {
			c.Name = name
		}
	}
	return c
}

// Bounds of the times. etcd gives no lease below 2 s with its default election timeout.
const (
	minLease  = 3 * time.Second
	maxLease  = 10 * time.Minute
	minMargin = time.Second
	maxLinger = time.Hour
)

// Validate joins all faults; each begins with the key.
func (c *Config) Validate() error {
	switch {
	case c.empty():
		return nil
	case !c.Given():
		return errors.New("endpoints: missing: say where etcd is, or embedded")
	}
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if len(c.Endpoints) > 0 && c.Embedded != "" {
		fault("embedded: stands beside endpoints; one of them")
	}
	for i, e := range c.Endpoints {
		if err := checkEndpoint(e); err != nil {
			fault("endpoints[%d]: %w", i, err)
		}
	}
	if c.Embedded != "" && !filepath.IsAbs(c.Embedded) {
		fault("embedded: %q is not an absolute path", c.Embedded)
	}
	if (c.User == "") != (c.PasswordFile == "") {
		fault("user: user and password_file belong together")
	}
	if (c.TLSCertFile == "") != (c.TLSKeyFile == "") {
		fault("tls_cert_file: tls_cert_file and tls_key_file belong together")
	}
	if c.Prefix != "" && (!strings.HasSuffix(c.Prefix, "/") || len(c.Prefix) > 128) {
		fault("prefix: %q does not end in a slash, or is longer than 128 bytes", c.Prefix)
	}
	faults = append(faults, c.checkTimes()...)
	for _, w := range []struct{ key, value, words string }{{"on_outage", c.OnOutage, "refuse hash"}, {"guard", c.Guard, "on off"}} {
		if w.value != "" && !strings.Contains(" "+w.words+" ", " "+w.value+" ") {
			fault("%s: %q is not one of %s", w.key, w.value, strings.ReplaceAll(w.words, " ", ", "))
		}
	}
	return errors.Join(faults...)
}

// bare is the section without its lists, which can be compared.
type bare struct {
	Name, User, PasswordFile, TLSCAFile, TLSCertFile, TLSKeyFile, Prefix, OnOutage, Guard string
	Lease, Margin, Timeout, Linger                                                        time.Duration
}

// empty says whether nothing is set.
func (c *Config) empty() bool {
	return !c.Given() && bare{c.Name, c.User, c.PasswordFile, c.TLSCAFile, c.TLSCertFile, c.TLSKeyFile, c.Prefix, c.OnOutage, c.Guard,
		c.Lease, c.Margin, c.Timeout, c.Linger} == bare{}
}

func (c *Config) checkTimes() []error {
	var faults []error
	full := c.WithDefaults()
	for _, s := range []struct {
		key         string
		value       time.Duration
		least, most time.Duration
	}{
		{"lease", full.Lease, minLease, maxLease},
		{"margin", full.Margin, minMargin, full.Lease / 2},
		{"timeout", full.Timeout, 100 * time.Millisecond, time.Minute},
		{"linger", full.Linger, 0, maxLinger},
	} {
		if s.value < s.least || s.value > s.most {
			faults = append(faults, fmt.Errorf("%s: %s is not between %s and %s", s.key, s.value, s.least, s.most))
		}
	}
	if full.Lease%time.Second != 0 {
		faults = append(faults, fmt.Errorf("lease: etcd counts whole seconds, got %s", full.Lease))
	}
	return faults
}

func checkEndpoint(e string) error {
	u, err := url.Parse(e)
	switch {
	case err != nil:
		return fmt.Errorf("%q is no URL, such as https://10.0.0.1:2379", e)
	case u.Scheme == "unix" && u.Path != "":
	case u.Scheme != "http" && u.Scheme != "https", u.Port() == "", u.Path != "", u.User != nil:
		return fmt.Errorf("%q is not http or https with a port and nothing behind it, such as https://10.0.0.1:2379", e)
	}
	return nil
}

// tlsConfig is the one for etcd; nil where no endpoint wants TLS.
func (c *Config) tlsConfig() (*tls.Config, error) {
	secure := false
	for _, e := range c.Endpoints {
		secure = secure || strings.HasPrefix(e, "https:")
	}
	if !secure {
		return nil, nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.TLSCAFile != "" {
		text, err := os.ReadFile(c.TLSCAFile)
		if err != nil {
			return nil, fmt.Errorf("claims.tls_ca_file: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("claims.tls_ca_file: %s holds no certificate in PEM", c.TLSCAFile)
		}
	}
	if c.TLSCertFile != "" {
		if _, err := c.certificate(nil); err != nil {
			return nil, err
		}
		t.GetClientCertificate = c.certificate
	}
	return t, nil
}

// certificate reads the one for etcd. A frontend outlives the certificate that it has begun with.
func (c *Config) certificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(c.TLSCertFile, c.TLSKeyFile)
	if err != nil {
		return nil, fmt.Errorf("claims.tls_cert_file: %w", err)
	}
	return &pair, nil
}

// password reads the secret.
func (c *Config) password() (string, error) {
	if c.PasswordFile == "" {
		return "", nil
	}
	text, err := os.ReadFile(c.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("claims.password_file: %w", err)
	}
	secret := strings.TrimRight(string(text), "\r\n")
	if secret == "" {
		return "", fmt.Errorf("claims.password_file: %s is empty", c.PasswordFile)
	}
	return secret, nil
}
