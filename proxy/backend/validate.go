package backend

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Validate reports every fault at once. Each fault's text begins with the key it concerns.
func (c Config) Validate() error {
	errs := c.Backend.validate("backend")
	base := c.Backend.Settings.under(builtin())
	said := make(map[string]bool) // contradictions told at a level above the members that they show at
	seen := make(map[string]string, len(c.Hosts))
	for _, name := range slices.Sorted(maps.Keys(c.Hosts)) {
		key := "hosts." + name
		errs = append(errs, checkHostName(key, name)...)
		if other, dup := seen[canonical(name)]; dup {
			errs = append(errs, fmt.Errorf("%s: is the same host as %s, names are compared without case", key, other))
		}
		seen[canonical(name)] = name
		errs = append(errs, c.Hosts[name].validate(key)...)
		errs = append(errs, c.Hosts[name].contradictions(key, base, said)...)
	}
	return errors.Join(errs...)
}

func checkHostName(key, name string) []error {
	if canonical(name) == "" {
		return []error{fmt.Errorf("%s: a host needs a name", strings.TrimSuffix(key, "."))}
	}
	if strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == '/' || r == 0x7f }) {
		return []error{fmt.Errorf("hosts: %q: a host's name has no blanks, slashes or control characters", name)}
	}
	return nil
}

func (d Defaults) validate(key string) []error {
	errs := d.Settings.validate(key)
	if d.TLSServerName != "" {
		errs = append(errs, fmt.Errorf("%s.tls_server_name: belongs to one host or member, each has a name of its own", key))
	}
	for i, server := range d.DNSServers {
		if _, err := parseServer(server); err != nil {
			errs = append(errs, fmt.Errorf("%s.dns_servers[%d]: %w", key, i, err))
		}
	}
	return append(errs, notNegative(key+".max_checks", d.MaxChecks), notNegative(key+".checks_per_second", d.ChecksPerSecond))
}

func (h HostConfig) validate(key string) []error {
	errs := h.Settings.validate(key)
	switch h.Sticky {
	case "", "hash", "claim", "none", "least":
	default:
		errs = append(errs, fmt.Errorf("%s.sticky: must be hash, claim, none or least, got %q", key, h.Sticky))
	}
	if len(h.Members) == 0 {
		errs = append(errs, fmt.Errorf("%s.members: a host needs a member", key))
	}
	names := make(map[string]int, len(h.Members))
	for i, m := range h.Members {
		mkey := fmt.Sprintf("%s.members[%d]", key, i)
		errs = append(errs, m.validate(mkey)...)
		name := m.name()
		if name == "" {
			continue
		}
		if first, dup := names[name]; dup {
			errs = append(errs, fmt.Errorf("%s: has the same name as members[%d], %q", mkey, first, name))
			continue
		}
		names[name] = i
	}
	return errs
}

// name is what a listed member is called: its name in the file, or else its address. Sources have none.
func (m MemberConfig) name() string {
	if m.Name != "" {
		return m.Name
	}
	return m.Address
}

func (m MemberConfig) validate(key string) []error {
	errs := m.Settings.validate(key)
	kinds := 0
	for _, kind := range []string{m.Address, m.DNS, m.SRV, m.Directory} {
		if kind != "" {
			kinds++
		}
	}
	if kinds != 1 {
		errs = append(errs, fmt.Errorf("%s: give one of address, dns, srv, directory", key))
	}
	if m.Address != "" {
		if _, err := parseAddress(m.Address); err != nil {
			errs = append(errs, fmt.Errorf("%s.address: %w", key, err))
		}
	} else if m.Name != "" {
		errs = append(errs, fmt.Errorf("%s.name: only a member with an address can be given a name", key))
	}
	if strings.ContainsFunc(m.Name, func(r rune) bool { return r <= ' ' || r == '/' || r == 0x7f }) {
		errs = append(errs, fmt.Errorf("%s.name: has no blanks, slashes or control characters", key))
	}
	if m.Weight != nil && (*m.Weight < 0 || *m.Weight > maxWeight) {
		errs = append(errs, fmt.Errorf("%s.weight: must be 0 to %d, got %d", key, maxWeight, *m.Weight))
	}
	if m.Attribute != "" && m.Directory == "" {
		errs = append(errs, fmt.Errorf("%s.attribute: only for members from the directory", key))
	}
	errs = append(errs, notNegative(key+".priority", m.Priority))
	return append(errs, notNegative(key+".refresh", m.Refresh))
}

// validate looks at each value alone.
func (s Settings) validate(key string) []error {
	errs := append(badPorts(key+".ports", s.Ports), s.Local.validate(key+".local")...)
	if s.TLS != "" {
		errs = append(errs, badMode(key+".tls", s.TLS))
	}
	for _, service := range slices.Sorted(maps.Keys(s.TLSServices)) {
		if _, ok := serviceIndex(service); !ok {
			errs = append(errs, fmt.Errorf("%s.tls_services.%s: no such service, there are %s", key, service, serviceNames()))
		}
		errs = append(errs, badMode(key+".tls_services."+service, s.TLSServices[service]))
	}
	if s.Check.AgentPort != 0 {
		errs = append(errs, badPort(key+".check.agent_port", s.Check.AgentPort))
	}
	errs = append(errs,
		oneOf(key+".login", s.Login, "forward", "master"),
		oneOf(key+".master.format", s.Master.Format, "authzid", "separator"),
		oneOf(key+".identity", s.Identity, "auto", "off"),
		oneOf(key+".proxy_protocol", s.ProxyProtocol, "off", "v1", "v2"),
		oneOf(key+".check.mode", s.Check.Mode, "on", "off"),
		notNegative(key+".connect_timeout", s.ConnectTimeout),
		notNegative(key+".greeting_timeout", s.GreetingTimeout),
		notNegative(key+".max_connecting", s.MaxConnecting),
		notNegative(key+".breaker.failures", s.Breaker.Failures),
		notNegative(key+".breaker.hold", s.Breaker.Hold),
		notNegative(key+".breaker.max_hold", s.Breaker.MaxHold),
		notNegative(key+".check.interval", s.Check.Interval),
		notNegative(key+".check.timeout", s.Check.Timeout),
		notNegative(key+".check.rise", s.Check.Rise),
		notNegative(key+".check.fall", s.Check.Fall),
		notNegative(key+".check.slow_start", s.Check.SlowStart),
	)
	if s.Check.Interval > 0 && s.Check.Interval < 10*time.Millisecond {
		errs = append(errs, fmt.Errorf("%s.check.interval: must be 10ms or more, got %s", key, s.Check.Interval))
	}
	if (s.TLSCertFile == "") != (s.TLSKeyFile == "") {
		errs = append(errs, fmt.Errorf("%s.tls_cert_file: a certificate and its tls_key_file are given together", key))
	}
	return errs
}

func (l LocalConfig) validate(key string) []error {
	errs := badPorts(key+".ports", l.Ports)
	if l.Address != "" {
		if a, err := parseAddress(l.Address); err != nil || a.name != "" || a.port != 0 {
			errs = append(errs, fmt.Errorf("%s.address: must be an IP address, got %q; the ports go into ports", key, l.Address))
		}
	}
	if l.TLS != "" {
		errs = append(errs, badMode(key+".tls", l.TLS))
	}
	return errs
}

// contradictions are the faults that only the settings as they hold for a member can have: each level may complete
// another. Each is told once, at the farthest level that has it.
func (h HostConfig) contradictions(key string, base Settings, said map[string]bool) []error {
	host := h.Settings.under(base)
	levels := []struct {
		key    string
		faults map[string]string
	}{{"backend", base.faults()}, {key, host.faults()}, {}}
	var errs []error
	for i, m := range h.Members {
		member := m.Settings.under(host).faults()
		levels[2].key, levels[2].faults = fmt.Sprintf("%s.members[%d]", key, i), member
		for _, sub := range slices.Sorted(maps.Keys(member)) {
			for _, level := range levels {
				text, has := level.faults[sub]
				if !has {
					continue
				}
				if at := level.key + sub; !said[at] {
					said[at] = true
					errs = append(errs, fmt.Errorf("%s: %s", at, text))
				}
				break
			}
		}
	}
	return errs
}

// faults looks at the settings as they hold, defaults included.
func (s Settings) faults() map[string]string {
	faults := make(map[string]string)
	if s.Login == "master" && (s.Master.User == "" || s.Master.PasswordFile == "") {
		faults[".master"] = "login: master needs master.user and master.password_file"
	}
	if s.Check.User != "" && s.Check.PasswordFile == "" {
		faults[".check.user"] = "a check that logs in needs check.password_file"
	}
	if s.Breaker.MaxHold < s.Breaker.Hold {
		faults[".breaker.max_hold"] = fmt.Sprintf("must not be less than breaker.hold, %s < %s", s.Breaker.MaxHold, s.Breaker.Hold)
	}
	return faults
}

func oneOf(key, value string, words ...string) error {
	if value == "" || slices.Contains(words, value) {
		return nil
	}
	return fmt.Errorf("%s: must be %s, got %q", key, strings.Join(words, " or "), value)
}

func notNegative[T int | time.Duration](key string, value T) error {
	if value >= 0 {
		return nil
	}
	return fmt.Errorf("%s: must be positive, got %v", key, value)
}

func badPort(key string, port int) error {
	if port >= 1 && port <= 65535 {
		return nil
	}
	return fmt.Errorf("%s: must be a port from 1 to 65535, got %d", key, port)
}

// badPorts looks at a map of services' ports.
func badPorts(key string, ports map[string]int) (errs []error) {
	for _, service := range slices.Sorted(maps.Keys(ports)) {
		if _, ok := serviceIndex(service); !ok {
			errs = append(errs, fmt.Errorf("%s.%s: no such service, there are %s", key, service, serviceNames()))
		}
		errs = append(errs, badPort(key+"."+service, ports[service]))
	}
	return errs
}

func badMode(key, word string) error {
	if _, err := parseMode(word); err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}
