package mailstore

import (
	"io"
	"log"
	"net"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"
	"github.com/emersion/go-imap/v2/imapserver/imapmemserver"
	"github.com/emersion/go-sasl"
)

// serveIMAP runs the library's server behind an imapConn for each connection.
func (b *Backend) serveIMAP(l net.Listener) error {
	server := imapserver.New(&imapserver.Options{
		NewSession: func(c *imapserver.Conn) (imapserver.Session, *imapserver.GreetingData, error) {
			return &imapSession{backend: b, conn: c.NetConn().(*imapConn)}, nil, nil
		},
		Caps:         capabilities(),
		Logger:       log.New(io.Discard, "", 0),
		InsecureAuth: true, // the library does not see our TLS; imapSession decides
	})
	if !b.register(server) {
		return ErrClosed
	}
	defer b.forget(server)
	return b.serveError(server.Serve(&imapListener{l, b}))
}

// imapListener puts an imapConn around each connection.
type imapListener struct {
	net.Listener
	backend *Backend
}

// Accept implements net.Listener.
func (l *imapListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := newIMAPConn(l.backend, nc)
	if !l.backend.register(c) { // the library would miss a connection that comes while it is closed
		c.Close()
		return nil, net.ErrClosed
	}
	return c, nil
}

// imapSession is a session of the library that knows our accounts.
type imapSession struct {
	*imapmemserver.UserSession // nil before login; the library keeps the states apart
	backend                    *Backend
	conn                       *imapConn
}

// Close ends the session, logged in or not.
func (s *imapSession) Close() error { return s.UserSession.Close() }

// Login implements imapserver.Session.
func (s *imapSession) Login(user, password string) error {
	return s.login("", user, password)
}

// login checks a password and opens the account's mailboxes.
func (s *imapSession) login(authzid, user, password string) error {
	if s.backend.config.RequireTLS && !s.conn.secured() {
		return &imap.Error{Type: imap.StatusResponseTypeNo, Code: imap.ResponseCodePrivacyRequired, Text: "TLS is required"}
	}
	a, err := s.backend.authenticate(authzid, user, password)
	if err != nil {
		return imapserver.ErrAuthFailed
	}
	s.UserSession = imapmemserver.NewUserSession(a.user)
	s.backend.record(IMAP, a, s.conn.identity())
	return nil
}

// idlePoll is how soon an idle session hears of news.
const idlePoll = 100 * time.Millisecond

// Idle implements imapserver.Session. The mailbox's own Idle misses what arrives before it has begun to listen.
func (s *imapSession) Idle(w *imapserver.UpdateWriter, stop <-chan struct{}) error {
	ticker := time.NewTicker(idlePoll)
	defer ticker.Stop()
	for {
		if err := s.Poll(w, true); err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-stop:
			return nil
		}
	}
}

// AuthenticateMechanisms implements imapserver.SessionSASL.
func (s *imapSession) AuthenticateMechanisms() []string { return mechanisms() }

// Authenticate implements imapserver.SessionSASL.
func (s *imapSession) Authenticate(mechanism string) (sasl.Server, error) {
	if server := newSASL(mechanism, s.login); server != nil {
		return server, nil
	}
	return nil, &imap.Error{Type: imap.StatusResponseTypeNo, Code: imap.ResponseCodeCannot, Text: "no such mechanism"}
}

var _ imapserver.SessionSASL = (*imapSession)(nil)
