package ldapd_test

import (
	"crypto/tls"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"

	"mailmux/tools/certs/pki"
	"mailmux/tools/embedded/ldapd"
)

// findAnn asks for one entry.
func findAnn(c *ldap.Conn) error {
	_, err := c.Search(ldap.NewSearchRequest("dc=example,dc=com", 2, 0, 0, 0, false, "(uid=ann)", nil, nil))
	return err
}

func TestHookRefusesAndDrops(t *testing.T) {
	tree := newTree(t)
	server, addr := serve(t, tree, config())
	c := dial(t, addr)
	server.SetHook(func(r ldapd.Request) ldapd.Fault {
		if r.Op == ldapd.OpSearch && r.DN == "dc=example,dc=com" {
			return ldapd.Fault{Code: ldapd.Busy, Text: "come back later"}
		}
		return ldapd.Fault{}
	})
	err := findAnn(c)
	want(t, err, ldap.LDAPResultBusy)
	if err != nil && !strings.Contains(err.Error(), "come back later") {
		t.Errorf("the text is lost: %v", err)
	}
	server.SetHook(nil)
	want(t, findAnn(c), 0)
	if n := server.Count(ldapd.OpSearch); n != 2 {
		t.Errorf("%d searches counted, want 2", n)
	}

	server.SetHook(func(r ldapd.Request) ldapd.Fault { return ldapd.Fault{Lose: r.Op == ldapd.OpModify} })
	err = modify(c, annDN, func(m *ldap.ModifyRequest) { m.Replace("hostServer", []string{"west.example.com"}) })
	if err == nil {
		t.Error("the request of a lost connection succeeded")
	}
	if got := value(t, tree, annDN, "hostServer"); got != "west.example.com" {
		t.Errorf("the change whose answer was lost was not done: hostServer = %q", got)
	}

	server.SetHook(func(r ldapd.Request) ldapd.Fault { return ldapd.Fault{Drop: r.Op == ldapd.OpModify} })
	c = dial(t, addr)
	err = modify(c, annDN, func(m *ldap.ModifyRequest) { m.Replace("hostServer", []string{"north.example.com"}) })
	if err == nil {
		t.Error("the request of a lost connection succeeded")
	}
	if got := value(t, tree, annDN, "hostServer"); got != "west.example.com" {
		t.Errorf("the dropped change was done: hostServer = %q", got)
	}

	server.SetHook(func(r ldapd.Request) ldapd.Fault { return ldapd.Fault{Drop: r.Op == ldapd.OpConnect} })
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, err := nc.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("a refused connection gave %d bytes, %v", n, err)
	}
}

func TestDelayedRequestIsOvertaken(t *testing.T) {
	server, addr := serve(t, newTree(t), config())
	c := dial(t, addr)
	var slow atomic.Bool
	slow.Store(true)
	server.SetHook(func(r ldapd.Request) ldapd.Fault {
		if r.Op == ldapd.OpSearch && slow.CompareAndSwap(true, false) {
			return ldapd.Fault{Delay: time.Hour}
		}
		return ldapd.Fault{}
	})
	first := make(chan error, 1)
	go func() { first <- findAnn(c) }()
	for slow.Load() { // until the slow search has reached the server; the test's own timeout bounds it
		time.Sleep(time.Millisecond)
	}
	want(t, findAnn(c), 0)
	server.DropConnections() // also ends the wait of an hour
	if err := <-first; err == nil {
		t.Error("the slow search succeeded")
	}
	server.Close()
}

func TestRestartKeepsTheTree(t *testing.T) {
	tree := newTree(t)
	server, addr := serve(t, tree, config())
	c := dial(t, addr)
	want(t, modify(c, annDN, func(m *ldap.ModifyRequest) { m.Replace("hostServer", []string{"west.example.com"}) }), 0)
	server.Close()
	if err := findAnn(c); err == nil {
		t.Error("a closed server answered")
	}
	if _, err := net.Dial("tcp", addr); err == nil {
		t.Error("a closed server listens")
	}
	_, addr = serve(t, tree, config())
	res, err := dial(t, addr).Search(ldap.NewSearchRequest(annDN, 0, 0, 0, 0, false, "(&)", nil, nil))
	if err != nil || res.Entries[0].GetAttributeValue("hostServer") != "west.example.com" {
		t.Errorf("after the restart: %v, %v", res, err)
	}
}

func TestTLS(t *testing.T) {
	ca, err := pki.NewCA("test", pki.ECDSA)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Issue(pki.Request{Hosts: []string{"ldap.example.com"}})
	if err != nil {
		t.Fatal(err)
	}
	cfg := config()
	cfg.TLS = &tls.Config{Certificates: []tls.Certificate{pair.Certificate}}
	server, addr := serve(t, newTree(t), cfg)
	client := &tls.Config{RootCAs: ca.Pool(), ServerName: "ldap.example.com"}

	c := dial(t, addr)
	if err := c.StartTLS(client); err != nil {
		t.Fatal(err)
	}
	if who, err := c.WhoAmI(nil); err != nil || who.AuthzID != "" {
		t.Errorf("the identity of before TLS is kept: %v, %v", who, err)
	}
	want(t, c.Bind(annDN, "sesame"), 0)
	want(t, findAnn(c), 0)
	want(t, c.StartTLS(client), ldap.ErrorNetwork) // go-ldap sees that TLS is there

	l, err := tls.Listen("tcp", "127.0.0.1:0", cfg.TLS)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	secured, err := ldap.DialURL("ldaps://"+l.Addr().String(), ldap.DialWithTLSConfig(client))
	if err != nil {
		t.Fatal(err)
	}
	defer secured.Close()
	want(t, findAnn(secured), 0)

	_, plainAddr := serve(t, newTree(t), config())
	want(t, dial(t, plainAddr).StartTLS(client), ldap.LDAPResultProtocolError)
	server.Close()
	<-done
}

// TestStartTLSInjection sends a request in the clear behind StartTLS: the server must not keep it for the time after the
// handshake.
func TestStartTLSInjection(t *testing.T) {
	cfg := config()
	cfg.TLS = &tls.Config{}
	server, addr := serve(t, newTree(t), cfg)
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	startTLS := "\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037"
	if _, err := io.WriteString(nc, startTLS+"\x30\x05\x02\x01\x02\x42\x00"); err != nil {
		t.Fatal(err)
	}
	nc.SetReadDeadline(time.Now().Add(5 * time.Second))
	answer, err := io.ReadAll(nc)
	if err != nil || !strings.Contains(string(answer), "bytes behind StartTLS") {
		t.Errorf("got %q, %v", answer, err)
	}
	if n := server.Count(ldapd.OpStartTLS); n != 1 {
		t.Errorf("%d StartTLS requests counted", n)
	}
}

// TestBadMessages: what is not LDAP ends the connection, with a notice where the sender may understand it.
func TestBadMessages(t *testing.T) {
	_, addr := serve(t, newTree(t), config())
	for name, test := range map[string]struct{ send, want string }{
		"another protocol":    {"GET / HTTP/1.0\r\n\r\n", ""},
		"announces a GiB":     {"\x30\x84\x40\x00\x00\x00", "longer than the server accepts"},
		"indefinite length":   {"\x30\x80\x02\x01\x01", "longer than the server accepts"},
		"message ID 0":        {"\x30\x05\x02\x01\x00\x42\x00", "no valid ID"},
		"no operation":        {"\x30\x03\x02\x01\x01", "no operation"},
		"unknown operation":   {"\x30\x05\x02\x01\x01\x5e\x00", "unknown operation 30"},
		"search without end":  {"\x30\x07\x02\x01\x01\x63\x02\x04\x00", "search has 1 parts"},
		"response as request": {"\x30\x05\x02\x01\x01\x61\x00", "unknown operation 1"},
	} {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(nc, test.send)
		nc.(*net.TCPConn).CloseWrite()
		nc.SetReadDeadline(time.Now().Add(5 * time.Second))
		answer, _ := io.ReadAll(nc)
		nc.Close()
		if test.want == "" && len(answer) == 0 {
			continue
		}
		if test.want == "" || !strings.Contains(string(answer), test.want) {
			t.Errorf("%s: got %q, want %q in it", name, answer, test.want)
		}
	}
}
