package integration

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"mailmux/integration/stage"
	"mailmux/integration/talk"
)

// loginLine waits for the line in which Dovecot logs a login of the service from the address.
func loginLine(t testing.TB, d *stage.Dovecot, p talk.Protocol, user, ip string) string {
	t.Helper()
	service := map[talk.Protocol]string{talk.IMAP: "imap-login", talk.POP3: "pop3-login", talk.Submission: "submission-login", talk.Sieve: "managesieve-login"}[p]
	var found string
	eventually(t, "a line of "+service+" with rip="+ip, func() error {
		b, err := os.ReadFile(d.Log)
		if err != nil {
			return err
		}
		for line := range strings.SplitSeq(string(b), "\n") {
			if strings.Contains(line, service) && strings.Contains(line, "Login: user=<"+user+">") && strings.Contains(line, "rip="+ip+",") {
				found = line
				return nil
			}
		}
		return fmt.Errorf("none in %d bytes", len(b))
	})
	return found
}

// The backend's log has the client's address, over every kind of TLS on its leg, and the frontend's session id.
func TestClientAddressInBackendLog(t *testing.T) {
	t.Parallel()
	d := front(t)
	for i, p := range talk.Protocols() {
		for leg, to := range legs(d.W) {
			t.Run(string(p)+"/backend-"+leg, func(t *testing.T) {
				from := d.W.Net.IP(stage.HostClient + 10 + i)
				c := d.dialWith(t, p, d.addr(p, talk.StartTLS), talk.Options{TLS: talk.StartTLS, Source: from})
				login(t, c, "PLAIN-IR", to.account, to.server)
				server := d.W.Back1
				if to.server == stage.Back2 {
					server = d.W.Back2
				}
				line := loginLine(t, server, p, to.account.Login, from)
				ids, err := d.sessionIDs(from)
				if err != nil {
					t.Fatal(err)
				}
				_ = c.Quit()
				eventually(t, "the session event with the id in the backend's log", func() error {
					if ids, err = d.sessionIDs(from); err != nil {
						return err
					}
					for _, id := range ids {
						if strings.Contains(line, "session=<"+id+">") {
							return nil
						}
					}
					return fmt.Errorf("none of %q is in %s", ids, line)
				})
			})
		}
	}
}

// sessionIDs are the ids of the ended sessions of a client.
func (d *daemon) sessionIDs(client string) ([]string, error) {
	events, err := d.Events("session")
	var ids []string
	for _, e := range events {
		if addr, _ := e["client"].(string); addr == client || strings.HasPrefix(addr, client+":") {
			id, _ := e["id"].(string)
			ids = append(ids, id)
		}
	}
	return ids, err
}

// A listed load balancer's PROXY header names the client, in version 1 and 2; nobody else's does.
func TestProxyProtocol(t *testing.T) {
	t.Parallel()
	d := front(t)
	client, local := netip.MustParseAddrPort("203.0.113.7:4711"), netip.MustParseAddrPort("192.0.2.1:143")
	client6, local6 := netip.MustParseAddrPort("[2001:db8::7]:4711"), netip.MustParseAddrPort("[2001:db8::1]:143")
	headers := map[string]struct{ header, ip string }{
		"v1":      {"PROXY TCP4 203.0.113.7 192.0.2.1 4711 143\r\n", "203.0.113.7"},
		"v1 IPv6": {"PROXY TCP6 2001:db8::7 2001:db8::1 4711 143\r\n", "2001:db8::7"},
		"v2":      {headerV2(client, local), "203.0.113.7"},
		"v2 IPv6": {headerV2(client6, local6), "2001:db8::7"},
	}
	balancer := d.W.Net.IP(hostProxy)
	for _, p := range talk.Protocols() {
		addr := fmt.Sprintf("%s:%d", d.IP, backendPort(p, talk.Plain)+proxied)
		for name, h := range headers {
			t.Run(string(p)+"/"+name, func(t *testing.T) {
				c := d.dialWith(t, p, addr, talk.Options{Source: balancer, Before: h.header})
				login(t, c, "PLAIN-IR", d.W.Account("eve@example.com"), stage.Back1)
				loginLine(t, d.W.Back1, p, "eve@example.com", h.ip)
			})
		}
		t.Run(string(p)+"/from a stranger", func(t *testing.T) {
			c, err := talk.Connect(p, addr, talk.Options{Source: d.W.Net.IP(stage.HostClient + 30), Before: headers["v1"].header})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := c.Greet(); err != nil {
				return // it ended the session at once: good
			}
			if r, err := c.Login("PLAIN-IR", "o'hara@example.com", d.W.Account("o'hara@example.com").Password); err == nil && r.OK {
				b, err := os.ReadFile(d.W.Back2.Log)
				if err != nil {
					t.Fatal(err)
				}
				if strings.Contains(string(b), "Login: user=<o'hara@example.com>, method=PLAIN, rip=203.0.113.7") {
					t.Error("a stranger's PROXY header is believed")
				}
			}
		})
	}
	t.Run("listed, but without a header", func(t *testing.T) {
		c, err := talk.Connect(talk.IMAP, fmt.Sprintf("%s:%d", d.IP, stage.PortIMAP+proxied), talk.Options{Source: balancer, Before: "a NOOP\r\n"})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if all, err := c.Rest(); err == nil && strings.Contains(all, "a OK") {
			t.Errorf("a session without its header is served: %q", all)
		}
	})
}

// headerV2 is a PROXY header of version 2 for a TCP connection.
func headerV2(src, dst netip.AddrPort) string {
	family := byte(0x11)
	if src.Addr().Is6() {
		family = 0x21
	}
	addrs := append(src.Addr().AsSlice(), dst.Addr().AsSlice()...)
	addrs = binary.BigEndian.AppendUint16(addrs, src.Port())
	addrs = binary.BigEndian.AppendUint16(addrs, dst.Port())
	head := append([]byte("\r\n\r\n\x00\r\nQUIT\n\x21"), family)
	head = binary.BigEndian.AppendUint16(head, uint16(len(addrs)))
	return string(append(head, addrs...))
}

// A client that is no listed frontend tells another address in vain: by ID before an IMAP login, by XCLIENT in the
// others. It is ignored, not refused.
func TestForgedIdentity(t *testing.T) {
	t.Parallel()
	d := front(t)
	forged := map[talk.Protocol]string{
		talk.IMAP:       `ID ("name" "forger" "x-originating-ip" "198.51.100.66" "x-proxy-ttl" "5")`,
		talk.POP3:       "XCLIENT ADDR=198.51.100.66 PORT=1 TTL=5",
		talk.Submission: "XCLIENT ADDR=198.51.100.66 PORT=1 TTL=5",
		talk.Sieve:      "XCLIENT ADDR=198.51.100.66 PORT=1 TTL=5",
	}
	for i, p := range talk.Protocols() {
		t.Run(string(p), func(t *testing.T) {
			from := d.W.Net.IP(stage.HostClient + 40 + i)
			c := d.dialWith(t, p, d.addr(p, talk.StartTLS), talk.Options{TLS: talk.StartTLS, Source: from})
			if p != talk.IMAP { // a bad first command may end the session
				noop := map[talk.Protocol]string{talk.POP3: "CAPA", talk.Submission: "NOOP", talk.Sieve: "NOOP"}[p]
				if _, err := c.Command(noop); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := c.Command(forged[p]); err != nil {
				t.Fatal(err)
			}
			login(t, c, "PLAIN-IR", d.W.Account("dora@example.org"), stage.Back1)
			loginLine(t, d.W.Back1, p, "dora@example.org", from)
		})
	}
	b, err := os.ReadFile(d.W.Back1.Log)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b), "rip=198.51.100.66") {
		t.Error("the backend was told the forged address")
	}
}
