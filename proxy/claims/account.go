package claims

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"mailmux/proxy"
	"mailmux/proxy/backend"
)

// The transactions about one account. See the package's comment for what they have to keep.

// alone are the comparisons that say that no other frontend holds the account.
func (c *Claims) alone(key, lease string) []clientv3.Cmp {
	prefix := c.keys.holders(key)
	mine := prefix + lease
	return []clientv3.Cmp{
		clientv3.Compare(clientv3.CreateRevision(prefix), "=", 0).WithRange(mine),
		clientv3.Compare(clientv3.CreateRevision(mine+"\x00"), "=", 0).WithRange(clientv3.GetPrefixRangeEnd(prefix)),
	}
}

func absent(key string) clientv3.Cmp { return clientv3.Compare(clientv3.CreateRevision(key), "=", 0) }
func present(key string) clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(key), "!=", 0)
}
func unchanged(key string, rev int64) clientv3.Cmp {
	return clientv3.Compare(clientv3.ModRevision(key), "=", rev)
}

// standing is what a transaction found of an account.
type standing struct {
	taken, joined bool
	rev           int64 // of our holder's key, when taken or joined
	at            string
	claimRev      int64
	move          *moveValue
	moveRev       int64
	others        bool
	mine          int64 // the revision of a key of ours that nobody here knows of
}

// Waiting for others to leave an account: they close sessions and write to etcd meanwhile.
const (
	firstWait = 20 * time.Millisecond
	longWait  = 500 * time.Millisecond
)

// acquire takes or joins the claim. rev is the revision of our holder's key: 0 if there surely is none, unknownRev if
// there may be one.
func (c *Claims) acquire(ctx context.Context, h *holding, w proxy.Want) (m *backend.Member, rev int64, err error) {
	for wait := firstWait; ; wait = min(wait*2, longWait) {
		choice, none := w.Choose()
		s, err := c.try(ctx, h, choice)
		if err != nil {
			return nil, unknownRev, err
		}
		if s.taken || s.joined {
			m, err := c.memberOf(s.at)
			switch {
			case err == nil && c.suits(m, w):
				return m, s.rev, nil
			case s.taken: // chosen a moment ago, and out by now
				return nil, s.rev, fmt.Errorf("%w: %s was taken out of service", ErrElsewhere, s.at)
			case err != nil: // others have it still, or already: a reload, or a list of members that has changed
				c.Log.Warn("an account has to leave its member", "account", w.Name, "error", err)
			}
			if err := c.evict(ctx, h, s, w); err != nil {
				return nil, unknownRev, err
			}
		} else if s.move == nil && s.mine == 0 && none != nil {
			return nil, 0, none
		} else if done, m, rev, err := c.moveOn(ctx, h, s, choice, w); done || err != nil {
			return m, rev, err
		}
		if pause(ctx, wait) != nil {
			return nil, 0, fmt.Errorf("%w %s: %w", ErrElsewhere, s.at, ctx.Err())
		}
	}
}

// try is the one transaction of a login. Without a choice it can only join.
func (c *Claims) try(ctx context.Context, h *holding, choice *backend.Member) (standing, error) {
	lease := h.tenure.name
	claim, move, prefix := c.keys.claim(h.key), c.keys.move(h.key), c.keys.holders(h.key)
	put := clientv3.OpPut(prefix+lease, "", clientv3.WithLease(h.tenure.id))
	look := []clientv3.Op{clientv3.OpGet(claim), clientv3.OpGet(move),
		clientv3.OpGet(prefix, clientv3.WithPrefix(), clientv3.WithLimit(64), clientv3.WithKeysOnly())}
	join := clientv3.OpTxn([]clientv3.Cmp{absent(move), present(claim)}, []clientv3.Op{put, clientv3.OpGet(claim)}, look)
	r, err := c.commit(ctx, "take", func(t clientv3.Txn) clientv3.Txn {
		if choice == nil {
			return t.If(append(c.alone(h.key, lease), absent(prefix+lease))...).Then(look...).Else(join)
		}
		value := encode(claimValue{Member: choice.String(), Since: time.Now().UTC().Truncate(time.Millisecond)})
		return t.If(append(c.alone(h.key, lease), absent(move), absent(prefix+lease))...).
			Then(clientv3.OpPut(claim, value), put).Else(join)
	})
	switch {
	case err != nil:
		return standing{}, err
	case r.Succeeded && choice != nil:
		return standing{taken: true, rev: r.Header.Revision, at: choice.String(), claimRev: r.Header.Revision}, nil
	case r.Succeeded:
		return read(lookOf((*clientv3.TxnResponse)(r)), prefix+lease)
	}
	inner := (*clientv3.TxnResponse)(r.Responses[0].GetResponseTxn())
	if !inner.Succeeded {
		return read(lookOf(inner), prefix+lease)
	}
	s := standing{joined: true, rev: r.Header.Revision}
	kv := inner.Responses[1].GetResponseRange().Kvs
	if len(kv) != 1 {
		return s, errors.New("etcd answers without the claim")
	}
	var v claimValue
	if err := decode(kv[0].Value, &v); err != nil {
		return s, fmt.Errorf("claim %s: %w", claim, err)
	}
	s.at, s.claimRev = v.Member, kv[0].ModRevision
	return s, nil
}

// lookOf are the answers of look.
func lookOf(r *clientv3.TxnResponse) [3]*clientv3.GetResponse {
	var list [3]*clientv3.GetResponse
	for i := range list {
		list[i] = (*clientv3.GetResponse)(r.Responses[i].GetResponseRange())
	}
	return list
}

// read says how an account stands that was neither taken nor joined.
func read(found [3]*clientv3.GetResponse, mine string) (s standing, err error) {
	if kvs := found[0].Kvs; len(kvs) > 0 {
		var v claimValue
		if err := decode(kvs[0].Value, &v); err == nil { // else it is of no use, and is replaced
			s.at, s.claimRev = v.Member, kvs[0].ModRevision
		}
	}
	if kvs := found[1].Kvs; len(kvs) > 0 {
		s.move, s.moveRev = &moveValue{}, kvs[0].ModRevision
		if err := decode(kvs[0].Value, s.move); err != nil {
			s.move = &moveValue{}
		}
	}
	for _, kv := range found[2].Kvs {
		if string(kv.Key) == mine {
			s.mine = kv.ModRevision
		} else {
			s.others = true
		}
	}
	return s, nil
}

// memberOf finds the member of a claim in the host table.
func (c *Claims) memberOf(name string) (*backend.Member, error) {
	host, member, err := splitMember(name)
	if err != nil {
		return nil, fmt.Errorf("claim: %w", err)
	}
	h, err := c.Hosts.Host(host)
	if err != nil {
		return nil, fmt.Errorf("claim: %w", err)
	}
	if m := h.Member(member); m != nil {
		return m, nil
	}
	return nil, fmt.Errorf("claim: %s is not in this frontend's host table", name)
}

// evict gives back a claim that was joined on a member that the account has to leave, and asks the others to leave it.
func (c *Claims) evict(ctx context.Context, h *holding, s standing, w proxy.Want) error {
	mine := c.keys.holders(h.key) + h.tenure.name
	value := encode(moveValue{From: s.at, By: c.name, Since: time.Now().UTC().Truncate(time.Millisecond)})
	r, err := c.commit(ctx, "other", func(t clientv3.Txn) clientv3.Txn {
		return t.If(unchanged(mine, s.rev)).Then(clientv3.OpDelete(mine),
			clientv3.OpTxn([]clientv3.Cmp{absent(c.keys.move(h.key))},
				[]clientv3.Op{clientv3.OpPut(c.keys.move(h.key), value, clientv3.WithLease(h.tenure.id))}, nil))
	})
	if err == nil && !r.Succeeded {
		err = fmt.Errorf("%w: the claim on %s has changed meanwhile", ErrElsewhere, w.Name)
	}
	return err
}

// moveOn carries a move out once nobody else holds the account. done is false while others do.
func (c *Claims) moveOn(ctx context.Context, h *holding, s standing, choice *backend.Member, w proxy.Want) (done bool, m *backend.Member, rev int64, err error) {
	mine, move := c.keys.holders(h.key)+h.tenure.name, c.keys.move(h.key)
	switch {
	case s.mine != 0: // left behind by a request that was not answered
		_, err := c.commit(ctx, "other", func(t clientv3.Txn) clientv3.Txn {
			return t.If(unchanged(mine, s.mine)).Then(clientv3.OpDelete(mine))
		})
		return false, nil, 0, err
	case s.move == nil:
		return false, nil, 0, nil // it has just been free
	case s.move.To != "" && s.move.To == s.at, s.move.From != "" && s.move.From != s.at: // done already
		_, err := c.commit(ctx, "other", func(t clientv3.Txn) clientv3.Txn {
			return t.If(unchanged(move, s.moveRev)).Then(clientv3.OpDelete(move))
		})
		return false, nil, 0, err
	case s.others:
		return false, nil, 0, nil
	}
	m = choice
	if to, err := c.memberOf(s.move.To); err == nil && c.suits(to, w) {
		m = to
	}
	if m == nil {
		return false, nil, 0, nil
	}
	value := encode(claimValue{Member: m.String(), Since: time.Now().UTC().Truncate(time.Millisecond)})
	r, err := c.commit(ctx, "take", func(t clientv3.Txn) clientv3.Txn {
		return t.If(append(c.alone(h.key, h.tenure.name), absent(mine), unchanged(move, s.moveRev))...).
			Then(clientv3.OpPut(c.keys.claim(h.key), value), clientv3.OpPut(mine, "", clientv3.WithLease(h.tenure.id)), clientv3.OpDelete(move))
	})
	switch {
	case err != nil:
		return false, nil, unknownRev, err
	case !r.Succeeded:
		return false, nil, 0, nil
	}
	return true, m, r.Header.Revision, nil
}

// release takes our holder back, and the claim if it was the last one. It goes on until etcd has said yes, or the lease is
// over, which comes to the same.
func (c *Claims) release(h *holding) {
	mine, rev := c.keys.holders(h.key)+h.tenure.name, h.rev
	for wait := firstWait; h.tenure.ctx.Err() == nil; wait = min(wait*2, time.Second) {
		r, err := c.commit(h.tenure.ctx, "release", func(t clientv3.Txn) clientv3.Txn {
			return t.If(unchanged(mine, rev)).
				Then(clientv3.OpDelete(mine), clientv3.OpTxn(c.alone(h.key, h.tenure.name), []clientv3.Op{clientv3.OpDelete(c.keys.claim(h.key))}, nil)).
				Else(clientv3.OpGet(mine))
		})
		switch {
		case err != nil:
			if pause(h.tenure.ctx, wait) != nil {
				return
			}
		case r.Succeeded:
			return
		default:
			kvs := r.Responses[0].GetResponseRange().Kvs
			if len(kvs) == 0 {
				return
			}
			rev = kvs[0].ModRevision // a request that was not answered has come through after all
		}
	}
}

// Info is the claim of an account (proxy.ClaimKey) as it is now.
func (c *Claims) Info(ctx context.Context, account string) (proxy.ClaimInfo, error) {
	var info proxy.ClaimInfo
	key := nameOfKey(account)
	prefix := c.keys.holders(key)
	r, err := c.commit(ctx, "other", func(t clientv3.Txn) clientv3.Txn {
		return t.Then(clientv3.OpGet(c.keys.claim(key)), clientv3.OpGet(c.keys.move(key)),
			clientv3.OpGet(prefix, clientv3.WithPrefix(), clientv3.WithLimit(64), clientv3.WithKeysOnly()),
			clientv3.OpGet(c.keys.frontends(), clientv3.WithPrefix(), clientv3.WithLimit(maxFrontends)))
	})
	if err != nil {
		return info, err
	}
	names := map[string]string{}
	for _, f := range c.frontendsOf(r.Responses[3].GetResponseRange().Kvs) {
		names[f.Lease] = f.Name
	}
	for _, kv := range r.Responses[2].GetResponseRange().Kvs {
		lease := string(kv.Key[len(prefix):])
		if name := names[lease]; name != "" {
			lease = name
		}
		info.Holders = append(info.Holders, lease)
	}
	var v claimValue
	if kvs := r.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 && len(info.Holders) > 0 && decode(kvs[0].Value, &v) == nil {
		info.Member, info.Since = v.Member, v.Since
	}
	var move moveValue
	if kvs := r.Responses[1].GetResponseRange().Kvs; len(kvs) > 0 && decode(kvs[0].Value, &move) == nil {
		info.Moving = "leaves " + move.From
		if move.To != "" {
			info.Moving = "goes to " + move.To
		}
		info.Moving += ", asked by " + move.By
	}
	return info, nil
}
