package claims

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"mailmux/proxy"
	"mailmux/proxy/splice"
)

// Status is the state of now. It asks nobody.
func (c *Claims) Status() proxy.ClaimStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := proxy.ClaimStatus{State: "waiting", Accounts: len(c.held), Sessions: c.users, Unclaimed: len(c.loose), Fenced: c.fenced.Load(),
		Epoch: c.verdict.Epoch, Down: slices.Sorted(maps.Keys(c.verdict.Down))}
	if t := c.tenure; t != nil {
		s.State, s.Lease = "held", t.name
		s.Left = max(0, t.gate.Until()-splice.Clock())
		s.Controller, s.Leading, s.Frontends = c.seen.controller, c.seen.leading, c.seen.frontends
		if c.takeErr != nil {
			s.Error = c.takeErr.Error()
		}
	} else if c.lastErr != nil {
		s.Error = c.lastErr.Error()
	}
	return s
}

// moveKept is how long a move that an operator asked for waits for the account's next login.
const moveKept = 5 * time.Minute

// Move has an account (proxy.ClaimKey) leave the member that it is on, on all frontends, and go to another one of its
// host. The member is taken at the account's next login, within 5 minutes; it stays there as long as it has sessions.
func (c *Claims) Move(ctx context.Context, account, to string) error {
	key := nameOfKey(account)
	m, err := c.memberOf(to)
	if err != nil {
		return err
	}
	if _, evacuate := m.Withdrawn(); evacuate || m.Decided() {
		return fmt.Errorf("%s is out of service", m)
	}
	client, err := c.etcd()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	lease, err := client.Grant(ctx, int64(moveKept/time.Second))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrOutage, err)
	}
	_, err = c.commit(ctx, "other", func(t clientv3.Txn) clientv3.Txn {
		value := encode(moveValue{To: m.String(), By: "an operator at " + c.name, Since: time.Now().UTC().Truncate(time.Second)})
		return t.Then(clientv3.OpPut(c.keys.move(key), value, clientv3.WithLease(lease.ID)))
	})
	return err
}
