package backend

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestValidateJoinsAllFaults(t *testing.T) {
	minus, many := -1, 2000
	cfg := Config{
		Backend: Defaults{Settings: Settings{TLS: "sometimes", Ports: map[string]int{"imap": 0, "http": 80},
			ConnectTimeout: -time.Second, TLSServerName: "x", Check: CheckConfig{Interval: time.Millisecond, Mode: "maybe", User: "probe"}}},
		Hosts: map[string]HostConfig{
			"a": {},
			"A": {Members: members("10.0.0.1", "10.0.0.1"), Sticky: "glue"},
			"b": {Members: []MemberConfig{
				{Address: "10.0.0.256", Weight: &minus},
				{Address: "10.0.0.1:99999", Weight: &many},
				{},
				{Address: "10.0.0.2", DNS: "x.example.com"},
				{DNS: "x.example.com", Name: "n", Attribute: "a"},
				{Address: "0.0.0.0", Priority: -1, Settings: Settings{TLSCertFile: "c.pem"}},
				{Address: "fine", Settings: Settings{Login: "master", Breaker: BreakerConfig{Hold: time.Hour}}},
			}},
			"a b": {Members: members("10.0.0.1")},
		},
	}
	err := cfg.Validate()
	if err == nil {
		t.Fatal("a configuration full of faults is valid")
	}
	got := strings.Split(err.Error(), "\n")
	for _, want := range []string{
		"backend.ports.http: no such service",
		"backend.ports.imap: must be a port",
		"backend.tls: must be off, starttls or implicit, got \"sometimes\"",
		"backend.connect_timeout: must be positive, got -1s",
		"backend.check.mode: must be on or off",
		"backend.check.interval: must be 10ms or more",
		"backend.check.user: a check that logs in needs",
		"backend.tls_server_name: belongs to",
		"hosts.a.members: a host needs a member",
		"hosts.a: is the same host as A",
		"hosts.A.sticky: must be hash, claim, none or least, got \"glue\"",
		"hosts.A.members[1]: has the same name as members[0]",
		"hosts.b.members[0].address: \"10.0.0.256\"",
		"hosts.b.members[0].weight: must be 0 to 1000, got -1",
		"hosts.b.members[1].address: \"10.0.0.1:99999\": port",
		"hosts.b.members[1].weight: must be 0 to 1000, got 2000",
		"hosts.b.members[2]: give one of",
		"hosts.b.members[3]: give one of",
		"hosts.b.members[4].name: only",
		"hosts.b.members[4].attribute: only",
		"hosts.b.members[5].address: \"0.0.0.0\": is not the address of a server",
		"hosts.b.members[5].priority: must be positive",
		"hosts.b.members[5].tls_cert_file: a certificate and its",
		"hosts.b.members[6].master: login: master needs",
		"hosts.b.members[6].breaker.max_hold: must not be less",
		"hosts: \"a b\": a host's name has no blanks",
	} {
		at := slices.IndexFunc(got, func(line string) bool { return strings.HasPrefix(line, want) })
		if at < 0 {
			t.Errorf("no fault begins with %q", want)
			continue
		}
		got = slices.Delete(got, at, at+1)
	}
	if len(got) > 0 {
		t.Errorf("faults that nobody expected:\n%s", strings.Join(got, "\n"))
	}
}

func TestTheConfigurationOfTheDesignIsValid(t *testing.T) {
	two := 2
	cfg := Config{
		Hosts: map[string]HostConfig{
			"back1.example.com": {Members: members("10.0.0.11")},
			"back2.example.com": {Members: members("10.0.0.12"), Settings: Settings{TLS: "starttls", Ports: map[string]int{"imap": 1143}}},
			"east.example.com":  {Members: []MemberConfig{{Address: "10.0.1.1", Weight: &two}, {Address: "10.0.1.2"}}, Sticky: "hash"},
		},
		Backend: Defaults{Settings: Settings{TLS: "off", Login: "forward", Identity: "auto", ProxyProtocol: "off",
			Ports: map[string]int{"imap": 143, "pop3": 110, "submission": 587, "sieve": 4190, "lmtp": 24}}},
	}
	if err := cfg.Validate(); err != nil {
		t.Error(err)
	}
	tab := table(t, cfg, Options{})
	m := host(t, tab, "back2.example.com").Member("10.0.0.12")
	if m.Address("imap") != "10.0.0.12:1143" || m.Address("pop3") != "10.0.0.12:110" {
		t.Errorf("addresses are %s and %s", m.Address("imap"), m.Address("pop3"))
	}
	if mode, config := m.TLS("imap"); mode != StartTLS || config == nil || config.ServerName != "back2.example.com" {
		t.Errorf("TLS is %s with %+v, want starttls and the host's name", mode, config)
	}
	if m.Login() != Forward || !m.Identity() {
		t.Error("the defaults of login or identity do not hold")
	}
}

func TestTheNearestSettingCounts(t *testing.T) {
	cfg := Config{
		Backend: Defaults{Settings: Settings{TLS: "starttls", TLSServices: map[string]string{"lmtp": "off"}, Identity: "off",
			Ports: map[string]int{"imap": 1, "pop3": 2, "lmtp": 9}}},
		Hosts: map[string]HostConfig{
			"h": {
				Settings: Settings{Ports: map[string]int{"imap": 3}},
				Members: []MemberConfig{
					{Address: "10.0.0.1"},
					{Address: "10.0.0.2:4"},
					{Address: "10.0.0.3:4", Settings: Settings{Ports: map[string]int{"imap": 5}, Identity: "auto"}},
					{Address: "store.example.com", Settings: Settings{TLS: "implicit"}},
				},
			},
		},
	}
	h := host(t, table(t, cfg, Options{}), "h")
	for _, c := range []struct{ member, service, address string }{
		{"10.0.0.1", "imap", "10.0.0.1:3"},
		{"10.0.0.1", "pop3", "10.0.0.1:2"},
		{"10.0.0.1", "sieve", "10.0.0.1:4190"},
		{"10.0.0.2:4", "imap", "10.0.0.2:4"},
		{"10.0.0.2:4", "lmtp", "10.0.0.2:4"},
		{"10.0.0.3:4", "imap", "10.0.0.3:5"},
		{"store.example.com", "submission", "store.example.com:465"},
	} {
		if got := h.Member(c.member).Address(c.service); got != c.address {
			t.Errorf("%s of %s is at %s, want %s", c.service, c.member, got, c.address)
		}
	}
	if mode, _ := h.Member("10.0.0.1").TLS("lmtp"); mode != Off {
		t.Error("lmtp has TLS although tls_services says off")
	}
	if mode, config := h.Member("store.example.com").TLS("lmtp"); mode != Implicit || config.ServerName != "store.example.com" {
		t.Error("the member's own tls does not stand before the defaults' tls_services, or its name is not verified")
	}
	if h.Member("10.0.0.1").Identity() || !h.Member("10.0.0.3:4").Identity() {
		t.Error("identity is not the nearest setting")
	}
}

func TestAMemberIsAStringOrAMap(t *testing.T) {
	var m MemberConfig
	if err := m.UnmarshalYAML(func(v any) error { *v.(*string) = "10.0.0.1"; return nil }); err != nil || m.Address != "10.0.0.1" {
		t.Errorf("from a string: %+v, %v", m, err)
	}
	calls := 0
	err := m.UnmarshalYAML(func(v any) error {
		if calls++; calls == 1 {
			return errNotAString
		}
		v2, ok := any(v).(interface{ UnmarshalYAML(func(any) error) error })
		if ok {
			t.Errorf("the map is decoded into %T, which would decode itself again", v2)
		}
		return nil
	})
	if err != nil || calls != 2 {
		t.Errorf("from a map: %v after %d calls", err, calls)
	}
}

var errNotAString = strconvError("not a string")

type strconvError string

func (e strconvError) Error() string { return string(e) }

func TestParseAddress(t *testing.T) {
	for text, want := range map[string]address{
		"10.0.0.1":          {ip: netip.MustParseAddr("10.0.0.1")},
		"10.0.0.1:143":      {ip: netip.MustParseAddr("10.0.0.1"), port: 143},
		"2001:db8::1":       {ip: netip.MustParseAddr("2001:db8::1")},
		"[2001:db8::1]":     {ip: netip.MustParseAddr("2001:db8::1")},
		"[2001:db8::1]:143": {ip: netip.MustParseAddr("2001:db8::1"), port: 143},
		"::ffff:10.0.0.1":   {ip: netip.MustParseAddr("10.0.0.1")},
		"store1":            {name: "store1"},
		"s-1.example.com.":  {name: "s-1.example.com"},
		"localhost:1143":    {name: "localhost", port: 1143},
	} {
		if got, err := parseAddress(text); err != nil || got != want {
			t.Errorf("parseAddress(%q) = %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", ":", ":143", "10.0.0", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:70000", "a b", "-a", "a..b",
		"ldap://x", "[store]:x", "::", "224.0.0.1", "10.0.0.1/24", "1:2:3"} {
		if got, err := parseAddress(text); err == nil {
			t.Errorf("parseAddress(%q) = %+v", text, got)
		}
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	c := Credentials{User: "master", Password: "sesame"}
	for _, text := range []string{c.String(), c.GoString(), Probe{User: "u", Password: "sesame"}.String()} {
		if strings.Contains(text, "sesame") {
			t.Errorf("the password shows in %q", text)
		}
	}
}
