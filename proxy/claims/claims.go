package claims

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"mailmux/proxy"
	"mailmux/proxy/backend"
	"mailmux/proxy/splice"
)

// ErrOutage: etcd does not answer, or this frontend has no lease there.
var ErrOutage = errors.New("etcd is away")

// ErrElsewhere: the account is on a member that cannot be used from here, and has not left it in time.
var ErrElsewhere = errors.New("the account has not left its member")

// errPutBack: what etcd has forgotten may be in use.
var errPutBack = errors.New("it seems to have been put back to an older state")

// Hosts is the host table; *backend.Table is one. Its methods may be called from many goroutines.
type Hosts interface {
	// Host finds a host by its name.
	Host(name string) (*backend.Host, error)
	// Down lists the members of claimed hosts, as host/member, that the checks see down.
	Down() []string
	// Decide takes members out that the controller has decided down, and gives back those that it names no more.
	Decide(down map[string]string)
	// Wishes is what the operator wants of the members, for SetWishes of another frontend.
	Wishes() ([]byte, error)
	// SetWishes puts the wishes of another frontend in place of those here.
	SetWishes(text []byte) error
}

// Metrics counts what claims cost. Its methods are called from many goroutines, and do not wait.
type Metrics interface {
	// ClaimTransaction counts a request to etcd: what is take, release, renew or other; ok is false for one that was
	// not answered.
	ClaimTransaction(what string, ok bool, took time.Duration)
}

// Parts are what claims are made of, beside their configuration.
type Parts struct {
	Hosts   Hosts
	Wished  func()       // the operator's wishes have changed; it does not wait. nil: nobody is told
	Log     *slog.Logger // nil is silent
	Metrics Metrics      // nil counts nothing
	// Guard is the command that calls Guard with the pid that is added to it; nil: there is no guard.
	Guard []string
}

// Claims is this frontend's part of the agreement. Its methods may be called from many goroutines.
type Claims struct {
	Parts

	cfg       Config
	keys      keys
	name      string // of this frontend, for operators
	endpoints []string
	server    *server // nil without an embedded one
	guard     *guard  // nil without one

	mu      sync.Mutex
	client  *connection   // nil while it could not log in
	tenure  *tenure       // nil without a lease
	changed chan struct{} // closed when tenure changes
	since   time.Time     // when it did
	held    map[string]*holding
	loose   map[*user]struct{} // given without agreement, while etcd was away
	users   int                // of all holdings
	lastErr error              // why there is no lease
	takeErr error              // of the last request to take a claim; nil: it was answered
	verdict verdict
	seen    observed
	horizon int64            // the highest revision that etcd has answered with
	quiet   time.Duration    // on splice.Clock: before it no lease is used, see wentBack
	broken  map[string]int64 // keys whose value was left out, with its revision

	wishing sync.Mutex // one change of the wishes at a time; before mu
	wishRev int64      // of the key w that is in force here; wishing is held

	fenced  atomic.Int64
	workers chan struct{} // bounds requests that nobody waits for
	ctx     context.Context
	stop    context.CancelFunc
	work    sync.WaitGroup

	elections sync.WaitGroup
}

var _ proxy.Claims = (*Claims)(nil)

// Requests that nobody waits for, such as taking back a holder, are at most so many at once.
const workersAtOnce = 64

// Open connects to etcd, or starts the embedded one, and begins to get a lease. It does not wait for that: while etcd is
// away a frontend starts all the same. The caller closes the Claims.
func Open(cfg Config, parts Parts) (*Claims, error) {
	c := &Claims{Parts: parts, cfg: cfg.WithDefaults(), changed: make(chan struct{}), since: time.Now(), held: map[string]*holding{},
		loose: map[*user]struct{}{}, broken: map[string]int64{}, workers: make(chan struct{}, workersAtOnce)}
	c.keys, c.name = keys(c.cfg.Prefix), c.cfg.Name
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Metrics == nil {
		c.Metrics = noMetrics{}
	}
	c.ctx, c.stop = context.WithCancel(context.Background())
	err := c.connect()
	if err == nil && c.cfg.Guard != "off" && c.Parts.Guard != nil {
		c.guard, err = startGuard(c.Parts.Guard, c.cfg.Margin/2, c.Log)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	c.work.Go(c.run)
	return c, nil
}

// Close gives the lease back, which takes all claims back with it. The sessions have to be closed before; those that are
// not are closed now.
func (c *Claims) Close() {
	c.stop()
	c.work.Wait()
	if c.guard != nil {
		c.guard.close()
	}
	c.hangUp()
	c.elections.Wait()
	if c.server != nil {
		c.server.close()
	}
}

// commit sends a transaction, within claims.timeout. An error may mean that it is carried out all the same, now or later.
func (c *Claims) commit(ctx context.Context, what string, txn func(clientv3.Txn) clientv3.Txn) (*clientv3.TxnResponse, error) {
	client, err := c.etcd()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	began, horizon := time.Now(), c.reached()
	r, err := txn(client.Txn(ctx)).Commit()
	c.Metrics.ClaimTransaction(what, err == nil, time.Since(began))
	if err != nil {
		err = fmt.Errorf("%w: %s: %w", ErrOutage, what, err)
	}
	if what == "take" {
		c.mu.Lock()
		c.takeErr = err
		c.mu.Unlock()
	}
	if err != nil {
		return nil, err
	}
	return r, c.answered(horizon, r.Header.Revision)
}

// get reads keys, within claims.timeout.
func (c *Claims) get(ctx context.Context, key string, options ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	client, err := c.etcd()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	began, horizon := time.Now(), c.reached()
	r, err := client.Get(ctx, key, options...)
	c.Metrics.ClaimTransaction("other", err == nil, time.Since(began))
	if err != nil {
		return nil, fmt.Errorf("%w: read %s: %w", ErrOutage, key, err)
	}
	return r, c.answered(horizon, r.Header.Revision)
}

// reached is the highest revision of an answer so far: no request that is sent from now on is answered with a lower one.
func (c *Claims) reached() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.horizon
}

// answered notes the revision of an answer. One that is lower than etcd had reached before the request was sent means that
// etcd has been put back to an older state, such as a snapshot, and that claims are forgotten which are still in use.
func (c *Claims) answered(before, rev int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if rev >= min(before, c.horizon) { // c.horizon is the lower one when somebody has found out meanwhile
		c.horizon = max(c.horizon, rev)
		return nil
	}
	err := fmt.Errorf("%w: %w: it was at revision %d and is at %d by now", ErrOutage, errPutBack, c.horizon, rev)
	c.horizon = rev
	c.wentBack()
	if c.tenure != nil {
		c.tenure.gate.Close()
		c.tenure.cancel(err)
	}
	return err
}

// wentBack has this frontend use no new lease for the time that others may go on under theirs: each of them finds out for
// itself within that time, or loses its lease. mu is held.
func (c *Claims) wentBack() { c.quiet = splice.Clock() + c.cfg.Lease }

// background runs what nobody waits for, not too many at once.
func (c *Claims) background(f func()) {
	c.work.Go(func() {
		c.workers <- struct{}{}
		defer func() { <-c.workers }()
		f()
	})
}

// pause waits, unless ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

type noMetrics struct{}

func (noMetrics) ClaimTransaction(string, bool, time.Duration) {}
