package imap

import (
	"context"
	"crypto/tls"
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
		err := l.startTLS(func() error {
			return c.Upgrade(func(nc net.Conn) (net.Conn, error) {
				t := tls.Client(nc, p.TLS)
				return t, t.HandshakeContext(ctx)
			})
		})
		if err != nil {
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
	l.c.Line(tagAsk, " LOGOUT")
	l.c.ReadLine() // its BYE: after that a close is no surprise to the member, and what it says does not matter any more
	return strings.Fields(l.shown), nil
}

// probeLogin logs in as the user of checks.
func (l *leg) probeLogin(user, password string) error {
	l.doing = "the login"
	var err error
	if !l.can.loginDisabled {
		_, err = l.loginCommand(auth.Told{User: user, Password: password})
	} else if creds, bad := auth.Password(user, password); bad != nil {
		err = bad
	} else {
		exchange := creds.Exchange(user, nil, l.can.offers())
		mechanism, initial, bad := exchange.Start()
		if err = bad; err == nil {
			_, err = l.authenticate(exchange, mechanism, initial)
		}
	}
	if err != nil {
		return fmt.Errorf("log in as %s: %w", user, err)
	}
	return nil
}
