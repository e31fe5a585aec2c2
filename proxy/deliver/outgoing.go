package deliver

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"mailmux/proxy/backend"
)

// OutgoingConfig is the section outgoing: the way out for what the backends send by themselves, such as forwarded mail, by
// the service outgoing, and for notifications to senders at other sites. Without smarthosts nothing leaves.
type OutgoingConfig struct {
	// Networks are those of the backends: [10.0.0.0/24]. From these alone the service outgoing takes mail, judged by the
	// address that connects, or that a listed proxy in front names. Whoever is in one of them can send mail to anybody.
	Networks []netip.Prefix `yaml:"networks"`
	// Smarthosts are the servers that take mail for other sites: those of recipients that the directory does not know.
	Smarthosts []SmarthostConfig `yaml:"smarthosts"`
	// Choice says which smarthost takes a message: order (the default: the first one that can be reached, as they stand) or
	// weight (all of them, by their weight).
	Choice string `yaml:"choice"`
}

// SmarthostConfig is one smarthost. In YAML it is written as a string, the address, or as a map.
type SmarthostConfig struct {
	// Address is a DNS name or an IP address, with or without a port: "relay.example.net", "relay.example.net:587",
	// "10.0.0.25". The port is 25 when absent, with implicit TLS 465.
	Address string `yaml:"address"`
	// Weight is the smarthost's share with choice: weight, 1 to 1000: 1 when absent.
	Weight int `yaml:"weight"`
	// TLS is starttls (the default), implicit or off. The certificate is verified: a smarthost that has none that is valid
	// gets nothing.
	TLS string `yaml:"tls"`
	// TLSServerName is the name that the certificate is verified against: the name of the address when absent.
	TLSServerName string `yaml:"tls_server_name"`
	// TLSCAFile holds the certificates of the authorities that the certificate is signed by, in PEM: those of the system
	// when absent.
	TLSCAFile string `yaml:"tls_ca_file"`
	// User logs in there (AUTH PLAIN or LOGIN): no login when absent.
	User string `yaml:"user"`
	// PasswordFile holds the password of User; a line end behind it is left out.
	PasswordFile string `yaml:"password_file"`
}

// UnmarshalYAML takes an address in place of the map. The function is the form of the YAML package that keeps unknown
// keys an error.
func (s *SmarthostConfig) UnmarshalYAML(unmarshal func(any) error) error {
	var address string
	if unmarshal(&address) == nil {
		*s = SmarthostConfig{Address: address}
		return nil
	}
	type plain SmarthostConfig
	return unmarshal((*plain)(s))
}

// Outgoing is the name of the smarthosts where home hosts have theirs: in the queue, its commands and its metrics.
const Outgoing = "outgoing"

// Validate joins all faults; each begins with the key.
func (c *OutgoingConfig) Validate() error {
	var faults []error
	for i, n := range c.Networks {
		if n.Bits() == 0 {
			faults = append(faults, fmt.Errorf("networks[%d]: %s is everybody: that is an open relay", i, n))
		}
	}
	if c.Choice != "" && c.Choice != "order" && c.Choice != "weight" {
		faults = append(faults, fmt.Errorf("choice: %q is not order or weight", c.Choice))
	}
	seen := map[string]int{}
	for i := range c.Smarthosts {
		s := &c.Smarthosts[i]
		key := fmt.Sprintf("smarthosts[%d]", i)
		for _, err := range s.faults(c.Choice == "weight") {
			faults = append(faults, fmt.Errorf("%s.%w", key, err))
		}
		if other, dup := seen[s.Address]; dup {
			faults = append(faults, fmt.Errorf("%s.address: %s is that of smarthosts[%d], too", key, s.Address, other))
		}
		seen[s.Address] = i
	}
	return errors.Join(faults...)
}

// faults are what is wrong with one smarthost.
func (s *SmarthostConfig) faults(weighted bool) (faults []error) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	table := backend.Config{Hosts: map[string]backend.HostConfig{"smarthost": {Members: []backend.MemberConfig{{Address: s.Address}}}}}
	if err := table.Validate(); s.Address == "" || err != nil {
		fault("address: %q is not a DNS name or an IP address, with or without a port, such as relay.example.net:587", s.Address)
	}
	if !slices.Contains([]string{"", "starttls", "implicit", "off"}, s.TLS) {
		fault("tls: %q is not starttls, implicit or off", s.TLS)
	}
	switch {
	case s.Weight != 0 && !weighted:
		fault("weight: it means nothing without choice: weight")
	case s.Weight < 0 || s.Weight > 1000:
		fault("weight: %d is not between 1 and 1000", s.Weight)
	}
	ip, isIP := s.ip()
	switch {
	case isIP && s.TLS != "off" && s.TLSServerName == "":
		fault("tls_server_name: missing: a certificate is verified against a name, and %s is none; say tls: off where there is no TLS", s.Address)
	case s.User != "" && s.TLS == "off" && !(isIP && ip.IsLoopback()):
		fault("tls: off would send the password of %s in the clear", s.User)
	}
	if (s.User == "") != (s.PasswordFile == "") {
		fault("password_file: user and password_file go together")
	}
	return faults
}

// ip is the address, if it is no name.
func (s *SmarthostConfig) ip() (netip.Addr, bool) {
	if at, err := netip.ParseAddrPort(s.Address); err == nil {
		return at.Addr(), true
	}
	a, err := netip.ParseAddr(strings.Trim(s.Address, "[]"))
	return a, err == nil
}

// pause is how long a smarthost may wait before it greets: servers that are open to strangers do, to see who talks before it
// is asked.
const pause = 30 * time.Second

// table is the host table of the smarthosts: one host, whose members they are. They are not checked between messages:
// other people's servers are not to be greeted every two seconds.
func (c *OutgoingConfig) table() backend.Config {
	if len(c.Smarthosts) == 0 {
		return backend.Config{}
	}
	host := backend.HostConfig{Sticky: "none", Settings: backend.Settings{Identity: "off", Check: backend.CheckConfig{Mode: "off"},
		GreetingTimeout: pause}}
	if c.Choice == "weight" {
		host.Sticky = "hash" // of a key that is drawn for each recipient: least sessions would mean the heaviest one while little is sent
	}
	for i := range c.Smarthosts {
		s := &c.Smarthosts[i]
		m := backend.MemberConfig{Address: s.Address, Name: s.Address, Settings: backend.Settings{
			TLS: s.TLS, TLSServerName: s.TLSServerName, TLSCAFile: s.TLSCAFile}}
		if s.TLS == "" {
			m.TLS = "starttls"
		}
		if _, _, err := net.SplitHostPort(s.Address); err != nil && s.TLS == "implicit" { // no port
			m.Ports = map[string]int{"smtp": 465}
		}
		if c.Choice == "weight" {
			weight := max(s.Weight, 1)
			m.Weight = &weight
		} else {
			m.Priority = i
		}
		host.Members = append(host.Members, m)
	}
	return backend.Config{Hosts: map[string]backend.HostConfig{Outgoing: host}}
}
