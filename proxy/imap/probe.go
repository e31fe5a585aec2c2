package imap

import (
	"context"
	"fmt"
	"net"
	"strings"

	"mailmux/proxy/auth"
	"mailmux/proxy/backend"
	"mailmux/proxy/wire"
)

// Prober checks whether a member serves IMAP (backend.Prober).
type Prober struct{}

var _ backend.Prober = Prober{}

// probeLine is the longest line that a check reads, in bytes.
const probeLine = 8192

// Probe reads the greeting, makes TLS if that goes by STARTTLS, and finds out the capabilities that clients may be shown
// before their login. With a user it logs in. An error says what the member did wrong.
func (Prober) Probe(ctx context.Context, nc net.Conn, p backend.Probe) ([]string, error) {
	c := wire.NewConn(nc, probeLine)
	defer c.Release()
	l := leg{c: c, keep: true}
	if err := l.greeting(); err != nil {
		return nil, err
	}
	if p.Mode == backend.StartTLS {
		if err := l.startTLS(func() error { return p.Upgrade(ctx, c) }); err != nil {
			return nil, err
		}
		l.shown = ""
	}
	if !l.can.known {
		if err := l.ask(); err != nil {
			return nil, err
		}
	}
	if p.User != "" {
		if err := l.probeLogin(p.User, p.Password); err != nil {
			return nil, err
		}
	}
	// The errors do not matter any more. With its BYE read, the close is no surprise to the member.
	l.c.Line(tagAsk, " LOGOUT")
	if l.c.Flush() == nil {
		l.c.ReadLine()
	}
	return strings.Fields(l.shown), nil
}

// probeClaim is the user of checks.
type probeClaim struct{ creds *auth.Credentials }

// Told is claim's.
func (c probeClaim) Told() (auth.Told, bool) { return c.creds.Backend(c.creds.User, nil) }

// Exchange is claim's.
func (c probeClaim) Exchange(offered []string) auth.Exchange {
	return c.creds.Exchange(c.creds.User, nil, offered)
}

// probeLogin logs in as the user of checks.
func (l *leg) probeLogin(user, password string) error {
	creds, err := auth.Password(user, password)
	if err == nil {
		_, err = l.login(probeClaim{creds})
	}
	if err != nil {
		return fmt.Errorf("log in as %s: %w", user, err)
	}
	return nil
}
