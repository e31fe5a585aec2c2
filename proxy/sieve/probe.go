package sieve

import (
	"context"
	"errors"
	"fmt"
	"net"

	"mailmux/proxy/auth"
	"mailmux/proxy/backend"
	"mailmux/proxy/wire"
)

var _ backend.Prober = (*Handler)(nil)

// maxProbeLine bounds the lines of a member that is probed.
const maxProbeLine = 4096

// Probe checks a member: its listing, STARTTLS if that is how it is reached, and a login if the check has an account for
// it. It returns the listing, the one under TLS if there are two.
func (h *Handler) Probe(ctx context.Context, nc net.Conn, p backend.Probe) ([]string, error) {
	c := wire.NewConn(nc, maxProbeLine)
	defer c.Release()
	shown, err := readListing(c)
	if err != nil {
		return nil, fmt.Errorf("greeting: %w", err)
	}
	if p.Mode == backend.StartTLS {
		shown, err = startTLS(c, shown, func() error { return p.Upgrade(ctx, c) })
		if err != nil {
			return nil, err
		}
	}
	if p.User != "" {
		if err := probeLogin(c, shown, p.User, p.Password); err != nil {
			return nil, fmt.Errorf("login as %s: %w", p.User, err)
		}
	}
	c.Line("LOGOUT")
	if _, err := readResponse(c); err != nil {
		return nil, fmt.Errorf("LOGOUT: %w", err)
	}
	return shown.lines, nil
}

func probeLogin(c *wire.Conn, shown *listing, user, password string) error {
	creds, err := auth.Password(user, password)
	if err != nil {
		return err
	}
	exchange := creds.Exchange(user, nil, shown.sasl)
	mechanism, initial, err := exchange.Start()
	if err != nil {
		return err
	}
	begin(c, mechanism, initial)
	r, err := converse(c, exchange)
	if err != nil {
		return err
	}
	if r.status != "OK" {
		return fmt.Errorf("%w: %s", errRefused, r.brief())
	}
	return nil
}

// errRefused: the account of the checks was not let in.
var errRefused = errors.New("refused")
