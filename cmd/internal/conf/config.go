package conf

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"mailmux/directory"
	"mailmux/proxy"
	"mailmux/proxy/admin"
	"mailmux/proxy/backend"
	"mailmux/proxy/claims"
	"mailmux/proxy/deliver"
	"mailmux/proxy/spool"
)

// DefaultPath is where the configuration is when nobody says.
const DefaultPath = "/etc/mailmux/mailmux.yaml"

// Config is the configuration of a frontend: one field a section.
type Config struct {
	// Hostname is the name this frontend goes by: in greetings, and towards the backends. Absent: the machine's name.
	Hostname string `yaml:"hostname"`
	// Directory is where the accounts are.
	Directory directory.Config `yaml:"directory"`
	// Hosts and Backend: the host table, and what holds for all of its rows.
	backend.Config `yaml:",inline"`
	// Domains says how login names and addresses are completed.
	Domains directory.Domains `yaml:"domains"`
	// Listeners are the addresses that clients connect to.
	Listeners []proxy.Listener `yaml:"listeners"`
	// TLS is for clients; TLS towards the backends is in the section backend.
	TLS proxy.TLS `yaml:"tls"`
	// Limits bound what clients can take.
	Limits proxy.Limits `yaml:"limits"`
	// Auth is what clients may log in with.
	Auth proxy.Auth `yaml:"auth"`
	// Delivery says how messages are taken in by the services lmtp and smtp, and handed to the backends.
	Delivery deliver.Config `yaml:"delivery"`
	// Spool is the queue for messages whose backends are away, taken in by the service smtp. Changes take a restart.
	Spool spool.Config `yaml:"spool"`
	// Outgoing is the way out for what the backends send by themselves, and for notifications to senders at other sites.
	Outgoing deliver.OutgoingConfig `yaml:"outgoing"`
	// Claims is where the frontends agree on the members of accounts, for hosts with sticky: claim. Changes take a restart.
	Claims claims.Config `yaml:"claims"`
	// Admin is the operator's door. Changes take a restart.
	Admin admin.Config `yaml:"admin"`
	// Log says what is logged to the standard error stream.
	Log Log `yaml:"log"`

	// Path is the file this was read from.
	Path string `yaml:"-"`
	// Warnings deserve a look, and keep nothing from working.
	Warnings Faults `yaml:"-"`

	root *yaml.Node // of the file
}

// Place makes faults of what showed when the configuration was put to work, one a line: the text begins with the key,
// whose line is found.
func (c *Config) Place(err error) Faults {
	var faults Faults
	for _, text := range strings.Split(err.Error(), "\n") {
		key, rest := split(text)
		line := locate(c.root, key)
		if line == 0 {
			key, rest = "", text // what looks like a key is none
		}
		faults = append(faults, Fault{c.Path, line, key, rest})
	}
	return faults
}

// Log says what is logged to the standard error stream, where systemd's journal or a supervisor takes it up.
type Log struct {
	// Level is the least that is logged: debug, info (the default), warn or error. Sessions are logged at info. Of this
	// section only the level is taken over by a reload.
	Level string `yaml:"level"`
	// Format is text (the default: key=value) or json.
	Format string `yaml:"format"`
	// Time says whether lines carry the time: auto (the default: not when the journal, which has its own, reads them), on
	// or off.
	Time string `yaml:"time"`
	// Trace lists networks of clients whose words, and their backends' words, are logged until the login is done: to find
	// out why one mail program cannot log in. Passwords and tokens are left out, and so is what is no command: it may be
	// one.
	Trace []netip.Prefix `yaml:"trace"`
}

// Validate joins all faults; each begins with the key.
func (l *Log) Validate() error {
	var faults []error
	for _, f := range []struct {
		key, value string
		words      []string
	}{
		{"level", l.Level, []string{"debug", "info", "warn", "error"}},
		{"format", l.Format, []string{"text", "json"}},
		{"time", l.Time, []string{"auto", "on", "off"}},
	} {
		if f.value != "" && !slices.Contains(f.words, f.value) {
			faults = append(faults, fmt.Errorf("%s: %q is not one of %s", f.key, f.value, strings.Join(f.words, ", ")))
		}
	}
	return errors.Join(faults...)
}

// SlogLevel is Level for the log package.
func (l *Log) SlogLevel() slog.Level {
	switch l.Level {
	case "debug":
		return slog.LevelDebug
	case "warn":
		return slog.LevelWarn
	case "error":
		return slog.LevelError
	}
	return slog.LevelInfo
}

// complete fills in what only the machine knows.
func (c *Config) complete() {
	if c.Hostname != "" {
		return
	}
	c.Hostname = "localhost"
	if name, err := os.Hostname(); err == nil && name != "" {
		c.Hostname = name
	}
}

// Validate asks every section, and then looks at what only the sections together can have wrong.
func (c *Config) Validate() error {
	var faults []error
	section := func(prefix string, err error) {
		for _, e := range flatten(err) {
			faults = append(faults, fmt.Errorf("%s%w", prefix, e))
		}
	}
	if !hostname(c.Hostname) {
		faults = append(faults, fmt.Errorf("hostname: %q is not a DNS name, such as mail.example.com", c.Hostname))
	}
	section("directory.", c.Directory.Validate())
	section("", c.Config.Validate())
	section("domains.", c.Domains.Validate())
	for i := range c.Listeners {
		section(fmt.Sprintf("listeners[%d].", i), c.Listeners[i].Validate())
	}
	section("tls.", c.TLS.Validate())
	section("limits.", c.Limits.Validate())
	section("auth.", c.Auth.Validate())
	section("delivery.", c.Delivery.Validate())
	section("spool.", c.Spool.Validate())
	section("outgoing.", c.Outgoing.Validate())
	section("claims.", c.Claims.Validate())
	section("admin.", c.Admin.Validate())
	section("log.", c.Log.Validate())
	return errors.Join(append(faults, c.together()...)...)
}

// together finds what no section can see alone.
func (c *Config) together() []error {
	var faults []error
	if len(c.Hosts) == 0 {
		faults = append(faults, errors.New("hosts: at least one is needed: the names that accounts have as their home host, and their addresses"))
	}
	if len(c.Listeners) == 0 {
		faults = append(faults, errors.New("listeners: at least one is needed, such as {service: imap, address: \":143\"}"))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Hosts)) {
		if c.Hosts[name].Sticky == "claim" && !c.Claims.Given() {
			faults = append(faults, fmt.Errorf("hosts.%s.sticky: claim needs the section claims: where the frontends agree", name))
		}
	}
	faults = append(faults, c.sockets()...)
	for i, l := range c.Listeners {
		key := fmt.Sprintf("listeners[%d]", i)
		if len(c.TLS.Certificates) > 0 {
			continue
		}
		switch {
		case l.TLS == proxy.TLSImplicit:
			faults = append(faults, fmt.Errorf("%s.tls: implicit TLS needs a certificate; give one in tls.certificates", key))
		case !l.AllowPlaintext && len(l.ProxyProtocol) == 0 && !l.TakesMail():
			faults = append(faults, fmt.Errorf("%s: nobody could log in: there is no certificate in tls.certificates for STARTTLS, "+
				"and allow_plaintext is not set", key))
		}
	}
	return append(append(faults, c.external()...), c.wayOut()...)
}

// sockets finds the addresses that cannot be listened on beside each other.
func (c *Config) sockets() []error {
	type socket struct{ key, host string }
	var faults []error
	taken := make(map[int][]socket)
	take := func(key, address string) {
		host, port, ok := endpoint(address)
		if !ok || port == 0 {
			return // told by its section, or chosen by the system
		}
		for _, other := range taken[port] {
			switch {
			case other.host == host:
				faults = append(faults, fmt.Errorf("%s: %s is that of %s, too", key, address, other.key))
			case other.host == "":
				faults = append(faults, fmt.Errorf("%s: %s has every address at port %d already; remove one of them, or name its address", key, other.key, port))
			case host == "":
				faults = append(faults, fmt.Errorf("%s: every address at port %d, and %s has one of them; remove one of them, or name the address", key, port, other.key))
			default:
				continue
			}
			return
		}
		taken[port] = append(taken[port], socket{key, host})
	}
	for i, l := range c.Listeners {
		take(fmt.Sprintf("listeners[%d].address", i), l.Address)
	}
	take("admin.http", c.Admin.HTTP)
	return faults
}

// endpoint takes an address apart: "" is every address of the machine, however that is written.
func endpoint(address string) (host string, port int, ok bool) {
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, false
	}
	if port, err = net.LookupPort("tcp", service); err != nil {
		return "", 0, false
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		host = ip.Unmap().String()
		if ip.IsUnspecified() {
			host = ""
		}
	}
	return strings.ToLower(host), port, true
}

// external is what the mechanism EXTERNAL needs of the other sections.
func (c *Config) external() []error {
	if !slices.ContainsFunc(c.Auth.Mechanisms, func(m string) bool { return strings.EqualFold(m, "external") }) {
		return nil
	}
	var faults []error
	if c.TLS.ClientCAFile == "" {
		faults = append(faults, errors.New("auth.mechanisms: external needs tls.client_ca_file, which client certificates are verified by"))
	}
	if !c.mastered() {
		faults = append(faults, errors.New("auth.mechanisms: external needs a host with login: master, as there is no password to pass on"))
	}
	return faults
}

// mastered says whether the frontend logs in as a master user anywhere.
func (c *Config) mastered() bool {
	if c.Backend.Login == "master" {
		return true
	}
	for _, h := range c.Hosts {
		if h.Login == "master" || slices.ContainsFunc(h.Members, func(m backend.MemberConfig) bool { return m.Login == "master" }) {
			return true
		}
	}
	return false
}

// wayOut is what the service outgoing needs of the other sections.
func (c *Config) wayOut() []error {
	var faults []error
	for i, l := range c.Listeners {
		if l.Service != "outgoing" {
			continue
		}
		key := fmt.Sprintf("listeners[%d]", i)
		if len(c.Outgoing.Networks) == 0 {
			faults = append(faults, fmt.Errorf("%s: the service outgoing is for the backends: name their networks in outgoing.networks", key))
		}
		if len(c.Outgoing.Smarthosts) == 0 {
			faults = append(faults, fmt.Errorf("%s: the service outgoing needs outgoing.smarthosts, which take the mail for other sites", key))
		}
		if !c.Spool.Enabled() {
			faults = append(faults, fmt.Errorf("%s: the service outgoing needs a queue: spool.dir", key))
		}
	}
	if _, taken := c.Hosts[deliver.Outgoing]; taken && len(c.Outgoing.Smarthosts) > 0 {
		faults = append(faults, fmt.Errorf("hosts.%s: that name stands for the smarthosts of the section outgoing", deliver.Outgoing))
	}
	return faults
}

// advise is what works, and may still not be what was meant. Each text begins with the key.
func (c *Config) advise() []string {
	var advice []string
	if !strings.Contains(c.Hostname, ".") {
		advice = append(advice, fmt.Sprintf("hostname: %q has no domain; servers may object to it in EHLO", c.Hostname))
	}
	if c.Spool.Enabled() && len(c.Outgoing.Smarthosts) == 0 {
		advice = append(advice, "spool: without outgoing.smarthosts no sender at another site can be told that mail is late, or could not be delivered")
	}
	for i, l := range c.Listeners {
		if l.AllowPlaintext && !loopback(l.Address) {
			advice = append(advice, fmt.Sprintf("listeners[%d].allow_plaintext: passwords may come over the network in the clear at %s", i, l.Address))
		}
	}
	return advice
}

// loopback says whether an address is of this machine alone.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// hostname says whether a name can stand in a greeting.
func hostname(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	for _, label := range strings.Split(name, ".") {
		if label == "" || len(label) > 63 || strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-") {
			return false
		}
		for _, r := range label {
			if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_') {
				return false
			}
		}
	}
	return true
}

// Services lists the services that backends are asked for, each once, in order: those of the listeners, but for messages
// the protocols by which they are delivered.
func (c *Config) Services() []string {
	var list []string
	for _, l := range c.Listeners {
		if l.TakesMail() {
			list = append(list, c.Delivery.Services()...)
		} else {
			list = append(list, l.Service)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}
