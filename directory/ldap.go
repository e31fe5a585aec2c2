package directory

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/go-ldap/ldap/v3"
)

// source is where accounts come from: LDAP servers, or a file.
type source interface {
	// find gives the one entry that a name's filter matches. Its errors are ErrNoUser, ErrAmbiguous, or an outage.
	find(ctx context.Context, name Name, attributes []string) (e *entry, server string, err error)
	// entry reads one attribute of the entry that has a DN. That there is none is an error like an outage.
	entry(ctx context.Context, dn, attribute string) (*entry, error)
	// checkPassword gives nil, ErrBadPassword, or an outage.
	checkPassword(ctx context.Context, dn, password string) error
	// check tries every server as a lookup would.
	check(ctx context.Context) []error
	filter(name Name) string
	stats() []ServerStats
	reload() error
	close()
}

// servers is the source that asks LDAP servers.
type servers struct {
	cfg      Config
	template template
	servers  []*server
	dialer   *dialer
	log      *slog.Logger
	metrics  Metrics
	stop     context.CancelFunc
	wg       sync.WaitGroup
}

func newServers(c Config, log *slog.Logger, metrics Metrics) (*servers, error) {
	t, err := newTemplate(c.Filter)
	if err != nil {
		return nil, fmt.Errorf("filter: %w", err)
	}
	d, err := newDialer(c)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	p := &servers{cfg: c, template: t, dialer: d, log: log, metrics: metrics, stop: stop}
	for _, text := range c.Servers {
		a, err := parseServer(text)
		if err != nil {
			stop()
			return nil, err
		}
		s := newServer(a, d, c)
		s.log = log
		p.servers = append(p.servers, s)
	}
	for _, s := range p.servers {
		p.wg.Go(func() { s.watch(ctx) })
	}
	return p, nil
}

func (p *servers) filter(name Name) string { return p.template.fill(name) }

// request asks for two entries at most: one is the account, two are one too many.
func (p *servers) request(name Name, attributes []string) *ldap.SearchRequest {
	return ldap.NewSearchRequest(p.cfg.Base, ldap.ScopeWholeSubtree, ldap.NeverDerefAliases, 2,
		int((p.cfg.Timeout+time.Second-1)/time.Second), false, p.template.fill(name), attributes, nil)
}

func (p *servers) find(ctx context.Context, name Name, attributes []string) (*entry, string, error) {
	var found []*ldap.Entry
	server, err := p.ask(ctx, "search", func(ctx context.Context, s *server) error {
		return s.try(ctx, func(ctx context.Context, c *conn) (err error) {
			found, err = c.search(ctx, p.request(name, attributes), 2)
			if len(found) > 1 {
				return fmt.Errorf("%w: %s and %s", ErrAmbiguous, clip(found[0].DN), clip(found[1].DN))
			}
			return err
		})
	})
	switch {
	case err != nil:
		return nil, server, err
	case len(found) == 0:
		return nil, server, ErrNoUser
	}
	e := &entry{dn: found[0].DN}
	for _, a := range found[0].Attributes {
		e.attributes = append(e.attributes, attribute{a.Name, a.Values})
	}
	return e, server, nil
}

func (p *servers) checkPassword(ctx context.Context, dn, password string) error {
	_, err := p.ask(ctx, "bind", func(ctx context.Context, s *server) error {
		return s.checkPassword(ctx, dn, password)
	})
	return err
}

// ask goes through the servers until one answers. Servers that are down fail at once, so those that work come first
// without any sorting.
func (p *servers) ask(ctx context.Context, op string, question func(context.Context, *server) error) (string, error) {
	var errs []error
	for _, s := range p.servers {
		began := time.Now()
		err := question(ctx, s)
		p.observe(s, op, err, time.Since(began))
		if err == nil || isAnswer(err) {
			return s.address.url, err
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return "", fmt.Errorf("%w: %w", ErrUnavailable, errors.Join(errs...))
}

func (p *servers) observe(s *server, op string, err error, took time.Duration) {
	if p.metrics == nil {
		return
	}
	outcome := "ok"
	switch {
	case errors.Is(err, ErrBadPassword):
		outcome = "refused"
	case err != nil && !isAnswer(err):
		outcome = "error"
	}
	p.metrics.DirectoryRequest(s.address.url, op, outcome, took)
}

// isAnswer tells what the directory said about an account from an outage.
func isAnswer(err error) bool {
	return errors.Is(err, ErrNoUser) || errors.Is(err, ErrAmbiguous) || errors.Is(err, ErrBadPassword) || errors.Is(err, ErrNoHost)
}

// check connects to every server anew, binds, and searches for a name that nobody has.
func (p *servers) check(ctx context.Context) []error {
	errs := make([]error, len(p.servers))
	var wg sync.WaitGroup
	for i, s := range p.servers {
		wg.Go(func() {
			if err := p.checkServer(ctx, s.address); err != nil {
				errs[i] = fmt.Errorf("directory server %s: %w", s.address.url, err)
			}
		})
	}
	wg.Wait()
	failed := errs[:0]
	for _, err := range errs {
		if err != nil {
			failed = append(failed, err)
		}
	}
	return failed
}

func (p *servers) checkServer(ctx context.Context, a address) error {
	c, err := p.dialer.dial(ctx, a)
	if err != nil {
		return err
	}
	defer c.drop()
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	reader := newReader(p.cfg)
	request := p.request(Name{Local: "mailmux-check", Domain: "invalid"}, reader.names())
	if _, err := c.search(ctx, request, 2); err != nil {
		return fmt.Errorf("search under %q with %s: %w", p.cfg.Base, request.Filter, err)
	}
	return nil
}

func (p *servers) stats() []ServerStats {
	all := make([]ServerStats, 0, len(p.servers))
	for _, s := range p.servers {
		s.mu.Lock()
		st := ServerStats{
			URL: s.address.url, Up: !s.down, Since: s.since, Latency: s.latency,
			Requests: s.requests, Failures: s.failures, Connections: len(s.conns) + len(s.binders),
		}
		for _, c := range s.conns {
			st.InFlight += c.inFlight
		}
		if s.lastErr != nil {
			st.LastError = s.lastErr.Error()
		}
		s.mu.Unlock()
		all = append(all, st)
	}
	return all
}

// reload has nothing to read anew: servers are asked each time.
func (p *servers) reload() error { return nil }

func (p *servers) close() {
	p.stop()
	for _, s := range p.servers {
		s.close()
	}
	p.wg.Wait()
}

func clip(s string) string {
	if len(s) > 200 {
		return s[:200] + "…"
	}
	return s
}
