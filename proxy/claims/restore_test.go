package claims

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"mailmux/proxy/backend"
)

// An etcd that is put back to an older state has forgotten the claims that are in use. Nobody gets an account before the
// frontend that has it has found out, and closed its sessions.
func TestEtcdPutBack(t *testing.T) {
	endpoint := etcd(t)
	a, tabA := site(t, endpoint, "a", nil)
	b, tabB := site(t, endpoint, "b", nil)
	cut := make(chan struct{})
	w := want(t, tabA, "ann", "n1", func() { close(cut) })
	take(t, a, w)
	for _, c := range []*Claims{a, b} {
		c.mu.Lock()
		c.horizon += 1000 // what etcd had come to
		c.mu.Unlock()
	}
	if _, err := b.client.Delete(t.Context(), b.keys.holders(nameOfKey(w.Key)), clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	u, err := b.Take(ctx, want(t, tabB, "ann", "n2", nil))
	if err == nil {
		t.Errorf("ann goes to %s by the word of an etcd that has forgotten her", u.Member())
	} else if !errors.Is(err, errPutBack) {
		t.Errorf("the error does not say why: %v", err)
	}
	for err != nil && ctx.Err() == nil {
		u, err = b.Take(ctx, want(t, tabB, "ann", "n2", nil))
	}
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-cut:
	default:
		t.Errorf("ann goes to %s, and a has not closed its session", u.Member())
	}
	if n, m := a.Status().Fenced, b.Status().Fenced; n != 1 || m != 1 {
		t.Errorf("the frontends were fenced %d and %d times", n, m)
	}
}

// Wishes that come at the same moment, from one frontend or from several, all hold, on all frontends.
func TestWishesAtOnce(t *testing.T) {
	endpoint := etcd(t)
	a, tabA := site(t, endpoint, "a", nil)
	b, tabB := site(t, endpoint, "b", nil)
	tables := map[*Claims]*backend.Table{a: tabA, b: tabB}
	for round := range 10 {
		withdrawn := round%2 == 0
		var work sync.WaitGroup
		for c, name := range map[*Claims][]string{a: {"n1", "n2"}, b: {"n3"}} {
			for _, n := range name {
				work.Go(func() {
					err := c.Wish(t.Context(), func() error {
						if withdrawn {
							return tables[c].Withdraw(host+"/"+n, false)
						}
						return tables[c].Ready(host + "/" + n)
					})
					if err != nil {
						t.Error(err)
					}
				})
			}
		}
		work.Wait()
		for _, tab := range tables {
			h, err := tab.Host(host)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range h.Members() {
				until(t, fmt.Sprintf("round %d: %s withdrawn: %v", round, m, withdrawn), func() bool { w, _ := m.Withdrawn(); return w == withdrawn })
			}
		}
	}
}

// A member that this frontend has lost from its list is left by the others, for the account's sessions here.
func TestMemberThatIsNotListed(t *testing.T) {
	endpoint := etcd(t)
	a, tabA := site(t, endpoint, "a", nil)
	b, tabB := site(t, endpoint, "b", nil)
	var first interface{ Release() }
	first = take(t, a, want(t, tabA, "ann", "n1", func() { first.Release() }))
	less := backend.Config{Hosts: map[string]backend.HostConfig{host: {Sticky: "claim", Members: []backend.MemberConfig{{Address: "127.0.0.2", Name: "n2"}}}}}
	less.Backend.Check.Mode = "off"
	if err := tabB.Update(less); err != nil {
		t.Fatal(err)
	}
	if u := take(t, b, want(t, tabB, "ann", "n2", nil)); u.Member().Name() != "n2" {
		t.Errorf("ann is at %s", u.Member())
	}
}

// A request that was not answered may leave a holder behind that its frontend does not know of. It is cleared away when
// somebody waits for the account to leave its member.
func TestUnknownHolderIsCleared(t *testing.T) {
	endpoint := etcd(t)
	a, _ := site(t, endpoint, "a", nil)
	b, tabB := site(t, endpoint, "b", nil)
	w := want(t, tabB, "ann", "n1", nil)
	first := take(t, b, w)
	a.mu.Lock()
	lease := a.tenure
	lease.doubtful = true
	a.mu.Unlock()
	if _, err := a.client.Put(t.Context(), a.keys.holders(nameOfKey(w.Key))+lease.name, "", clientv3.WithLease(lease.id)); err != nil {
		t.Fatal(err)
	}
	if err := b.Move(t.Context(), w.Key, host+"/n2"); err != nil {
		t.Fatal(err)
	}
	first.Release()
	if u := take(t, b, w); u.Member().Name() != "n2" {
		t.Errorf("ann is at %s", u.Member())
	}
}

// A value that makes no sense is said once, and a verdict that makes none is replaced.
func TestBrokenValuesAreSaidOnce(t *testing.T) {
	var log lockedLog
	tab := table(t)
	c, err := Open(Config{Name: "a", Endpoints: []string{etcd(t)}, Lease: 3 * time.Second, Margin: time.Second, Guard: "off"},
		Parts{Hosts: tab, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	until(t, "the controller", func() bool { return c.Status().Leading })
	if _, err := c.client.Put(t.Context(), c.keys.frontend("1"), "{"); err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		r, err := c.client.Put(t.Context(), c.keys.verdict(), "{"+strconv.Itoa(round))
		if err != nil {
			t.Fatal(err)
		}
		until(t, "another verdict", func() bool {
			got, err := c.client.Get(t.Context(), c.keys.verdict())
			return err == nil && got.Kvs[0].ModRevision > r.Header.Revision
		})
	}
	if n := strings.Count(log.String(), c.keys.frontend("1")); n != 1 {
		t.Errorf("a broken value was said %d times:\n%s", n, log.String())
	}
}

// lockedLog is written by many goroutines.
type lockedLog struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// An etcd that is full renews leases, and takes no claims: the status says why.
func TestFullEtcd(t *testing.T) {
	endpoint := etcd(t)
	c, tab := site(t, endpoint, "a", nil)
	alarm := func(what etcdserverpb.AlarmRequest_AlarmAction) {
		t.Helper()
		_, err := etcdserverpb.NewMaintenanceClient(c.client.ActiveConnection()).Alarm(t.Context(), &etcdserverpb.AlarmRequest{Action: what, Alarm: etcdserverpb.AlarmType_NOSPACE})
		if err != nil {
			t.Fatal(err)
		}
	}
	alarm(etcdserverpb.AlarmRequest_ACTIVATE)
	if _, err := c.Take(t.Context(), want(t, tab, "ann", "n1", nil)); !errors.Is(err, ErrOutage) {
		t.Errorf("ann is told %v", err)
	}
	if s := c.Status(); s.State != "held" || !strings.Contains(s.Error, "database space exceeded") {
		t.Errorf("the status is %+v", s)
	}
	if _, faults := Check(t.Context(), Config{Endpoints: []string{endpoint}}); len(faults) != 1 || !strings.HasPrefix(faults[0].Error(), "claims.endpoints: etcd is full") {
		t.Errorf("the check finds %v", faults)
	}
	alarm(etcdserverpb.AlarmRequest_DEACTIVATE)
	take(t, c, want(t, tab, "ann", "n1", nil)).Release()
	if s := c.Status(); s.Error != "" {
		t.Errorf("the status is %+v", s)
	}
}

// A renewal in a term of raft that is over was by a leader that had been deposed: it does not count.
func TestRenewalOfADeposedLeader(t *testing.T) {
	c, _ := site(t, etcd(t), "a", nil)
	r, err := c.get(t.Context(), c.keys.verdict())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.confirm(t.Context(), r.Header.RaftTerm); err != nil {
		t.Errorf("in the term of now: %v", err)
	}
	if err := c.confirm(t.Context(), r.Header.RaftTerm-1); !errors.Is(err, ErrOutage) {
		t.Errorf("in the term before: %v", err)
	}
}

// A lease that etcd has revoked before its time ends the sessions under it at once, not with the next renewal.
func TestRevokedLease(t *testing.T) {
	c, tab := site(t, etcd(t), "a", func(c *Config) { c.Lease = 2 * time.Minute }) // renewed each 24 s
	cut := make(chan struct{})
	take(t, c, want(t, tab, "ann", "n1", func() { close(cut) }))
	if _, err := c.client.Revoke(t.Context(), c.tenure.id); err != nil {
		t.Fatal(err)
	}
	select {
	case <-cut:
	case <-time.After(10 * time.Second):
		t.Error("the session goes on without a lease")
	}
}
