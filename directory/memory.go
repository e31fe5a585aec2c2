package directory

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/patrickmn/go-cache"
)

// memory remembers what the directory said. It is the only user of go-cache, which knows no bound, no types and no
// keys chosen by strangers: accounts and "no such user" are kept apart, each with a bound of its own, so that somebody
// who tries a million names cannot make the frontend forget its accounts.
type memory struct {
	ttl, negative, stale time.Duration

	accounts  *cache.Cache
	strangers *cache.Cache
	nobodies  int // the bound of strangers
	epoch     atomic.Uint64

	mu    sync.Mutex
	order []string // the keys of accounts in the order they came; a ring when it is full
	next  int      // the oldest key of a full ring
	limit int
	swept time.Time // when strangers were last cleared of old entries

	counts counts
}

// counts are what the statistics tell.
type counts struct {
	hits, negatives, stale, misses, forgotten, unremembered atomic.Uint64
}

// remembered is one answer. It is never changed once it is kept.
type remembered struct {
	account Account
	err     error // ErrNoUser, ErrAmbiguous or ErrNoHost; nil for an account
	learnt  time.Time
	fresh   time.Time // believed until then
}

func newMemory(c CacheConfig) *memory {
	return &memory{
		ttl: c.TTL, negative: c.NegativeTTL, stale: max(c.Stale, c.TTL),
		// Without an interval go-cache starts no goroutine; sweep is called by the directory's own.
		accounts:  cache.New(cache.NoExpiration, 0),
		strangers: cache.New(cache.NoExpiration, 0),
		limit:     c.MaxEntries,
		nobodies:  max(c.MaxEntries/10, 1),
	}
}

// recall gives what is remembered of a name, nil if nothing is. The key is made on the stack while it is short.
func (m *memory) recall(n Name) *remembered {
	if kept, ok := m.accounts.Get(n.Local + "@" + n.Domain); ok {
		return kept.(*remembered)
	}
	if kept, ok := m.strangers.Get(n.Local + "@" + n.Domain); ok {
		return kept.(*remembered)
	}
	return nil
}

// key is unambiguous: a domain holds no @.
func (n Name) key() string { return n.Local + "@" + n.Domain }

// answer gives the remembered answer as of now.
func (r *remembered) answer(now time.Time) (Account, error) {
	if r.err != nil {
		return Account{}, r.err
	}
	a := r.account
	a.Cached, a.Age = true, now.Sub(r.learnt)
	return a, nil
}

// learn remembers an answer, unless something was forgotten since epoch: the answer may be from before the change that
// was the reason to forget.
func (m *memory) learn(n Name, a Account, err error, epoch uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.epoch.Load() != epoch {
		return
	}
	key, now := n.key(), time.Now()
	if err != nil {
		m.accounts.Delete(key)
		m.learnNobody(key, err, now)
		return
	}
	m.strangers.Delete(key)
	if _, ok := m.accounts.Get(key); !ok {
		m.makeRoom(key)
	}
	ttl := m.ttl - time.Duration(rand.Int64N(int64(m.ttl)/10+1))
	m.accounts.Set(key, &remembered{account: a, learnt: now, fresh: now.Add(ttl)}, m.stale)
}

// makeRoom enters a new key in the ring, in the place of the oldest one when the ring is full.
func (m *memory) makeRoom(key string) {
	if len(m.order) < m.limit {
		m.order = append(m.order, key)
		return
	}
	m.accounts.Delete(m.order[m.next])
	m.order[m.next] = key
	m.next = (m.next + 1) % len(m.order)
}

// learnNobody remembers that a name is nobody's. When there is no room it is not remembered: a flood of names costs
// lookups then, but no memory. Clearing takes a look at every entry, hence not more than once a second.
func (m *memory) learnNobody(key string, err error, now time.Time) {
	if m.strangers.ItemCount() >= m.nobodies {
		if now.Sub(m.swept) >= time.Second {
			m.swept = now
			m.strangers.DeleteExpired()
		}
		if m.strangers.ItemCount() >= m.nobodies {
			m.counts.unremembered.Add(1)
			return
		}
	}
	m.strangers.Set(key, &remembered{err: err, learnt: now, fresh: now.Add(m.negative)}, m.negative)
}

// forget drops names; none means all.
func (m *memory) forget(names ...Name) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.epoch.Add(1)
	m.counts.forgotten.Add(uint64(len(names)))
	if len(names) == 0 {
		m.accounts.Flush()
		m.strangers.Flush()
		m.order, m.next = nil, 0
		return
	}
	for _, n := range names {
		m.accounts.Delete(n.key())
		m.strangers.Delete(n.key())
	}
}

// forgetIf drops the accounts that match.
func (m *memory) forgetIf(match func(*Account) bool) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.epoch.Add(1)
	dropped := 0
	for key, item := range m.accounts.Items() {
		if match(&item.Object.(*remembered).account) {
			m.accounts.Delete(key)
			dropped++
		}
	}
	m.counts.forgotten.Add(uint64(dropped))
	return dropped
}

// sweep drops what is too old to be of use. The ring keeps the keys until their turn comes.
func (m *memory) sweep() {
	m.strangers.DeleteExpired()
	m.accounts.DeleteExpired()
}
