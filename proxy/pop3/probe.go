package pop3

import (
	"context"
	"errors"
	"fmt"
	"net"

	"mailmux/proxy"
	"mailmux/proxy/backend"
	"mailmux/proxy/wire"
)

var _ backend.Prober = (*Handler)(nil)

// Bounds of what a member may say to a probe.
const (
	maxProbeLine    = 1024
	maxCapabilities = 64
)

// Probe checks a member: greeting, STLS if that is how it is reached, a login if the check has an account for it, and what
// CAPA shows before that. A member that does not know CAPA is well, and shows nothing.
func (h *Handler) Probe(ctx context.Context, nc net.Conn, p backend.Probe) ([]string, error) {
	c := wire.NewConn(nc, maxProbeLine)
	defer c.Release()
	if _, err := readGreeting(c); err != nil {
		return nil, err
	}
	if p.Mode == backend.StartTLS {
		if err := startTLS(c, func() error { return p.Upgrade(ctx, c) }); err != nil {
			return nil, err
		}
	}
	c.Line("CAPA")
	capabilities, err := readCapabilities(c)
	if err != nil {
		return nil, err
	}
	if p.User != "" {
		if err := probeLogin(c, p.User, p.Password); err != nil {
			return nil, err
		}
	}
	c.Line("QUIT")
	if _, _, err := readReply(c); err != nil {
		return nil, fmt.Errorf("QUIT: %w", err)
	}
	return capabilities, nil
}

func probeLogin(c *wire.Conn, user, password string) error {
	c.Line("USER ", user)
	ok, line, err := readReply(c)
	if err == nil && ok {
		c.Secret("PASS [redacted]", "PASS ", password)
		ok, line, err = readReply(c)
	}
	if err == nil && !ok {
		err = fmt.Errorf("%w: %.80q", errRefused, line)
	}
	if err != nil {
		return fmt.Errorf("login as %s: %w", user, err)
	}
	return nil
}

// errRefused: the account of the checks was not let in.
var errRefused = errors.New("refused")

// readCapabilities reads the answer to CAPA (RFC 2449 section 5); nil if the member does not know it.
func readCapabilities(c *wire.Conn) ([]string, error) {
	ok, _, err := readReply(c)
	if err != nil {
		return nil, fmt.Errorf("CAPA: %w", err)
	}
	if !ok {
		return nil, nil
	}
	capabilities := []string{}
	for range maxCapabilities {
		line, err := c.ReadLine()
		if err != nil {
			return nil, fmt.Errorf("CAPA: %w", err)
		}
		if string(line) == "." {
			return capabilities, nil
		}
		capabilities = append(capabilities, printable(line))
	}
	return nil, fmt.Errorf("CAPA: %w: more than %d capabilities", proxy.ErrProtocol, maxCapabilities)
}
