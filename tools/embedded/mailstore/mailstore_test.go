package mailstore_test

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"mailmux/tools/certs/pki"
	"mailmux/tools/embedded/mailstore"
)

const letter = "From: bob@example.com\nTo: ann@example.com\nSubject: hello\n\nfirst\n.second\n"

// newStorage has ann with one letter, and bob.
func newStorage(t *testing.T) *mailstore.Storage {
	t.Helper()
	s := mailstore.NewStorage("disk1")
	for login, password := range map[string]string{"ann@example.com": "sesame", "bob@example.com": "open"} {
		if err := s.AddAccount(login, password); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Deliver("Ann@example.com", []byte(letter)); err != nil {
		t.Fatal(err)
	}
	return s
}

// newBackend has the storage attached and is closed with the test.
func newBackend(t *testing.T, config mailstore.Config, storage *mailstore.Storage) *mailstore.Backend {
	t.Helper()
	if config.Name == "" {
		config.Name = "east.example.com"
	}
	b := mailstore.New(config)
	if storage != nil {
		b.Attach(storage)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// listen serves one service on a free port, with implicit TLS if there is a configuration, and returns the address.
func listen(t *testing.T, b *mailstore.Backend, service mailstore.Service, implicit *tls.Config) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if implicit != nil {
		l = tls.NewListener(l, implicit)
	}
	done := make(chan error, 1)
	go func() { done <- b.Serve(service, l) }()
	t.Cleanup(func() {
		b.Close()
		if err := <-done; !errors.Is(err, mailstore.ErrClosed) {
			t.Errorf("Serve(%s) returned %v", service, err)
		}
	})
	return addr
}

// newTLS makes a server's and a client's configuration.
func newTLS(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	ca, err := pki.NewCA("test", pki.ECDSA)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Issue(pki.Request{Hosts: []string{"east.example.com"}})
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair.Certificate}},
		&tls.Config{RootCAs: ca.Pool(), ServerName: "east.example.com"}
}

// dialog is a client of a line protocol.
type dialog struct {
	t      *testing.T
	conn   net.Conn
	reader *bufio.Reader
}

// dial connects.
func dial(t *testing.T, addr string) *dialog {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(10 * time.Second))
	return &dialog{t, nc, bufio.NewReader(nc)}
}

// secure shakes hands.
func (d *dialog) secure(config *tls.Config) {
	d.t.Helper()
	c := tls.Client(d.conn, config)
	if err := c.Handshake(); err != nil {
		d.t.Fatal(err)
	}
	d.conn, d.reader = c, bufio.NewReader(c)
}

// send writes lines.
func (d *dialog) send(format string, args ...any) {
	d.t.Helper()
	if _, err := fmt.Fprintf(d.conn, format+"\r\n", args...); err != nil {
		d.t.Fatal(err)
	}
}

// until reads lines up to and with the first one that begins with a prefix.
func (d *dialog) until(prefix string) string {
	d.t.Helper()
	var all strings.Builder
	for {
		line, err := d.reader.ReadString('\n')
		all.WriteString(line)
		if err != nil {
			d.t.Fatalf("waiting for %q: %v after %q", prefix, err, all.String())
		}
		if strings.HasPrefix(line, prefix) {
			return all.String()
		}
	}
}

// ask sends a line and reads an answer of one line, which has to begin with a prefix.
func (d *dialog) ask(prefix, format string, args ...any) string {
	d.t.Helper()
	d.send(format, args...)
	return d.expect(prefix)
}

// expect reads one line, which has to begin with a prefix.
func (d *dialog) expect(prefix string) string {
	d.t.Helper()
	line, err := d.reader.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, prefix) {
		d.t.Fatalf("got %q, %v; want %q", line, err, prefix)
	}
	return strings.TrimRight(line, "\r\n")
}

// closed fails the test unless the server ends the connection.
func (d *dialog) closed() {
	d.t.Helper()
	if rest, err := d.reader.ReadString(0); err == nil || rest != "" {
		d.t.Errorf("the connection goes on: %q, %v", rest, err)
	}
}

// plain is an initial response of SASL PLAIN.
func plain(authzid, user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte(authzid + "\x00" + user + "\x00" + password))
}

// TestStorageMoves is what the demo shows: the machine dies, its disk goes to another one, and the mail is there.
func TestStorageMoves(t *testing.T) {
	disk := newStorage(t)
	east := newBackend(t, mailstore.Config{}, disk)
	west := newBackend(t, mailstore.Config{Name: "west.example.com"}, nil)
	eastAddr, westAddr := listen(t, east, mailstore.IMAP, nil), listen(t, west, mailstore.IMAP, nil)

	d := dial(t, eastAddr)
	if greeting := d.expect("* OK [CAPABILITY IMAP4rev1 "); !strings.Contains(greeting, "east.example.com IMAP ready") {
		t.Errorf("greeting %q", greeting)
	}
	d.ask("1 OK ", "1 LOGIN ann@example.com sesame")
	d.send("2 SELECT INBOX")
	if got := d.until("2 "); !strings.Contains(got, "* 1 EXISTS") {
		t.Errorf("on east: %q", got)
	}
	w := dial(t, westAddr)
	w.expect("* OK")
	w.ask("1 NO [AUTHENTICATIONFAILED]", "1 LOGIN ann@example.com sesame")

	east.Close()
	d.closed()
	west.Attach(disk)
	w.ask("2 OK ", "2 LOGIN ann@example.com sesame")
	w.send("3 SELECT INBOX")
	if got := w.until("3 "); !strings.Contains(got, "* 1 EXISTS") {
		t.Errorf("on west: %q", got)
	}
	west.Detach(disk)
	again := dial(t, westAddr)
	again.expect("* OK")
	again.ask("1 NO", "1 LOGIN ann@example.com sesame")
	if err := east.Serve(mailstore.IMAP, nopListener{}); !errors.Is(err, mailstore.ErrClosed) {
		t.Errorf("a closed backend serves: %v", err)
	}
}

// nopListener is never asked for a connection.
type nopListener struct{ net.Listener }

func (nopListener) Close() error { return nil }

func TestStorageErrors(t *testing.T) {
	s := newStorage(t)
	if err := s.AddAccount("ANN@example.com", "x"); err == nil {
		t.Error("an account was added twice")
	}
	if err := s.Deliver("eve@example.com", nil); !errors.Is(err, mailstore.ErrNoAccount) {
		t.Errorf("deliver to nobody: %v", err)
	}
	if err := s.Deliver("ann@example.com", nil, "Nowhere"); err == nil {
		t.Error("delivered to a folder that is not there")
	}
	if _, err := s.Messages("eve@example.com"); !errors.Is(err, mailstore.ErrNoAccount) {
		t.Errorf("messages of nobody: %v", err)
	}
	messages, err := s.Messages("ann@example.com")
	if err != nil || len(messages) != 1 || string(messages[0].Raw) != strings.ReplaceAll(letter, "\n", "\r\n") {
		t.Errorf("messages %v, %v", messages, err)
	}
	if got := strings.Join(s.Accounts(), " "); got != "ann@example.com bob@example.com" {
		t.Errorf("accounts %q", got)
	}
}
