package backend

import (
	"net/netip"
	"strings"
	"time"
)

// Config is the host table of the configuration file, and the defaults that hold for every host.
type Config struct {
	// Hosts are the rows of the table, by the name that accounts have in hostServer. Names are compared without case.
	Hosts map[string]HostConfig `yaml:"hosts"`
	// Backend holds what is true of every host that does not say otherwise.
	Backend Defaults `yaml:"backend"`
}

// Defaults are the settings for every host, and the bounds of all checks together.
type Defaults struct {
	Settings `yaml:",inline"`

	// MaxChecks is how many checks may be under way at once, over all members: 128 when absent.
	MaxChecks int `yaml:"max_checks"`
	// ChecksPerSecond bounds the rate of all checks: 1000 when absent. A table whose members times services would need
	// more is checked less often than check.interval says; status says how much.
	ChecksPerSecond int `yaml:"checks_per_second"`
	// DNSServers are asked for members' names and SRV records in place of the system's resolver, one after the other until
	// one answers: "10.0.0.53", "127.0.0.1:8600".
	DNSServers []string `yaml:"dns_servers"`
}

// HostConfig is one row: a name and its members. What it does not set is taken from the section backend.
type HostConfig struct {
	// Members serve the host: one for a static backend, several for a dynamic cluster.
	Members []MemberConfig `yaml:"members"`
	// Sticky says how an account finds its member: hash (the default: always the same one while it is in service), claim
	// (the same, but all frontends agree through etcd before an account changes its member: see the section claims), or
	// none (the member with the fewest sessions for its weight; least is another word for it).
	Sticky string `yaml:"sticky"`

	Settings `yaml:",inline"`
}

// MemberConfig is one member, or one source of members. In YAML it is written as a string, the address, or as a map.
// Exactly one of address, dns, srv and directory is given.
type MemberConfig struct {
	// Address is an IP address or a DNS name, with or without a port: "10.0.0.11", "10.0.0.11:1143", "[2001:db8::1]:143",
	// "store1.example.com". A name is looked up when a session needs it, and all its addresses are tried. A port here
	// is that of every service, and stands before the ports of the host and of the section backend.
	Address string `yaml:"address"`
	// DNS is a name each of whose addresses (A, AAAA) is a member of its own. It is looked up again every refresh.
	DNS string `yaml:"dns"`
	// SRV is a domain whose SRV records list the members, with their priorities, weights and ports: "example.com" asks
	// for _imap._tcp.example.com and so on, "_imap._tcp.example.com" for that record alone.
	SRV string `yaml:"srv"`
	// Directory is the DN of an entry that lists the members, one a value of the attribute: "10.0.1.1",
	// "10.0.1.2:1143 weight=2 priority=1 name=n2".
	Directory string `yaml:"directory"`
	// Attribute is the attribute of a directory entry: ipHostNumber when absent.
	Attribute string `yaml:"attribute"`
	// Refresh is how often a source is asked again: 30s when absent.
	Refresh time.Duration `yaml:"refresh"`

	// Name is what operators and the hash call the member: the address when absent. Frontends agree on the member of an
	// account only if they call the members alike. At another address it is another server, whatever its name: accounts
	// leave the old one at their next login, on each frontend when that has been told, so give a new server a new name.
	Name string `yaml:"name"`
	// Weight is the member's share of the accounts or sessions beside the other members, 0 to 1000: 1 when absent. A
	// member of weight 0 gets no new ones.
	Weight *int `yaml:"weight"`
	// Priority ranks members: those of a higher number serve only while no member of a lower one does. 0 when absent.
	Priority int `yaml:"priority"`

	Settings `yaml:",inline"`
}

// UnmarshalYAML takes an address in place of the map. The function is the form of the YAML package that keeps unknown
// keys an error.
func (m *MemberConfig) UnmarshalYAML(unmarshal func(any) error) error {
	var address string
	if unmarshal(&address) == nil {
		*m = MemberConfig{Address: address}
		return nil
	}
	type plain MemberConfig
	return unmarshal((*plain)(m))
}

// Settings can be set for every host (section backend), for one host, and for one member; the nearest one counts, key
// by key. Absent everywhere means the default named here.
type Settings struct {
	// Ports are the ports of the services. Those absent are the standard ones: imap 143, pop3 110, submission 587, sieve
	// 4190, lmtp 24, smtp 25; with implicit TLS imap 993, pop3 995, submission 465.
	Ports map[string]int `yaml:"ports"`

	// Local is this machine's own backend, for members whose address is that of our own listener: there every server is
	// frontend and backend, and the host table names the frontends. Dialing ourselves is refused as a loop without it.
	Local LocalConfig `yaml:"local"`

	// TLS is off (the default), starttls or implicit.
	TLS string `yaml:"tls"`
	// TLSServices is TLS for single services where it differs: {lmtp: off}.
	TLSServices map[string]string `yaml:"tls_services"`
	// TLSServerName is the name that the member's certificate is verified against: by default the member's DNS name if
	// its address is one, and else the name of the host.
	TLSServerName string `yaml:"tls_server_name"`
	// TLSCAFile holds the certificates of the authorities that members' certificates are signed by, in PEM: those of the
	// system when absent.
	TLSCAFile string `yaml:"tls_ca_file"`
	// TLSCertFile and TLSKeyFile are the certificate that this frontend shows to members, in PEM: none when absent.
	TLSCertFile string `yaml:"tls_cert_file"`
	// TLSKeyFile is the key of TLSCertFile.
	TLSKeyFile string `yaml:"tls_key_file"`

	// Login is forward (the default: the client's credentials are passed on) or master (the password is checked here,
	// and the frontend logs in as a master user).
	Login string `yaml:"login"`
	// Master is the master user for login: master.
	Master MasterConfig `yaml:"master"`
	// Identity says whether members are told who the client is (IMAP ID, XCLIENT): auto (the default, where the member
	// offers it) or off.
	Identity string `yaml:"identity"`
	// ProxyProtocol is the PROXY header that members expect in front of each connection: off (the default), v1 or v2.
	ProxyProtocol string `yaml:"proxy_protocol"`

	// ConnectTimeout bounds the connect to one address of a member: 5s when absent.
	ConnectTimeout time.Duration `yaml:"connect_timeout"`
	// GreetingTimeout bounds the time from the connect to the first word of a member, where the host has another one that
	// can be tried instead: 3s when absent. The only member of a host is waited for as long as limits.hand_over_timeout says,
	// or with a message as long as delivery.member_timeout says.
	GreetingTimeout time.Duration `yaml:"greeting_timeout"`
	// SourceAddresses are the local addresses to connect from, in turn: the system chooses when absent. One address has
	// some 28,000 ports to one port of a member.
	SourceAddresses []netip.Addr `yaml:"source_addresses"`
	// MaxConnecting is how many connects to one member may be under way at once: 64 when absent. Others wait for their
	// turn, so that a dead member does not eat the frontend.
	MaxConnecting int `yaml:"max_connecting"`

	// Breaker keeps sessions off a member that fails them.
	Breaker BreakerConfig `yaml:"breaker"`
	// Check says how members are checked.
	Check CheckConfig `yaml:"check"`
}

// LocalConfig is the backend behind our own listeners.
type LocalConfig struct {
	// Address is its IP address: that of the member when absent.
	Address string `yaml:"address"`
	// Ports are the ports of its services. A service that is not listed here is refused as a loop.
	Ports map[string]int `yaml:"ports"`
	// TLS is off (the default), starttls or implicit, and stands in place of tls and tls_services.
	TLS string `yaml:"tls"`
}

// MasterConfig is the user that logs in for accounts whose password was checked here.
type MasterConfig struct {
	// User is the name of the master user.
	User string `yaml:"user"`
	// PasswordFile holds its password; a line end behind it is left out.
	PasswordFile string `yaml:"password_file"`
	// Format is how the account is named beside the master user: authzid (the default: SASL PLAIN with an authorization
	// identity) or separator (the login name is account, separator, master user).
	Format string `yaml:"format"`
	// Separator is for the format separator: "*" when absent.
	Separator string `yaml:"separator"`
}

// BreakerConfig says when a member that fails sessions gets no more of them, and when it is tried again.
type BreakerConfig struct {
	// Failures is how many sessions in a row have to fail: 3 when absent.
	Failures int `yaml:"failures"`
	// Hold is the first pause, after which one session is let through to find out; it doubles with each that fails, up
	// to max_hold: 1s when absent.
	Hold time.Duration `yaml:"hold"`
	// MaxHold is the longest pause: 30s when absent.
	MaxHold time.Duration `yaml:"max_hold"`
}

// CheckConfig says how the members are checked between sessions.
type CheckConfig struct {
	// Mode is on (the default) or off: then only sessions show how a member is.
	Mode string `yaml:"mode"`
	// Interval is the time between two checks of one service of a member: 2s when absent. A service that is down is
	// checked four times as often, and while checks are on their way to fall or rise, eight times.
	Interval time.Duration `yaml:"interval"`
	// Timeout bounds one check from the connect to the end of its dialogue: 2s when absent.
	Timeout time.Duration `yaml:"timeout"`
	// Rise is how many checks in a row have to succeed for a service that is down to be up: 2 when absent.
	Rise int `yaml:"rise"`
	// Fall is how many checks in a row have to fail for a service to be down: 3 when absent.
	Fall int `yaml:"fall"`
	// SlowStart is how long a member that comes back takes to get its full share: 30s when absent. It holds for sticky:
	// none; with hash the frontends would disagree meanwhile.
	SlowStart time.Duration `yaml:"slow_start"`
	// User logs in during checks, where the protocol's check can: no login when absent.
	User string `yaml:"user"`
	// PasswordFile holds the password of User.
	PasswordFile string `yaml:"password_file"`
	// AgentPort is the port of an agent on each member that reports its load by HAProxy's agent-check protocol ("up 75%",
	// "drain", "maint"): no agent when absent.
	AgentPort int `yaml:"agent_port"`
	// AgentSend is a text to send to the agent first; a line end is added. Nothing is sent when absent.
	AgentSend string `yaml:"agent_send"`
}

// builtin is what holds when the configuration is silent.
func builtin() Settings {
	return Settings{
		TLS:             "off",
		Local:           LocalConfig{TLS: "off"},
		Login:           "forward",
		Master:          MasterConfig{Format: "authzid", Separator: "*"},
		Identity:        "auto",
		ProxyProtocol:   "off",
		ConnectTimeout:  5 * time.Second,
		GreetingTimeout: 3 * time.Second,
		MaxConnecting:   64,
		Breaker:         BreakerConfig{Failures: 3, Hold: time.Second, MaxHold: 30 * time.Second},
		Check: CheckConfig{
			Mode:      "on",
			Interval:  2 * time.Second,
			Timeout:   2 * time.Second,
			Rise:      2,
			Fall:      3,
			SlowStart: 30 * time.Second,
		},
	}
}

const (
	defaultMaxChecks       = 128
	defaultChecksPerSecond = 1000
	defaultRefresh         = 30 * time.Second
	defaultAttribute       = "ipHostNumber"
	maxWeight              = 1000
)

// under lays s over base: what s does not set is taken from base, key by key.
func (s Settings) under(base Settings) Settings {
	out := s
	out.Ports = mergeMaps(base.Ports, s.Ports)
	out.TLSServices = mergeMaps(base.TLSServices, s.TLSServices)
	if s.TLS != "" && len(base.TLSServices) > 0 {
		// A nearer word on TLS as a whole stands before a farther one on single services.
		out.TLSServices = s.TLSServices
	}
	or(&out.Local.Address, base.Local.Address)
	or(&out.Local.TLS, base.Local.TLS)
	out.Local.Ports = mergeMaps(base.Local.Ports, s.Local.Ports)
	or(&out.TLS, base.TLS)
	or(&out.TLSServerName, base.TLSServerName)
	or(&out.TLSCAFile, base.TLSCAFile)
	if s.TLSCertFile == "" && s.TLSKeyFile == "" {
		out.TLSCertFile, out.TLSKeyFile = base.TLSCertFile, base.TLSKeyFile
	}
	or(&out.Login, base.Login)
	or(&out.Master.User, base.Master.User)
	or(&out.Master.PasswordFile, base.Master.PasswordFile)
	or(&out.Master.Format, base.Master.Format)
	or(&out.Master.Separator, base.Master.Separator)
	or(&out.Identity, base.Identity)
	or(&out.ProxyProtocol, base.ProxyProtocol)
	or(&out.ConnectTimeout, base.ConnectTimeout)
	or(&out.GreetingTimeout, base.GreetingTimeout)
	if len(s.SourceAddresses) == 0 {
		out.SourceAddresses = base.SourceAddresses
	}
	or(&out.MaxConnecting, base.MaxConnecting)
	or(&out.Breaker.Failures, base.Breaker.Failures)
	or(&out.Breaker.Hold, base.Breaker.Hold)
	or(&out.Breaker.MaxHold, base.Breaker.MaxHold)
	or(&out.Check.Mode, base.Check.Mode)
	or(&out.Check.Interval, base.Check.Interval)
	or(&out.Check.Timeout, base.Check.Timeout)
	or(&out.Check.Rise, base.Check.Rise)
	or(&out.Check.Fall, base.Check.Fall)
	or(&out.Check.SlowStart, base.Check.SlowStart)
	if s.Check.User == "" {
		out.Check.User, out.Check.PasswordFile = base.Check.User, base.Check.PasswordFile
	}
	or(&out.Check.AgentPort, base.Check.AgentPort)
	or(&out.Check.AgentSend, base.Check.AgentSend)
	return out
}

// or keeps a value that is set, and takes the base's otherwise.
func or[T comparable](v *T, base T) {
	var zero T
	if *v == zero {
		*v = base
	}
}

// mergeMaps is base with what over says, sharing base when over says nothing.
func mergeMaps[V any](base, over map[string]V) map[string]V {
	if len(over) == 0 {
		return base
	}
	merged := make(map[string]V, len(base)+len(over))
	for k, v := range base {
		merged[k] = v
	}
	for k, v := range over {
		merged[k] = v
	}
	return merged
}

// canonical is a host's name as the table keeps it: in lower case, without the dot of an absolute DNS name.
func canonical(name string) string {
	return strings.ToLower(strings.TrimSuffix(name, "."))
}
