package backend

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// A member that is our own listener is the backend behind it, with the TLS of that one, for sessions and for checks.
func TestTheBackendBehindOurOwnListener(t *testing.T) {
	home := serve(t, greetIMAP)
	at := netip.MustParseAddrPort(home.address)
	own := netip.MustParseAddrPort("127.0.0.9:143")
	self := func(a netip.AddrPort) bool { return a == own }
	settings := Settings{TLS: "starttls", Local: LocalConfig{Address: "127.0.0.1", Ports: map[string]int{"imap": int(at.Port())}}}
	for _, address := range []string{"127.0.0.9", "here.example.com"} {
		resolver := &names{}
		resolver.set(nil, "127.0.0.9")
		m := member(t, address, settings, Options{Self: self, Services: []string{"imap"}, Resolver: resolver})
		c := dial(t, m, DialInfo{})
		if got := c.RemoteAddr().String(); got != home.address {
			t.Errorf("%s: dialed %s, want %s", address, got, home.address)
		}
		if mode, config := m.TLS("imap"); mode != Off || config != nil {
			t.Errorf("%s: TLS to the local backend is %v", address, mode)
		}
		if got := m.Address("imap"); got != home.address {
			t.Errorf("%s: its address is shown as %s", address, got)
		}
		m.table.Start(context.Background())
		eventually(t, "a check of the local backend", func() bool { return m.Status().Services[0].State == "up" })
		if mode, _ := m.TLS("pop3"); mode != StartTLS {
			t.Errorf("%s: a service without a local port has TLS %v", address, mode)
		}
	}
}

// What is not behind our listener is a loop still.
func TestNoBackendBehindOurOwnListener(t *testing.T) {
	own := netip.MustParseAddrPort("127.0.0.9:143")
	for name, local := range map[string]LocalConfig{
		"none":            {},
		"another service": {Ports: map[string]int{"pop3": 10110}},
		"itself":          {Ports: map[string]int{"imap": 143}},
	} {
		m := member(t, "127.0.0.9", Settings{Local: local}, Options{Self: func(a netip.AddrPort) bool { return a == own }})
		if _, err := m.Dial(context.Background(), "imap", DialInfo{}); !errors.Is(err, ErrLoop) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A silent member is waited for in full where nobody else could serve, and as long as greeting_timeout where somebody can.
func TestGreetingTimeout(t *testing.T) {
	cfg := cluster("hash", 1, 1)
	cfg.Backend.GreetingTimeout = 7 * time.Second
	tab := table(t, cfg, Options{Services: []string{"imap"}})
	east := host(t, tab, "east").Members()
	if d, ok := east[0].GreetingTimeout("imap"); d != 7*time.Second || !ok {
		t.Errorf("with another member it is %s, %v", d, ok)
	}
	down(east[1], "imap")
	if _, ok := east[0].GreetingTimeout("imap"); ok {
		t.Error("the only member in service is not waited for")
	}
	if _, ok := member(t, "127.0.0.1", Settings{}, Options{}).GreetingTimeout("imap"); ok {
		t.Error("the only member of a host is not waited for")
	}
}

// A DNS server that does not answer costs two seconds, and the next one is asked first from then on. That a name is not
// there is an answer.
func TestDNSServers(t *testing.T) {
	dead, err := net.ListenPacket("udp", "127.0.0.1:0") // takes questions, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer dead.Close()
	alive, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer alive.Close()
	done := make(chan struct{})
	go func() { // answers everything with "no such name"
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := alive.ReadFrom(buf)
			if err != nil {
				return
			}
			reply := append([]byte{}, buf[:n]...)
			reply[2], reply[3] = 0x84, 3
			for i := 6; i < 12; i++ {
				reply[i] = 0
			}
			end := 12
			for reply[end] != 0 {
				end += int(reply[end]) + 1
			}
			alive.WriteTo(reply[:end+5], from)
		}
	}()
	d, err := newDNSServers([]string{dead.LocalAddr().String(), alive.LocalAddr().String()})
	if err != nil {
		t.Fatal(err)
	}
	for _, most := range []time.Duration{serverTimeout + 2*time.Second, time.Second} {
		began := time.Now()
		_, err = d.LookupNetIP(context.Background(), "ip", "nobody.example.com.")
		if dns := (*net.DNSError)(nil); !errors.As(err, &dns) || !dns.IsNotFound {
			t.Errorf("a name that is not there: %v", err)
		}
		if took := time.Since(began); took > most {
			t.Errorf("it took %s, want at most %s", took, most)
		}
	}
	alive.Close()
	<-done
	cfg := Config{Hosts: map[string]HostConfig{"a": {Members: members("127.0.0.1")}}}
	cfg.Backend.DNSServers = []string{"10.0.0.53", "ns.example.com", "[::1]:0"}
	err = cfg.Validate()
	if err == nil || !strings.Contains(err.Error(), "backend.dns_servers[1]") || !strings.Contains(err.Error(), "backend.dns_servers[2]") ||
		strings.Contains(err.Error(), "dns_servers[0]") {
		t.Errorf("the faults are %v", err)
	}
}
