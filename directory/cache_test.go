package directory

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// scripted is a source that does what a test tells it.
type scripted struct {
	mu    sync.Mutex
	hosts map[string]string
	err   error
	gate  chan struct{} // if set, every find waits for it
	asked atomic.Int64
}

func (s *scripted) find(ctx context.Context, name Name, _ []string) (*entry, string, error) {
	s.asked.Add(1)
	s.mu.Lock()
	host, err, gate := s.hosts[name.Local], s.err, s.gate
	s.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, "", ctx.Err()
		}
	}
	switch {
	case err != nil:
		return nil, "", err
	case host == "":
		return nil, "", ErrNoUser
	}
	return &entry{dn: "uid=" + name.Local, attributes: []attribute{{"hostserver", []string{host}}}}, "", nil
}

func (s *scripted) set(name, host string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hosts[name], s.err = host, err
}

func (s *scripted) entry(context.Context, string, string) (*entry, error) { return nil, errNoEntry }
func (s *scripted) checkPassword(context.Context, string, string) error   { return nil }
func (s *scripted) check(context.Context) []error                         { return nil }
func (s *scripted) filter(Name) string                                    { return "" }
func (s *scripted) stats() []ServerStats                                  { return nil }
func (s *scripted) reload() error                                         { return nil }
func (s *scripted) close()                                                {}

func openScripted(t testing.TB, c CacheConfig) (*Directory, *scripted) {
	t.Helper()
	d, err := New(Config{Servers: []string{"ldap://192.0.2.1"}, Base: "dc=x", Cache: c}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	d.source.close()
	s := &scripted{hosts: map[string]string{}}
	d.source = s
	return d, s
}

func TestAnswersAreRemembered(t *testing.T) {
	d, s := openScripted(t, CacheConfig{})
	ctx := t.Context()
	s.set("ann", "h1", nil)
	for i := range 3 {
		if a, err := d.Lookup(ctx, at("ann")); err != nil || a.Host != "h1" || a.Cached != (i > 0) {
			t.Errorf("lookup %d: %+v, %v", i, a, err)
		}
		if _, err := d.Lookup(ctx, at("nobody")); !errors.Is(err, ErrNoUser) {
			t.Errorf("nobody: %v", err)
		}
	}
	if n := s.asked.Load(); n != 2 {
		t.Errorf("asked %d times, want 2", n)
	}
	// The detail of a recipient is no part of the account's name.
	if a, err := d.Lookup(ctx, Name{Local: "ann", Domain: "example.com", Detail: "lists"}); err != nil || !a.Cached {
		t.Errorf("with detail: %+v, %v", a, err)
	}
	s.set("ann", "h2", nil)
	s.set("nobody", "h3", nil)
	if a, err := d.Refresh(ctx, at("ann")); err != nil || a.Host != "h2" {
		t.Errorf("refresh: %+v, %v", a, err)
	}
	if a, err := d.Lookup(ctx, at("ann")); err != nil || a.Host != "h2" || !a.Cached {
		t.Errorf("after refresh: %+v, %v", a, err)
	}
	d.Forget(at("nobody"))
	if a, err := d.Lookup(ctx, at("nobody")); err != nil || a.Host != "h3" {
		t.Errorf("after Forget: %+v, %v", a, err)
	}
	s.set("ann", "", nil)
	if _, err := d.Refresh(ctx, at("ann")); !errors.Is(err, ErrNoUser) {
		t.Errorf("refresh of a deleted account: %v", err)
	}
	if _, err := d.Lookup(ctx, at("ann")); !errors.Is(err, ErrNoUser) {
		t.Errorf("a deleted account is still served: %v", err)
	}
	if n := d.ForgetHost("H3"); n != 1 {
		t.Errorf("ForgetHost dropped %d", n)
	}
	d.ForgetAll()
	if st := d.Stats().Cache; st.Entries+st.Negative != 0 {
		t.Errorf("after ForgetAll: %+v", st)
	}
}

func TestOutagesAreNeverRemembered(t *testing.T) {
	d, s := openScripted(t, CacheConfig{TTL: time.Nanosecond, NegativeTTL: time.Nanosecond, Stale: time.Hour})
	ctx := t.Context()
	outage := fmt.Errorf("%w: gone", ErrUnavailable)
	s.set("ann", "h1", nil)
	if _, err := d.Lookup(ctx, at("ann")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Lookup(ctx, at("nobody")); !errors.Is(err, ErrNoUser) {
		t.Fatal(err)
	}
	s.set("bob", "h1", outage)
	if a, err := d.Lookup(ctx, at("ann")); err != nil || !a.Stale {
		t.Errorf("remembered: %+v, %v", a, err)
	}
	for _, name := range []string{"bob", "nobody"} {
		if _, err := d.Lookup(ctx, at(name)); !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrNoUser) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.set("bob", "h1", nil)
	if a, err := d.Lookup(ctx, at("bob")); err != nil || a.Stale {
		t.Errorf("bob after the outage: %+v, %v", a, err)
	}
}

func TestStaleHasAnEnd(t *testing.T) {
	d, s := openScripted(t, CacheConfig{TTL: time.Nanosecond, Stale: 20 * time.Millisecond})
	s.set("ann", "h1", nil)
	if _, err := d.Lookup(t.Context(), at("ann")); err != nil {
		t.Fatal(err)
	}
	s.set("ann", "h1", ErrUnavailable)
	until(t, "the stale copy ends", func() bool { _, err := d.Lookup(t.Context(), at("ann")); return errors.Is(err, ErrUnavailable) })
}

func TestManyWhoAskForOneNameAreOneRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, s := openScripted(t, CacheConfig{})
		s.set("ann", "h1", nil)
		s.gate = make(chan struct{})
		first, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var served atomic.Int64
		for i := range 50 {
			ctx := t.Context()
			if i == 0 {
				ctx = first
			}
			wg.Go(func() {
				if a, err := d.Lookup(ctx, at("ann")); err == nil && a.Host == "h1" {
					served.Add(1)
				}
			})
		}
		synctest.Wait()
		cancel() // One gives up, maybe the one who asked first: that must not fail the others.
		synctest.Wait()
		close(s.gate)
		wg.Wait()
		if s.asked.Load() != 1 || served.Load() != 49 {
			t.Errorf("%d requests, %d of 50 served", s.asked.Load(), served.Load())
		}
	})
}

// An answer that was under way when its name was forgotten may be from before the change: it must not be remembered.
func TestForgetBeatsAnAnswerUnderWay(t *testing.T) {
	d, s := openScripted(t, CacheConfig{})
	s.set("ann", "old", nil)
	s.gate = make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = d.Lookup(t.Context(), at("ann")) })
	until(t, "the question is under way", func() bool { return s.asked.Load() == 1 })
	s.set("ann", "new", nil)
	d.Forget(at("ann"))
	close(s.gate)
	wg.Wait()
	if a, err := d.Lookup(t.Context(), at("ann")); err != nil || a.Host != "new" {
		t.Errorf("got %+v, %v", a, err)
	}
}

func TestTheMemoryIsBounded(t *testing.T) {
	d, s := openScripted(t, CacheConfig{MaxEntries: 1000, NegativeTTL: time.Hour})
	ctx := t.Context()
	for i := range 900 {
		s.set(fmt.Sprint("user", i), "h1", nil)
		if _, err := d.Lookup(ctx, at(fmt.Sprint("user", i))); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5000 {
		_, _ = d.Lookup(ctx, at(fmt.Sprint("stranger", i)))
	}
	st := d.Stats().Cache
	if st.Entries != 900 || st.Negative != 100 || st.Unremembered != 4900 {
		t.Errorf("after a flood of strangers: %+v", st)
	}
	for i := 900; i < 5000; i++ {
		s.set(fmt.Sprint("user", i), "h1", nil)
		_, _ = d.Lookup(ctx, at(fmt.Sprint("user", i)))
	}
	if st := d.Stats().Cache; st.Entries != 1000 {
		t.Errorf("after more accounts than fit: %+v", st)
	}
	if a, err := d.Lookup(ctx, at("user4999")); err != nil || !a.Cached {
		t.Errorf("the newest: %+v, %v", a, err)
	}
	// Forgetting and learning again, many times over, neither grows the ring nor empties the memory.
	for i := range 5000 {
		name := at(fmt.Sprint("user", 4500+i%500))
		d.Forget(name)
		_, _ = d.Lookup(ctx, name)
	}
	if n := len(d.memory.order); n != 1000 {
		t.Errorf("the ring has %d keys", n)
	}
}

func TestCacheHitsCostNoAllocation(t *testing.T) {
	d, s := openScripted(t, CacheConfig{})
	s.set("ann", "h1", nil)
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() { _, _ = d.Lookup(ctx, at("ann")) }); n > 0 {
		t.Errorf("a hit costs %v allocations", n)
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = d.Lookup(ctx, at("nobody")) }); n > 0 {
		t.Errorf("a negative hit costs %v allocations", n)
	}
}

func BenchmarkCacheHit(b *testing.B) {
	d, s := openScripted(b, CacheConfig{})
	for i := range 100_000 {
		name := fmt.Sprint("user", i)
		s.hosts[name] = "h1"
		if _, err := d.Lookup(b.Context(), at(name)); err != nil {
			b.Fatal(err)
		}
	}
	name, ctx := at("user4711"), b.Context()
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := d.Lookup(ctx, name); err != nil {
				b.Error(err)
			}
		}
	})
}

func TestClosedDirectory(t *testing.T) {
	d, _ := openScripted(t, CacheConfig{})
	d.Close()
	if _, err := d.Lookup(t.Context(), at("ann")); !errors.Is(err, ErrUnavailable) {
		t.Errorf("lookup: %v", err)
	}
	if err := d.CheckPassword(t.Context(), Account{DN: "x"}, "x"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("password: %v", err)
	}
}
