package claims

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"mailmux/proxy"
)

// maxFrontends bounds how many frontends are looked at.
const maxFrontends = 1000

// How often a frontend looks whether its report has changed, and the controller whether its verdict has.
const (
	reportEvery  = 200 * time.Millisecond
	observeEvery = 2 * time.Second
	decideEvery  = 200 * time.Millisecond
)

// observed is what this frontend has seen of the others last.
type observed struct {
	at         time.Time
	frontends  []proxy.ClaimFrontend
	controller string
	leading    bool
}

// report tells the others which members this frontend sees down, and which epoch it has acknowledged: no session of its
// own is left on a member that was decided down.
func (c *Claims) report(t *tenure) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	said := frontendValue{Name: c.name, Since: t.since}
	for {
		select {
		case <-t.ctx.Done():
			return
		case <-t.wake:
		case <-tick.C:
		}
		next := c.statement(t, said.Epoch)
		count := next.Accounts
		if next.Accounts = said.Accounts; next.Epoch != said.Epoch || !slices.Equal(next.Down, said.Down) || time.Since(c.observedAt()) > observeEvery {
			next.Accounts = count
			c.observe(t)
		}
		if next.Epoch == said.Epoch && next.Accounts == said.Accounts && slices.Equal(next.Down, said.Down) {
			continue
		}
		if err := c.say(t, next); err == nil {
			said = next
		}
	}
}

// statement is the report of now. The epoch stays at the one acknowledged before while a session is left.
func (c *Claims) statement(t *tenure, acknowledged int64) frontendValue {
	v := frontendValue{Name: c.name, Since: t.since, Epoch: acknowledged, Down: c.Hosts.Down()}
	slices.Sort(v.Down)
	c.mu.Lock()
	defer c.mu.Unlock()
	v.Accounts = len(c.held)
	if v.Epoch == c.verdict.Epoch {
		return v
	}
	for _, h := range c.held {
		if h.member != nil && h.member.Decided() {
			return v
		}
	}
	v.Epoch = c.verdict.Epoch
	return v
}

func (c *Claims) observedAt() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen.at
}

// observe looks at the other frontends, for status.
func (c *Claims) observe(t *tenure) {
	r, err := c.commit(t.ctx, "other", func(txn clientv3.Txn) clientv3.Txn {
		return txn.Then(clientv3.OpGet(c.keys.frontends(), clientv3.WithPrefix(), clientv3.WithLimit(maxFrontends)),
			clientv3.OpGet(c.keys.election()+"/", clientv3.WithFirstCreate()...))
	})
	if err != nil {
		return
	}
	now := observed{at: time.Now(), frontends: c.frontendsOf(r.Responses[0].GetResponseRange().Kvs)}
	if kvs := r.Responses[1].GetResponseRange().Kvs; len(kvs) > 0 && len(kvs[0].Value) < 512 {
		now.controller = string(kvs[0].Value)
		now.leading = string(kvs[0].Key) == c.keys.election()+"/"+t.name
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = now
}

// frontendsOf reads the keys of the live frontends.
func (c *Claims) frontendsOf(kvs []*mvccpb.KeyValue) []proxy.ClaimFrontend {
	var list []proxy.ClaimFrontend
	for _, kv := range kvs {
		var v frontendValue
		if err := decode(kv.Value, &v); err != nil {
			c.leftOut(kv, err)
			continue
		}
		list = append(list, proxy.ClaimFrontend{Name: v.Name, Lease: strings.TrimPrefix(string(kv.Key), c.keys.frontends()),
			Since: v.Since, Epoch: v.Epoch, Down: v.Down, Accounts: v.Accounts})
	}
	return list
}

// campaign makes this frontend the controller when it is its turn, for as long as the tenure lasts.
func (c *Claims) campaign(t *tenure) {
	for t.ctx.Err() == nil {
		if err := c.lead(t); err != nil && t.ctx.Err() == nil {
			c.Log.Warn("claims: election of the controller", "error", err)
		}
		if pause(t.ctx, time.Second) != nil {
			return
		}
	}
}

// errDeposed: another frontend is the controller by now.
var errDeposed = errors.New("not the controller any more")

// lead waits for the election and then decides, until it is not the controller any more.
func (c *Claims) lead(t *tenure) error {
	session, err := concurrency.NewSession(t.client.Client, concurrency.WithLease(t.id), concurrency.WithContext(t.ctx))
	if err != nil {
		return err
	}
	defer session.Orphan() // the lease is the tenure's
	e := concurrency.NewElection(session, c.keys.election())
	if err := e.Campaign(t.ctx, c.name); err != nil {
		return err
	}
	c.Log.Info("claims: this frontend is the controller")
	tick := time.NewTicker(decideEvery)
	defer tick.Stop()
	for {
		select {
		case <-t.ctx.Done():
			return nil
		case <-session.Done():
			return errDeposed
		case <-tick.C:
		}
		if err := c.decide(t.ctx, e.Key(), e.Rev()); err != nil && !errors.Is(err, ErrOutage) {
			return err
		}
	}
}

// decide publishes a new verdict if there is one, in a transaction that needs the election to stand.
func (c *Claims) decide(ctx context.Context, electionKey string, electionRev int64) error {
	r, err := c.commit(ctx, "other", func(txn clientv3.Txn) clientv3.Txn {
		return txn.Then(clientv3.OpGet(c.keys.frontends(), clientv3.WithPrefix(), clientv3.WithLimit(maxFrontends)), clientv3.OpGet(c.keys.verdict()))
	})
	if err != nil {
		return err
	}
	var old verdict
	broken := false
	for _, kv := range r.Responses[1].GetResponseRange().Kvs {
		if err := decode(kv.Value, &old); err != nil {
			c.Log.Warn("claims: replaced", "key", string(kv.Key), "error", err)
			broken = true
		}
	}
	next := c.weigh(c.frontendsOf(r.Responses[0].GetResponseRange().Kvs), old, time.Now().UTC().Truncate(time.Second))
	if !broken && maps.EqualFunc(next.Down, old.Down, func(a, b time.Time) bool { return a.Equal(b) }) {
		return nil
	}
	r, err = c.commit(ctx, "other", func(txn clientv3.Txn) clientv3.Txn {
		return txn.If(clientv3.Compare(clientv3.CreateRevision(electionKey), "=", electionRev)).
			Then(clientv3.OpPut(c.keys.verdict(), encode(next)))
	})
	if err == nil && !r.Succeeded {
		return errDeposed
	}
	return err
}

// weigh is the verdict of what the frontends see. More than half of them have to see a member down, and another member of
// its host has to be left: where nothing works there is nowhere to go, and closing sessions helps nobody.
func (c *Claims) weigh(frontends []proxy.ClaimFrontend, old verdict, now time.Time) verdict {
	votes := map[string]int{}
	for _, f := range frontends {
		for _, name := range slices.Compact(slices.Sorted(slices.Values(f.Down))) {
			votes[name]++
		}
	}
	next := verdict{Epoch: old.Epoch + 1, Down: map[string]time.Time{}}
	fallen := map[string][]string{} // by host
	for name, n := range votes {
		host, _, err := splitMember(name)
		if err == nil && 2*n > len(frontends) {
			fallen[host] = append(fallen[host], name)
		}
	}
	for host, names := range fallen {
		spare := c.spare(host, names)
		for _, name := range names {
			since, before := old.Down[name]
			switch {
			case before:
				next.Down[name] = since
			case spare:
				next.Down[name] = now
			}
		}
	}
	return next
}

// spare says whether a host has a member in service beside those.
func (c *Claims) spare(host string, fallen []string) bool {
	h, err := c.Hosts.Host(host)
	if err != nil {
		return false
	}
	for _, m := range h.Members() {
		if withdrawn, _ := m.Withdrawn(); !withdrawn && !m.Gone() && !slices.Contains(fallen, m.String()) {
			return true
		}
	}
	return false
}
