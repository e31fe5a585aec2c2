package deliver

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"

	"mailmux/proxy"
	"mailmux/proxy/backend"
	"mailmux/proxy/spool"
)

// Smarthosts are the way out to other sites. They are a host of their own, whose members are chosen, dialed, and left out
// while they fail, as those of home hosts are. Its methods may be called from many goroutines.
type Smarthosts struct {
	table  *backend.Table
	logins atomic.Pointer[map[string]*login] // by member
}

// NewSmarthosts makes the smarthosts of a valid configuration, and reads the files that it names. The caller closes them.
func NewSmarthosts(cfg OutgoingConfig, options backend.Options) (*Smarthosts, error) {
	s := &Smarthosts{}
	logins, err := readLogins(cfg)
	if err != nil {
		return nil, err
	}
	options.Services = []string{"smtp"}
	if s.table, err = backend.New(cfg.table(), options); err != nil {
		return nil, fmt.Errorf("outgoing.smarthosts: %w", err)
	}
	s.logins.Store(&logins)
	return s, nil
}

// Configure puts another configuration in place for the messages to come. After an error the old one is in use.
func (s *Smarthosts) Configure(cfg OutgoingConfig) error {
	logins, err := readLogins(cfg)
	if err != nil {
		return err
	}
	if err := s.table.Update(cfg.table()); err != nil {
		return fmt.Errorf("outgoing.smarthosts: %w", err)
	}
	s.logins.Store(&logins)
	return nil
}

// Close gives back what they hold.
func (s *Smarthosts) Close() { s.table.Close() }

// Any says whether there is a way out at all. A nil Smarthosts has none.
func (s *Smarthosts) Any() bool {
	if s == nil {
		return false
	}
	_, err := s.table.Host(Outgoing)
	return err == nil
}

func readLogins(cfg OutgoingConfig) (map[string]*login, error) {
	logins := map[string]*login{}
	for i, s := range cfg.Smarthosts {
		if s.User == "" {
			continue
		}
		text, err := os.ReadFile(s.PasswordFile)
		password := strings.TrimRight(string(text), "\r\n")
		if err == nil && password == "" {
			err = fmt.Errorf("%s is empty", s.PasswordFile)
		}
		if err != nil {
			return nil, fmt.Errorf("outgoing.smarthosts[%d].password_file: %w", i, err)
		}
		logins[s.Address] = &login{s.User, password}
	}
	return logins, nil
}

// route chooses a smarthost.
func (s *Smarthosts) route() (spool.Target, error) {
	host, err := s.table.Host(Outgoing)
	if err != nil {
		return spool.Target{}, err
	}
	m, err := host.Choose("smtp", rand.Text(), nil)
	if err != nil {
		return spool.Target{Host: Outgoing}, err
	}
	return spool.Target{Host: Outgoing, Member: m.Name()}, nil
}

// begin begins a transaction at the smarthost named, or at the next one that can be reached. An error with a *proxy.Reply is
// a smarthost's refusal of the sender.
func (s *Smarthosts) begin(ctx context.Context, d *Deliverer, name string, from *From) (*Transaction, error) {
	host, err := s.table.Host(Outgoing)
	if err != nil {
		return nil, err
	}
	var tried backend.Tried
	var faults []error
	for m := host.Member(name); ; {
		if m == nil {
			if m, err = host.Choose("smtp", rand.Text(), &tried); err != nil {
				return nil, unreached(faults, err)
			}
		}
		from.login = (*s.logins.Load())[m.Name()]
		tx, err := d.Begin(ctx, m, "smtp", from)
		var reply *proxy.Reply
		if err == nil || errors.As(err, &reply) || ctx.Err() != nil {
			return tx, err
		}
		faults = append(faults, named(m, err))
		tried.Add(m, err)
		m = nil
	}
}

// named is an error with the smarthost that it is of, if it does not say that itself.
func named(m *backend.Member, err error) error {
	var known *backend.DialError
	if errors.As(err, &known) {
		return err
	}
	return fmt.Errorf("%s: %w", m.Name(), err)
}

// unreached says in one line why no smarthost took the message.
func unreached(faults []error, none error) error {
	if len(faults) == 0 {
		return none
	}
	texts := make([]string, len(faults))
	for i, err := range faults {
		texts[i] = err.Error()
	}
	return errors.New(strings.Join(texts, "; "))
}

// abroad is the target of a recipient that nobody here has the address of.
func (q *Queued) abroad(to *spool.Recipient) (spool.Target, error) {
	if !to.Relay || !q.Smarthosts.Any() || q.own(to.Address) {
		return spool.Target{}, &spool.PermanentError{Status: "5.1.1", Reply: "550 5.1.1 No such user here"}
	}
	return q.Smarthosts.route()
}

// own says whether an address is of a domain that is ours alone: then nobody else has the user either.
func (q *Queued) own(address string) bool {
	cfg := q.Deliverer.config()
	if len(cfg.LocalDomains) == 0 {
		return false
	}
	name, err := q.Server().Normalise(address)
	return err != nil || name.Domain == "" || cfg.Local(name.Domain)
}

// send hands a queued message to a smarthost.
func (q *Queued) send(ctx context.Context, to spool.Target, m *spool.Message, rcpts []spool.Recipient, from *From) []spool.Outcome {
	outcomes := make([]spool.Outcome, len(rcpts))
	tx, err := q.Smarthosts.begin(ctx, q.Deliverer, to.Member, from)
	var reply *proxy.Reply
	switch {
	case errors.As(err, &reply):
		return settled(outcomes, outcome(Parse(reply.Text)))
	case err != nil:
		return settled(outcomes, away(err))
	}
	name := tx.leg.member.Name()
	outcomes = q.transact(ctx, tx, m, rcpts, "smtp", outcomes)
	for i := range outcomes {
		outcomes[i].Member = name
	}
	return outcomes
}
