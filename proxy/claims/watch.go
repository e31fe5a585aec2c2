package claims

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// leftOut warns of a value that makes no sense, once: it is read again and again.
func (c *Claims) leftOut(kv *mvccpb.KeyValue, err error) {
	c.mu.Lock()
	told := c.broken[string(kv.Key)] == kv.ModRevision
	if len(c.broken) >= maxFrontends {
		clear(c.broken)
	}
	c.broken[string(kv.Key)] = kv.ModRevision
	c.mu.Unlock()
	if !told {
		c.Log.Warn("claims: left out", "key", string(kv.Key), "error", err)
	}
}

// watch is what a frontend follows in etcd: the whole state first, then each change.
type watch struct {
	key     string
	options []clientv3.OpOption
	put     func(t *tenure, kv *mvccpb.KeyValue)
	missing func(t *tenure) // the key is not there; nil for prefixes
}

func (c *Claims) watches(t *tenure) []watch {
	return []watch{
		{key: c.keys.frontend(t.name), put: func(*tenure, *mvccpb.KeyValue) {}, missing: c.unknown},
		{key: c.keys.wishes(), put: c.wished, missing: c.noWishes},
		{key: c.keys.verdict(), put: c.judged, missing: func(t *tenure) { c.judge(t, verdict{}) }},
		{key: c.keys.moves(), options: []clientv3.OpOption{clientv3.WithPrefix()}, put: c.moved},
	}
}

// unknown ends a tenure whose key is gone, and its holders with it: the next renewal would find that too late. A leader of
// etcd that was stopped revokes leases which have been renewed meanwhile (etcd before 3.4.25 and 3.5.8), and somebody may
// have deleted our keys.
func (c *Claims) unknown(t *tenure) {
	t.gate.Close()
	t.cancel(fmt.Errorf("%w: it has lost our lease", ErrOutage))
}

// follow keeps up with one watch until the tenure ends.
func (c *Claims) follow(t *tenure, w watch) {
	told := false
	for wait := firstWait; t.ctx.Err() == nil; wait = min(wait*2, time.Second) {
		r, err := c.get(t.ctx, w.key, append(slices.Clone(w.options), clientv3.WithLimit(maxListed))...)
		if err == nil {
			for _, kv := range r.Kvs {
				w.put(t, kv)
			}
			if len(r.Kvs) == 0 && w.missing != nil {
				w.missing(t)
			}
			if !told {
				told = true
				t.loaded <- struct{}{} // has room for every watch
			}
			wait = firstWait
			c.changes(t, w, r.Header.Revision)
		}
		if pause(t.ctx, wait) != nil {
			return
		}
	}
}

// maxListed bounds how many keys are read at once: moves are few, and those beyond are seen when they change.
const maxListed = 10_000

// changes follows a watch from a revision on, until it breaks.
func (c *Claims) changes(t *tenure, w watch, rev int64) {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(t.ctx))
	defer cancel()
	for r := range t.client.Watch(ctx, w.key, append(slices.Clone(w.options), clientv3.WithRev(rev+1))...) {
		if r.Err() != nil {
			return
		}
		for _, e := range r.Events {
			switch {
			case e.Type == clientv3.EventTypePut:
				w.put(t, e.Kv)
			case w.missing != nil:
				w.missing(t)
			}
		}
	}
}

// moved closes the sessions of an account that is to leave the member that it has here.
func (c *Claims) moved(t *tenure, kv *mvccpb.KeyValue) {
	v := moved{rev: kv.ModRevision}
	key := strings.TrimPrefix(string(kv.Key), c.keys.moves())
	if err := decode(kv.Value, &v.moveValue); err != nil {
		c.leftOut(kv, err)
		return
	}
	c.mu.Lock()
	h := c.held[key]
	evict := func() {}
	switch {
	case h == nil && t.doubtful:
		c.clear(t, key)
	case h == nil:
	case !h.settled:
		h.asked = v
	case v.concerns(h.member, h.rev):
		evict = c.leave(h)
	}
	c.mu.Unlock()
	c.background(evict)
}

// judged takes over what the controller has decided.
func (c *Claims) judged(t *tenure, kv *mvccpb.KeyValue) {
	var v verdict
	if err := decode(kv.Value, &v); err != nil {
		c.leftOut(kv, err)
		return
	}
	c.judge(t, v)
}

// judge takes the members out that are down, and closes the sessions there. The report acknowledges it when they are gone.
func (c *Claims) judge(t *tenure, v verdict) {
	down := make(map[string]string, len(v.Down))
	for name, since := range v.Down {
		down[name] = "decided down by the controller at " + since.Format(time.RFC3339)
	}
	c.Hosts.Decide(down)
	c.mu.Lock()
	if v.Epoch != c.verdict.Epoch {
		c.Log.Info("claims: the controller has decided", "epoch", v.Epoch, "down", len(v.Down))
	}
	c.verdict = v
	var evictions []func()
	for _, h := range c.held {
		if h.settled && h.member.Decided() {
			evictions = append(evictions, c.leave(h))
		}
	}
	c.mu.Unlock()
	for _, evict := range evictions {
		c.background(evict)
	}
	t.due()
}

// due asks for a report.
func (t *tenure) due() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// wished takes over the operator's wishes.
func (c *Claims) wished(_ *tenure, kv *mvccpb.KeyValue) {
	c.wishing.Lock()
	defer c.wishing.Unlock()
	c.adopt(kv)
}

// adopt is wished, with wishing held.
func (c *Claims) adopt(kv *mvccpb.KeyValue) {
	if kv.ModRevision <= c.wishRev {
		return
	}
	c.wishRev = kv.ModRevision
	if len(kv.Value) > maxValue {
		c.leftOut(kv, errors.New("the value is too long"))
		return
	}
	if err := c.Hosts.SetWishes(kv.Value); err != nil {
		c.leftOut(kv, err)
		return
	}
	if c.Wished != nil {
		c.Wished()
	}
}

// noWishes is for a site that has none yet: what this frontend remembers of its own becomes everybody's.
func (c *Claims) noWishes(t *tenure) {
	c.wishing.Lock()
	defer c.wishing.Unlock()
	c.wishRev = 0
	text, err := c.Hosts.Wishes()
	if err == nil {
		_, err = c.publish(t.ctx, text)
	}
	if err != nil {
		c.Log.Warn("claims: publish the operator's wishes", "error", err)
	}
}

// wishTries is how often a wish is tried again because of others that came at the same moment.
const wishTries = 10

// Wish lets an operator change the wishes of this frontend's host table, and makes the outcome the site's. Changes are made
// one after the other, also those of several frontends: where somebody else was faster, change is called again on what the
// site wishes by then. Without etcd nothing is changed.
func (c *Claims) Wish(ctx context.Context, change func() error) error {
	c.wishing.Lock()
	defer c.wishing.Unlock()
	for range wishTries {
		before, err := c.Hosts.Wishes()
		if err == nil {
			err = change()
		}
		if err != nil {
			return err
		}
		text, err := c.Hosts.Wishes()
		if err != nil {
			return err
		}
		published, err := c.publish(ctx, text)
		if err != nil {
			return errors.Join(fmt.Errorf("nothing was changed: publish the wish: %w", err), c.Hosts.SetWishes(before))
		}
		if published {
			return nil
		}
	}
	return errors.New("publish the wish: others change the wishes all the time; look, and say it again")
}

// publish puts wishes into etcd in place of those that this frontend has seen there last. Where somebody else has changed
// them since, that is taken over. wishing is held.
func (c *Claims) publish(ctx context.Context, text []byte) (published bool, err error) {
	key, rev := c.keys.wishes(), c.wishRev
	r, err := c.commit(ctx, "other", func(txn clientv3.Txn) clientv3.Txn {
		return txn.If(unchanged(key, rev)).Then(clientv3.OpPut(key, string(text))).Else(clientv3.OpGet(key))
	})
	switch {
	case err != nil:
		return false, err
	case r.Succeeded:
		c.wishRev = r.Header.Revision
		return true, nil
	}
	c.wishRev = 0
	for _, kv := range r.Responses[0].GetResponseRange().Kvs {
		c.adopt(kv)
	}
	return false, nil
}
