package directory

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// Metrics is told what the directory does. Its methods may be called from many goroutines at once. A nil Metrics counts
// nothing.
type Metrics interface {
	// DirectoryLookup is called at the end of each lookup. Outcome is one of hit, negative, stale, found, no_user,
	// ambiguous, no_host, unavailable.
	DirectoryLookup(outcome string, took time.Duration)
	// DirectoryRequest is called for each request to a server: its configured URL; search or bind; ok, refused or error.
	DirectoryRequest(server, op, outcome string, took time.Duration)
}

// Directory answers lookups from memory and from its source. Its methods may be called from many goroutines at once.
type Directory struct {
	cfg     Config
	source  source
	reader  reader
	memory  *memory
	log     *slog.Logger
	metrics Metrics

	flights singleflight.Group
	ctx     context.Context // ends with Close: what many wait for must not end with one of them
	stop    context.CancelFunc

	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup // fetches and the sweeper
}

var _ Lookup = (*Directory)(nil)

// New makes a Directory. It reads the secrets, and the LDIF file if that is the source, but asks no server: a directory
// that is away now may come back. A nil log is silent, nil metrics count nothing. The caller closes it.
func New(cfg Config, log *slog.Logger, metrics Metrics) (*Directory, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	cfg = cfg.WithDefaults()
	d := &Directory{cfg: cfg, reader: newReader(cfg), memory: newMemory(cfg.Cache), log: log, metrics: metrics}
	d.ctx, d.stop = context.WithCancel(context.Background())
	var err error
	if file, ok := ldifFile(cfg.Servers[0]); ok {
		if d.source, err = newFile(file, cfg); err != nil {
			err = fmt.Errorf("servers[0]: %w", err)
		}
	} else {
		d.source, err = newServers(cfg, log, metrics)
	}
	if err != nil {
		return nil, err
	}
	d.wg.Go(d.sweep)
	return d, nil
}

// sweep clears the memory of what is too old, now and then.
func (d *Directory) sweep() {
	ticker := time.NewTicker(10 * time.Minute)
	defer ticker.Stop()
	for {
		select {
		case <-d.ctx.Done():
			return
		case <-ticker.C:
			d.memory.sweep()
		}
	}
}

// Close ends all connections. Lookups under way end with ErrUnavailable.
func (d *Directory) Close() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.stop()
	d.source.close()
	d.wg.Wait()
}

// Lookup finds the account of a normalised name, from memory if it is fresh there. When the directory is away, what is
// remembered is served beyond its time, marked Stale.
func (d *Directory) Lookup(ctx context.Context, name Name) (Account, error) {
	began := time.Now()
	kept := d.memory.recall(name)
	if kept == nil || !began.Before(kept.fresh) {
		a, err := d.ask(ctx, name, kept)
		d.count(a, err, time.Since(began))
		return a, err
	}
	a, err := kept.answer(began)
	if err != nil {
		d.memory.counts.negatives.Add(1)
	} else {
		d.memory.counts.hits.Add(1)
	}
	if d.metrics != nil {
		outcome := "hit"
		if err != nil {
			outcome = "negative"
		}
		d.metrics.DirectoryLookup(outcome, time.Since(began))
	}
	return a, err
}

// ask asks the source, and falls back to what is remembered when the source is away.
func (d *Directory) ask(ctx context.Context, name Name, kept *remembered) (Account, error) {
	d.memory.counts.misses.Add(1)
	a, err := d.fetch(ctx, name, "")
	if err == nil || isAnswer(err) || kept == nil || kept.err != nil {
		return a, err
	}
	d.memory.counts.stale.Add(1)
	a, _ = kept.answer(time.Now())
	a.Stale = true
	return a, nil
}

// Refresh asks the directory past the cache, and remembers the answer in place of the one before. An outage is an error
// here, and leaves the memory as it is.
func (d *Directory) Refresh(ctx context.Context, name Name) (Account, error) {
	began := time.Now()
	// Flights of their own: a lookup that is under way may have asked before the change that the caller is after.
	a, err := d.fetch(ctx, name, "refresh ")
	d.count(a, err, time.Since(began))
	return a, err
}

// fetch asks the source, once for all who ask for the same name at the same time. It goes on when the caller is gone,
// for the others and for the memory.
func (d *Directory) fetch(ctx context.Context, name Name, kind string) (Account, error) {
	name.Detail = ""
	answer := d.flights.DoChan(kind+name.key(), func() (any, error) { return d.load(name) })
	select {
	case r := <-answer:
		a, _ := r.Val.(Account)
		return a, r.Err
	case <-ctx.Done():
		return Account{}, fmt.Errorf("%w: look up %s: %w", ErrUnavailable, name, ctx.Err())
	}
}

func (d *Directory) load(name Name) (Account, error) {
	if !d.begin() {
		return Account{}, fmt.Errorf("%w: closed", ErrUnavailable)
	}
	defer d.wg.Done()
	epoch := d.memory.epoch.Load()
	e, _, err := d.source.find(d.ctx, name, d.reader.names())
	var a Account
	if err == nil {
		a, err = d.reader.account(e, name)
	}
	if err != nil && !isAnswer(err) {
		if !errors.Is(err, ErrUnavailable) {
			err = fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		return Account{}, fmt.Errorf("look up %s: %w", name, err)
	}
	if a.Status == Unknown {
		d.log.Warn("account has a status that is not configured, and is refused", "account", a.Login, "dn", a.DN, "attribute", d.cfg.Attributes.Status)
	}
	d.memory.learn(name, a, err, epoch)
	return a, err
}

// begin counts something that Close has to wait for, unless it is too late.
func (d *Directory) begin() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return false
	}
	d.wg.Add(1)
	return true
}

func (d *Directory) count(a Account, err error, took time.Duration) {
	if d.metrics == nil {
		return
	}
	outcome := "found"
	switch {
	case err == nil && a.Stale:
		outcome = "stale"
	case err == nil:
	case errors.Is(err, ErrNoUser):
		outcome = "no_user"
	case errors.Is(err, ErrAmbiguous):
		outcome = "ambiguous"
	case errors.Is(err, ErrNoHost):
		outcome = "no_host"
	default:
		outcome = "unavailable"
	}
	d.metrics.DirectoryLookup(outcome, took)
}

// CheckPassword verifies a password by a bind as the account's entry. An empty password is ErrBadPassword and reaches no
// server (RFC 4513 section 5.1.2: it would be an unauthenticated bind, and succeed), and so is one with a NUL.
func (d *Directory) CheckPassword(ctx context.Context, account Account, password string) error {
	if password == "" || account.DN == "" {
		return ErrBadPassword
	}
	for i := range len(password) {
		if password[i] == 0 {
			return ErrBadPassword
		}
	}
	if !d.begin() {
		return fmt.Errorf("%w: closed", ErrUnavailable)
	}
	defer d.wg.Done()
	err := d.source.checkPassword(ctx, account.DN, password)
	if err != nil && !errors.Is(err, ErrBadPassword) {
		return fmt.Errorf("check the password of %s: %w", account.DN, err)
	}
	return err
}

// Forget drops what is remembered of names, so that the next lookup asks the directory.
func (d *Directory) Forget(names ...Name) {
	if len(names) > 0 {
		d.memory.forget(names...)
	}
}

// ForgetAll drops all that is remembered.
func (d *Directory) ForgetAll() { d.memory.forget() }

// ForgetHost drops the accounts whose home host is host, and says how many: for the end of a failover.
func (d *Directory) ForgetHost(host string) int {
	host = lower(host)
	return d.memory.forgetIf(func(a *Account) bool { return a.Host == host })
}

// Check tries every server as a lookup would: connect, bind, search. It gives one error for each server that fails.
func (d *Directory) Check(ctx context.Context) []error { return d.source.check(ctx) }

// Reload reads an LDIF file anew and forgets everything. When the file cannot be read the old content stays in use.
// LDAP servers are asked each time, so there is nothing to read from them.
func (d *Directory) Reload() error {
	if err := d.source.reload(); err != nil {
		return err
	}
	if d.cfg.isLDIF() {
		d.memory.forget()
	}
	return nil
}
