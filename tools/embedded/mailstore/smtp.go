package mailstore

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// maxMessage bounds a message that is submitted or delivered, in bytes.
const maxMessage = 32 << 20

// serveSMTP runs the library's server as submission or as LMTP.
func (b *Backend) serveSMTP(service Service, l net.Listener) error {
	server := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		if service == LMTP {
			return &lmtpSession{smtpSession{backend: b, conn: c}}, nil
		}
		return &submissionSession{smtpSession: smtpSession{backend: b, conn: c}}, nil
	}))
	server.LMTP = service == LMTP
	server.Domain = b.config.Name
	server.TLSConfig = b.config.TLS
	server.AllowInsecureAuth = !b.config.RequireTLS
	server.EnableSMTPUTF8 = true
	server.EnableDSN = true
	server.MaxMessageBytes = maxMessage
	server.MaxLineLength = 16 << 10 // binary chunks count as lines in the library
	server.ReadTimeout = idleTimeout
	server.WriteTimeout = writeTimeout
	server.ErrorLog = log.New(io.Discard, "", 0)
	if !b.register(server) {
		return ErrClosed
	}
	defer b.forget(server)
	return b.serveError(server.Serve(l))
}

// smtpSession is what submission and LMTP have in common: an envelope.
type smtpSession struct {
	backend *Backend
	conn    *smtp.Conn
	from    string
	to      []string
}

// Reset implements smtp.Session.
func (s *smtpSession) Reset() { s.from, s.to = "", nil }

// Logout implements smtp.Session.
func (s *smtpSession) Logout() error { return nil }

// read reads a message and puts the trace of this backend in front of it (RFC 5321 section 4.4).
func (s *smtpSession) read(r io.Reader, protocol string) ([]byte, error) {
	var message bytes.Buffer
	fmt.Fprintf(&message, "Received: from %s\r\n\tby %s with %s;\r\n\t%s\r\n",
		s.conn.Hostname(), s.backend.config.Name, protocol, time.Now().Format(time.RFC1123Z))
	if _, err := message.ReadFrom(r); err != nil {
		s.conn.Close() // the library would take the rest of the message for commands
		return nil, err
	}
	return message.Bytes(), nil
}

// submissionSession is one session of an authenticated user.
type submissionSession struct {
	smtpSession
	account *account // nil before login
}

// AuthMechanisms implements smtp.AuthSession.
func (s *submissionSession) AuthMechanisms() []string { return mechanisms() }

// Auth implements smtp.AuthSession.
func (s *submissionSession) Auth(mechanism string) (sasl.Server, error) {
	server := newSASL(mechanism, s.login)
	if server == nil {
		return nil, smtp.ErrAuthUnknownMechanism
	}
	return server, nil
}

// login checks a password.
func (s *submissionSession) login(authzid, user, password string) error {
	a, err := s.backend.authenticate(authzid, user, password)
	if err != nil {
		return smtp.ErrAuthFailed
	}
	s.account = a
	s.backend.record(Submission, a, nil)
	return nil
}

// Mail implements smtp.Session.
func (s *submissionSession) Mail(from string, _ *smtp.MailOptions) error {
	if s.account == nil {
		return &smtp.SMTPError{Code: 530, EnhancedCode: smtp.EnhancedCode{5, 7, 0}, Message: "authentication required"}
	}
	s.from = from
	return nil
}

// Rcpt implements smtp.Session.
func (s *submissionSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	if s.backend.config.Send == nil && s.backend.find(to) == nil {
		return noMailbox()
	}
	s.to = append(s.to, to)
	return nil
}

// Data implements smtp.Session.
func (s *submissionSession) Data(r io.Reader) error {
	message, err := s.read(r, "ESMTPA")
	if err != nil {
		return err
	}
	send := s.backend.config.Send
	if send == nil {
		send = s.backend.deliver
	}
	if err := send(s.from, s.to, message); err != nil {
		return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 0}, Message: "the message cannot be sent now"}
	}
	return &smtp.SMTPError{Code: 250, EnhancedCode: smtp.EnhancedCode{2, 0, 0}, Message: "sent by " + s.backend.config.Name}
}

// noMailbox is the answer for a recipient that nobody here is.
func noMailbox() error {
	return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no such mailbox here"}
}

// deliver puts a message into the INBOX of recipients on the attached storages.
func (b *Backend) deliver(_ string, to []string, message []byte) error {
	var faults []error
	for _, recipient := range to {
		faults = append(faults, b.deliverOne(recipient, message))
	}
	return errors.Join(faults...)
}

// deliverOne puts a message into one INBOX.
func (b *Backend) deliverOne(recipient string, message []byte) error {
	for _, s := range b.attached() {
		if s.Has(recipient) {
			return s.Deliver(recipient, message)
		}
	}
	return fmt.Errorf("deliver to %s at %s: %w", recipient, b.config.Name, ErrNoAccount)
}

// lmtpSession is one session of an MTA or of a frontend that delivers (RFC 2033).
type lmtpSession struct{ smtpSession }

// Mail implements smtp.Session.
func (s *lmtpSession) Mail(from string, _ *smtp.MailOptions) error {
	s.from = from
	return nil
}

// Rcpt implements smtp.Session.
func (s *lmtpSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	if s.backend.find(to) == nil {
		return noMailbox()
	}
	s.to = append(s.to, to)
	return nil
}

// Data implements smtp.Session. LMTP ends in LMTPData.
func (s *lmtpSession) Data(io.Reader) error {
	return errors.New("LMTP has a status for each recipient")
}

// LMTPData implements smtp.LMTPSession.
func (s *lmtpSession) LMTPData(r io.Reader, status smtp.StatusCollector) error {
	message, err := s.read(r, "LMTP")
	if err != nil {
		return err
	}
	for _, recipient := range s.to {
		if err := s.backend.deliverOne(recipient, message); err != nil {
			status.SetStatus(recipient, &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 2, 0}, Message: "the mailbox is away"})
			continue
		}
		status.SetStatus(recipient, nil)
	}
	return nil
}

var (
	_ smtp.AuthSession = (*submissionSession)(nil)
	_ smtp.LMTPSession = (*lmtpSession)(nil)
)
