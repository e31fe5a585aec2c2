package backend

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math/bits"
	"net"
	"time"

	"mailmux/proxy/wire"
)

// Prober speaks a protocol for the checks. Probes run at the same time on different connections.
type Prober interface {
	// Probe finds out on a fresh connection whether the service works, and which capabilities it shows, nil if that
	// cannot be told. With implicit TLS the connection is encrypted already. The connection has a deadline and is closed
	// by the caller, also when ctx ends.
	Probe(ctx context.Context, c net.Conn, p Probe) (capabilities []string, err error)
}

// Probe is what a prober needs to know of the member.
type Probe struct {
	Service string
	Host    string
	Member  string
	Mode    Mode        // with StartTLS the prober asks for TLS and does the handshake
	TLS     *tls.Config // nil when Mode is Off
	User    string      // logs in if not ""
	// Password is that of User.
	Password string
}

// Upgrade puts TLS under a check's conversation, once the member has agreed to it.
func (p Probe) Upgrade(ctx context.Context, c *wire.Conn) error {
	return c.Upgrade(func(below net.Conn) (net.Conn, error) {
		t := tls.Client(below, p.TLS)
		return t, t.HandshakeContext(ctx)
	})
}

// String names the probe without its secrets.
func (p Probe) String() string { return p.Service + " on " + p.Host + "/" + p.Member }

// GoString hides the password from %#v.
func (p Probe) GoString() string { return p.String() }

// checked says whether a service is checked.
func (t *Table) checked(i int) bool { return t.services.Load()&(1<<i) != 0 }

// checkSoon brings a check forward because a session saw a failure; an eighth of the interval stays between two.
func (m *Member) checkSoon(i int) {
	pause := m.settings.Load().Check.Interval / 8
	m.mu.Lock()
	h := &m.health[i]
	due := time.Now()
	if next := h.lastCheck.Add(pause); next.After(due) {
		due = next
	}
	sooner := due.Before(h.due)
	if sooner {
		h.due = due
	}
	m.mu.Unlock()
	if sooner {
		m.table.checks.at(m.task, due)
	}
}

// runChecks checks the services that are due, one after the other, so that a member has one check at a time. It says
// when the next one is due, and whether that is to confirm what the last one saw.
func (m *Member) runChecks(ctx context.Context) (next time.Time, urgent bool) {
	e := m.settings.Load()
	if e.Check.AgentPort != 0 && !time.Now().Before(m.agentDue()) {
		m.askAgent(ctx, e)
	}
	if e.Check.Mode == "off" {
		return time.Now().Add(e.Check.Interval), false
	}
	for i := range services {
		if !m.table.checked(i) || time.Now().Before(m.due(i)) {
			continue
		}
		began := time.Now()
		err := m.check(ctx, i, m.settings.Load())
		if ctx.Err() != nil || m.Gone() {
			break
		}
		m.checkDone(i, err, time.Since(began))
	}
	if e.Check.AgentPort != 0 {
		next = m.agentDue()
	}
	for i := range services {
		if !m.table.checked(i) {
			continue
		}
		if due := m.due(i); next.IsZero() || due.Before(next) {
			next = due
		}
		urgent = urgent || m.unsure(i)
	}
	if next.IsZero() {
		next = time.Now().Add(e.Check.Interval)
	}
	return next, urgent
}

// unsure says whether the checks of a service are on their way to rise or fall.
func (m *Member) unsure(i int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.health[i].fails > 0 || m.health[i].passes > 0
}

// paceShare is the part of checks_per_second that the checks in their order may take. The rest is for those that confirm
// a failure, which must not wait in a queue behind the others.
const paceShare = 0.9

// pace stretches the intervals where all members' checks together would need more than checks_per_second. mu is held.
func (t *Table) pace() {
	services := float64(bits.OnesCount64(t.services.Load()))
	demand := 0.0 // checks a second
	t.all(func(h *Host) {
		for _, s := range h.row.Load().seats {
			if c := s.member.settings.Load().Check; c.Mode == "on" {
				demand += services / c.Interval.Seconds()
			}
		}
	})
	factor := max(1, demand/(paceShare*float64(t.config.Backend.checksPerSecond())))
	t.factor.Store(&factor)
}

// CheckFactor is how many times as long as configured the intervals between checks are, because checks_per_second bounds
// them: 1 where it does not.
func (t *Table) CheckFactor() float64 { return *t.factor.Load() }

// interval is a configured interval as far as it can be kept.
func (t *Table) interval(d time.Duration) time.Duration {
	return time.Duration(float64(d) * t.CheckFactor())
}

// due is when a service is to be checked next; the zero time before its first check.
func (m *Member) due(i int) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.health[i].due
}

// check connects and speaks to a service, within the timeout.
func (m *Member) check(parent context.Context, i int, e *effective) error {
	ctx, cancel := context.WithTimeout(parent, e.Check.Timeout)
	defer cancel()
	conn, err := m.table.reach(ctx, m, i)
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	ended := context.AfterFunc(parent, func() { conn.Close() }) // the deadline ends it otherwise
	defer ended()
	p := Probe{Service: services[i].name, Host: m.host, Member: m.name, User: e.Check.User, Password: e.password}
	p.Mode, p.TLS = m.tls(e, i)
	under := conn
	if p.Mode == Implicit {
		encrypted := tls.Client(conn, e.tls)
		if err := encrypted.HandshakeContext(ctx); err != nil {
			return fmt.Errorf("TLS: %w", err)
		}
		under = encrypted
	}
	prober := m.table.options.Probers[p.Service]
	if prober == nil {
		prober = greeter{}
	}
	capabilities, err := prober.Probe(ctx, under, p)
	if err != nil {
		return err
	}
	if capabilities != nil {
		m.Learn(p.Service, capabilities)
	}
	return nil
}

// greeter is the check of a service without a prober: it waits for the greeting and takes its leave.
type greeter struct{}

// maxGreeting bounds what is read of a member that does not stop talking.
const maxGreeting = 8192

// Probe reads the greeting's first line.
func (greeter) Probe(_ context.Context, c net.Conn, p Probe) ([]string, error) {
	i, _ := serviceIndex(p.Service)
	service := services[i]
	line, err := readLine(c, maxGreeting)
	if err != nil {
		return nil, fmt.Errorf("greeting: %w", err)
	}
	known := false
	for _, prefix := range service.greetings {
		known = known || bytes.HasPrefix(line, []byte(prefix))
	}
	if !known {
		return nil, fmt.Errorf("greeting is not one of %s: %.60q", service.name, line)
	}
	// Taking leave keeps "aborted login" out of the member's log. The answer is read so that the close sends no reset;
	// whether it comes says nothing more.
	if _, err := io.WriteString(c, service.bye); err == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(c, maxGreeting))
	}
	return nil, nil
}

// readLine reads up to a line end, through a buffer of its own: what follows is lost.
func readLine(c io.Reader, most int) ([]byte, error) {
	buf := make([]byte, 0, 512)
	for len(buf) < most {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := c.Read(buf[len(buf):min(cap(buf), most)])
		buf = buf[:len(buf)+n]
		if at := bytes.IndexByte(buf, '\n'); at >= 0 {
			return bytes.TrimSuffix(buf[:at], []byte("\r")), nil
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("no line end in %d bytes", most)
}
