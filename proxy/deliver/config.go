package deliver

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

// Config is the section delivery: how messages are taken in by the services lmtp and smtp, and handed to members.
type Config struct {
	// Protocol is what members are spoken to for deliveries: lmtp (the default) or smtp. The port is backend.ports.lmtp or
	// backend.ports.smtp.
	Protocol string `yaml:"protocol"`
	// Protocols is Protocol for single hosts where it differs: {post.example.com: smtp}.
	Protocols map[string]string `yaml:"protocols"`
	// LocalDomains are the domains that mail is taken for; others are refused with 550 5.7.1 before the directory is
	// asked. Alias domains count as the domain they stand for. Absent: the directory decides, and what it does not know is
	// refused with 550 5.1.1.
	LocalDomains []string `yaml:"local_domains"`
	// Postmaster takes the mail for postmaster of the local domains, and for postmaster without a domain, that the directory
	// has no account for (RFC 5321 section 4.5.1): an address that it knows.
	Postmaster string `yaml:"postmaster"`
	// BareNewlines says what happens to messages with a CR or an LF that stands alone: refuse (the default) or repair,
	// which makes CRLF of each. Neither ever ends a message.
	BareNewlines string `yaml:"bare_newlines"`
	// MaxSize is the largest message in bytes: 52428800 when absent.
	MaxSize int64 `yaml:"max_size"`
	// MaxRecipients is the most recipients of one transaction: 1000 when absent.
	MaxRecipients int `yaml:"max_recipients"`
	// MaxHops is how many servers a message may have passed: 50 when absent.
	MaxHops int `yaml:"max_hops"`
	// MessagesPerMinute bounds the messages from one client address on the service smtp: 600 when absent. limits.exempt
	// names the networks that it does not hold for.
	MessagesPerMinute int `yaml:"messages_per_minute"`
	// GreetingDelay is how long the service smtp waits before its greeting: not at all when absent. A client that talks
	// meanwhile is no mail server, and is refused.
	GreetingDelay time.Duration `yaml:"greeting_delay"`
	// ClientTimeout is how long a client may be silent between commands, and within a message: 5m when absent.
	ClientTimeout time.Duration `yaml:"client_timeout"`
	// MemberTimeout bounds a delivery to one member, from its connection to its answer: 2m when absent.
	MemberTimeout time.Duration `yaml:"member_timeout"`
	// IdleConnections is how many connections to one member are kept for the next message: 8 when absent.
	IdleConnections int `yaml:"idle_connections"`
	// IdleTimeout is how long they are kept: 20s when absent.
	IdleTimeout time.Duration `yaml:"idle_timeout"`
	// MemoryPerMessage is how much of a message is held in memory, in bytes, before it goes into a file without a name:
	// 262144 when absent.
	MemoryPerMessage int64 `yaml:"memory_per_message"`
	// Memory is that for all messages together: 134217728 when absent.
	Memory int64 `yaml:"memory"`
	// TempDir is where those files are: the system's directory for temporary files when absent.
	TempDir string `yaml:"temp_dir"`
}

// WithDefaults fills in what is absent.
func (c Config) WithDefaults() Config {
	c.Protocol = cmp.Or(c.Protocol, "lmtp")
	c.BareNewlines = cmp.Or(c.BareNewlines, "refuse")
	c.MaxSize = cmp.Or(c.MaxSize, 50<<20)
	c.MaxRecipients = cmp.Or(c.MaxRecipients, 1000)
	c.MaxHops = cmp.Or(c.MaxHops, 50)
	c.MessagesPerMinute = cmp.Or(c.MessagesPerMinute, 600)
	c.ClientTimeout = cmp.Or(c.ClientTimeout, 5*time.Minute)
	c.MemberTimeout = cmp.Or(c.MemberTimeout, 2*time.Minute)
	c.IdleConnections = cmp.Or(c.IdleConnections, 8)
	c.IdleTimeout = cmp.Or(c.IdleTimeout, 20*time.Second)
	c.MemoryPerMessage = cmp.Or(c.MemoryPerMessage, 256<<10)
	c.Memory = cmp.Or(c.Memory, 128<<20)
	c.TempDir = cmp.Or(c.TempDir, os.TempDir())
	return c
}

// Validate joins all faults; each begins with the key.
func (c *Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	word := func(key, value string, words ...string) {
		if value != "" && !slices.Contains(words, value) {
			fault("%s: %q is not %s", key, value, strings.Join(words, " or "))
		}
	}
	number := func(key string, v, least, most int64) {
		if v != 0 && (v < least || v > most) {
			fault("%s: %d is not between %d and %d; leave it out for the default", key, v, least, most)
		}
	}
	span := func(key string, v, least, most time.Duration) {
		if v != 0 && (v < least || v > most) {
			fault("%s: %s is not between %s and %s; leave it out for the default", key, v, least, most)
		}
	}
	word("protocol", c.Protocol, "lmtp", "smtp")
	for _, host := range slices.Sorted(maps.Keys(c.Protocols)) {
		if p := c.Protocols[host]; p != "lmtp" && p != "smtp" {
			fault("protocols.%s: %q is not lmtp or smtp", host, p)
		}
	}
	for i, d := range c.LocalDomains {
		if d == "" || d != strings.ToLower(strings.TrimSuffix(d, ".")) || strings.ContainsAny(d, "@ ") {
			fault("local_domains[%d]: %q is not a domain in lower case without a trailing dot", i, d)
		}
	}
	word("bare_newlines", c.BareNewlines, "refuse", "repair")
	number("max_size", c.MaxSize, 64<<10, 1<<40)
	number("max_recipients", int64(c.MaxRecipients), 100, 100_000) // RFC 5321 section 4.5.3.1.8
	number("max_hops", int64(c.MaxHops), 10, 1000)
	number("messages_per_minute", int64(c.MessagesPerMinute), 1, 1_000_000)
	span("greeting_delay", c.GreetingDelay, 100*time.Millisecond, time.Minute)
	span("client_timeout", c.ClientTimeout, time.Second, time.Hour)
	span("member_timeout", c.MemberTimeout, 100*time.Millisecond, time.Hour)
	number("idle_connections", int64(c.IdleConnections), 1, 1000)
	span("idle_timeout", c.IdleTimeout, 10*time.Millisecond, 10*time.Minute)
	number("memory_per_message", c.MemoryPerMessage, 4096, 1<<30)
	number("memory", c.Memory, 1<<20, 1<<40)
	if c.TempDir != "" {
		if st, err := os.Stat(c.TempDir); err != nil || !st.IsDir() {
			fault("temp_dir: %s is not a directory; make it, or leave the key out", c.TempDir)
		}
	}
	return errors.Join(faults...)
}

// ProtocolOf is the protocol for a host.
func (c *Config) ProtocolOf(host string) string {
	if p := c.Protocols[host]; p != "" {
		return p
	}
	return c.Protocol
}

// Services are the protocols that members are spoken to, each once: those that their checks have to look at.
func (c *Config) Services() []string {
	list := []string{c.WithDefaults().Protocol}
	for _, p := range c.Protocols {
		list = append(list, p)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// Local says whether mail is taken for a domain.
func (c *Config) Local(domain string) bool {
	return len(c.LocalDomains) == 0 || slices.Contains(c.LocalDomains, domain)
}
