package directory

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Config says where the accounts are and how they are read. What is absent has its default, and is never unlimited.
type Config struct {
	// Servers are the directory's servers, as URLs: ldap://host[:port], ldaps://host[:port], ldapi://%2Fpath%2Fof%2Fsocket.
	// A server that works is preferred to one that does not, and an earlier one to a later one. Or one ldif:FILE alone: a
	// file of entries instead of a server.
	Servers []string `yaml:"servers"`
	// StartTLS encrypts ldap:// connections (RFC 4511 section 4.14). A server that cannot is not used.
	StartTLS bool `yaml:"starttls"`
	// TLSCAFile holds the certificates that servers are verified by, in PEM; the system's when absent.
	TLSCAFile string `yaml:"tls_ca_file"`
	// TLSCertFile and TLSKeyFile are a client certificate, in PEM.
	TLSCertFile string `yaml:"tls_cert_file"`
	// TLSKeyFile belongs to TLSCertFile.
	TLSKeyFile string `yaml:"tls_key_file"`
	// BindDN is the entry to bind as; absent: anonymous.
	BindDN string `yaml:"bind_dn"`
	// BindPasswordFile holds the password of BindDN. A line end at its end is not part of it.
	BindPasswordFile string `yaml:"bind_password_file"`
	// SASLExternal binds by SASL EXTERNAL instead: as who the client certificate or, over ldapi, the process's user says.
	SASLExternal bool `yaml:"sasl_external"`
	// Base is the entry under which accounts are searched, in the whole subtree.
	Base string `yaml:"base"`
	// Filter finds an account. {address}, {local} and {domain} stand for the normalised name and its parts, escaped (RFC
	// 4515). Absent: objectClass mailAccount with the address in mail or mailAlternateAddress.
	Filter string `yaml:"filter"`
	// Attributes name what is read of an account's entry.
	Attributes Attributes `yaml:"attributes"`
	// StatusWords say what the values of the status attribute mean.
	StatusWords StatusWords `yaml:"status_words"`
	// Timeout bounds one attempt at one server: connecting, binding and the answer. 3s when absent, 1m at most.
	Timeout time.Duration `yaml:"timeout"`
	// Connections is how many connections are kept to each server for lookups, and again for password checks. 4 when
	// absent. Requests share connections: more than 8 seldom help.
	Connections int `yaml:"connections"`
	// Cache says what is remembered.
	Cache CacheConfig `yaml:"cache"`
}

// Attributes are names of LDAP attributes. Case does not matter.
type Attributes struct {
	// Host holds the home host; hostServer when absent.
	Host string `yaml:"host"`
	// OldHost holds the home host before a failover; oldHostServer when absent.
	OldHost string `yaml:"old_host"`
	// Login holds the canonical login name; mail when absent. An entry without it is known by the normalised name.
	Login string `yaml:"login"`
	// Status holds the account's status; mailUserStatus when absent. An entry without it is served.
	Status string `yaml:"status"`
}

// StatusWords are the values of the status attribute, without regard to case. A value that is none of them is refused
// for the time being.
type StatusWords struct {
	// Active accounts are served; [active] when absent.
	Active []string `yaml:"active"`
	// Hold is a temporary refusal; [hold, defer] when absent.
	Hold []string `yaml:"hold"`
	// Disabled is a permanent refusal; [disabled, inactive, deleted] when absent.
	Disabled []string `yaml:"disabled"`
}

// CacheConfig says what is remembered, and for how long.
type CacheConfig struct {
	// TTL is how long an account is believed without asking again; 5m when absent. It is shortened by up to a tenth at
	// random, so that what was learnt together is not asked again together.
	TTL time.Duration `yaml:"ttl"`
	// NegativeTTL is how long "no such user" is believed; 10s when absent.
	NegativeTTL time.Duration `yaml:"negative_ttl"`
	// Stale is how long an account is remembered for the case that the directory is away; 24h when absent.
	Stale time.Duration `yaml:"stale"`
	// MaxEntries bounds the accounts remembered; 1000000 when absent. Names that are nobody's have a tenth of it apart, so
	// that strangers who try names cannot push accounts out.
	MaxEntries int `yaml:"max_entries"`
}

// Bounds of what would be unlimited otherwise.
const (
	longestTimeout = time.Minute
	mostEntries    = 100_000_000
)

const defaultFilter = "(&(objectClass=mailAccount)(|(mail={address})(mailAlternateAddress={address})))"

// WithDefaults fills in what is absent.
func (c Config) WithDefaults() Config {
	c.Filter = cmp.Or(c.Filter, defaultFilter)
	c.Attributes.Host = cmp.Or(c.Attributes.Host, "hostServer")
	c.Attributes.OldHost = cmp.Or(c.Attributes.OldHost, "oldHostServer")
	c.Attributes.Login = cmp.Or(c.Attributes.Login, "mail")
	c.Attributes.Status = cmp.Or(c.Attributes.Status, "mailUserStatus")
	c.Timeout = cmp.Or(c.Timeout, 3*time.Second)
	c.Connections = cmp.Or(c.Connections, 4)
	c.Cache.TTL = cmp.Or(c.Cache.TTL, 5*time.Minute)
	c.Cache.NegativeTTL = cmp.Or(c.Cache.NegativeTTL, 10*time.Second)
	c.Cache.Stale = cmp.Or(c.Cache.Stale, 24*time.Hour)
	c.Cache.MaxEntries = cmp.Or(c.Cache.MaxEntries, 1_000_000)
	if c.StatusWords.Active == nil {
		c.StatusWords.Active = []string{"active"}
	}
	if c.StatusWords.Hold == nil {
		c.StatusWords.Hold = []string{"hold", "defer"}
	}
	if c.StatusWords.Disabled == nil {
		c.StatusWords.Disabled = []string{"disabled", "inactive", "deleted"}
	}
	return c
}

// Validate joins all faults of the configuration. It reads no file and asks no server.
func (c *Config) Validate() error {
	with := c.WithDefaults()
	var f faults
	with.validateServers(&f)
	if _, err := newTemplate(with.Filter); err != nil {
		f.add("filter", "%w", err)
	}
	for _, a := range [][2]string{
		{"host", with.Attributes.Host}, {"old_host", with.Attributes.OldHost}, {"login", with.Attributes.Login}, {"status", with.Attributes.Status},
	} {
		if !isAttribute(a[1]) {
			f.add("attributes."+a[0], "%q is not the name of an attribute, such as hostServer", a[1])
		}
	}
	if strings.EqualFold(with.Attributes.Host, with.Attributes.OldHost) {
		f.add("attributes.old_host", "names the same attribute as host: %s; give it one of its own", with.Attributes.Host)
	}
	with.StatusWords.validate(&f)
	f.positive("timeout", with.Timeout)
	if with.Timeout > longestTimeout {
		f.add("timeout", "must be %s at most, got %s: a login waits that long at each server that is silent", longestTimeout, with.Timeout)
	}
	f.positive("cache.ttl", with.Cache.TTL)
	f.positive("cache.negative_ttl", with.Cache.NegativeTTL)
	f.positive("cache.stale", with.Cache.Stale)
	if with.Connections < 1 || with.Connections > 1000 {
		f.add("connections", "must be from 1 to 1000, got %d", with.Connections)
	}
	if with.Cache.MaxEntries < 1 || with.Cache.MaxEntries > mostEntries {
		f.add("cache.max_entries", "must be from 1 to %d, got %d", mostEntries, with.Cache.MaxEntries)
	}
	return errors.Join(f...)
}

func (c *Config) validateServers(f *faults) {
	if len(c.Servers) == 0 {
		f.add("servers", "at least one is needed, such as ldap://127.0.0.1:389")
	}
	inClear := false
	for i, s := range c.Servers {
		key := fmt.Sprintf("servers[%d]", i)
		if _, ok := ldifFile(s); ok {
			if len(c.Servers) > 1 {
				f.add(key, "an LDIF file stands alone: remove the other servers")
			}
			continue
		}
		a, err := parseServer(s)
		if err != nil {
			f.add(key, "%w", err)
		}
		inClear = inClear || a.scheme == "ldap"
	}
	if c.isLDIF() {
		return
	}
	if c.Base == "" {
		f.add("base", "is needed: the entry under which the accounts are, such as ou=domains,dc=example,dc=com")
	} else if !validDN(c.Base) {
		f.add("base", "%q is not a distinguished name, such as dc=example,dc=com", c.Base)
	}
	if c.StartTLS && !inClear && len(c.Servers) > 0 {
		f.add("starttls", "is of use for ldap:// servers only, and there is none")
	}
	if (c.TLSCertFile == "") != (c.TLSKeyFile == "") {
		f.add("tls_cert_file", "tls_cert_file and tls_key_file go together")
	}
	if c.BindDN != "" && !validDN(c.BindDN) {
		f.add("bind_dn", "%q is not a distinguished name, such as cn=mailmux,dc=example,dc=com", c.BindDN)
	}
	if c.BindDN != "" && c.BindPasswordFile == "" {
		f.add("bind_password_file", "is needed with bind_dn: a bind without a password is an anonymous one")
	}
	if c.BindDN == "" && c.BindPasswordFile != "" {
		f.add("bind_dn", "is needed with bind_password_file")
	}
	if c.SASLExternal && c.BindDN != "" {
		f.add("sasl_external", "says itself who binds: remove bind_dn and bind_password_file")
	}
}

func (w *StatusWords) validate(f *faults) {
	seen := map[string]string{}
	for _, group := range []struct {
		key   string
		words []string
	}{{"active", w.Active}, {"hold", w.Hold}, {"disabled", w.Disabled}} {
		for _, word := range group.words {
			low := strings.ToLower(strings.TrimSpace(word))
			if other, ok := seen[low]; ok {
				f.add("status_words."+group.key, "%q is among %s too; a word has one meaning", word, other)
			}
			if low == "" {
				f.add("status_words."+group.key, "an empty word: an entry without a status is always active")
			}
			seen[low] = group.key
		}
	}
}

func (c *Config) isLDIF() bool {
	if len(c.Servers) != 1 {
		return false
	}
	_, ok := ldifFile(c.Servers[0])
	return ok
}

func ldifFile(server string) (string, bool) {
	file, ok := strings.CutPrefix(server, "ldif:")
	return file, ok && file != ""
}

// address is a parsed server URL.
type address struct {
	url     string // as configured: how the server is called in logs and metrics
	scheme  string // ldap, ldaps or ldapi
	network string // tcp or unix
	dial    string // host:port or path
	host    string // for TLS; "" for ldapi
}

func parseServer(s string) (address, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return address{}, fmt.Errorf("%q is not a URL such as ldap://host:389", s)
	}
	a := address{url: s, scheme: strings.ToLower(scheme)}
	port := "389"
	switch a.scheme {
	case "ldapi":
		path, err := url.PathUnescape(strings.TrimSuffix(rest, "/"))
		if err != nil {
			return address{}, fmt.Errorf("%q: write the socket's path with %%2F for each slash", s)
		}
		a.network, a.dial = "unix", cmp.Or(path, "/var/run/slapd/ldapi")
		return a, nil
	case "ldaps":
		port = "636"
	case "ldap":
	default:
		return address{}, fmt.Errorf("%q: the scheme is none of ldap, ldaps, ldapi, ldif", s)
	}
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return address{}, fmt.Errorf("%q is not %s://host[:port]: base, filter and bind_dn have keys of their own", s, a.scheme)
	}
	if p := u.Port(); p != "" {
		port = p
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return address{}, fmt.Errorf("%q: the port must be from 1 to 65535", s)
	}
	a.network, a.host = "tcp", u.Hostname()
	a.dial = net.JoinHostPort(a.host, port)
	return a, nil
}

// faults gathers what is wrong with a configuration; each text begins with the key.
type faults []error

func (f *faults) add(key, format string, args ...any) {
	*f = append(*f, fmt.Errorf("%s: "+format, append([]any{key}, args...)...))
}

func (f *faults) positive(key string, d time.Duration) {
	if d <= 0 {
		f.add(key, "must be positive, got %s", d)
	}
}
