package spool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// attemptTime bounds one Deliver; RFC 5321 section 4.5.3.2 adds up to less.
const attemptTime = 30 * time.Minute

// attempt is one try of everything that a message waits for.
type attempt struct {
	*Spool
	*item
	shelf *shelf
	path  string
	file  *os.File
	log   []record  // what happened, to be written
	loose bool      // written records are not synced yet
	next  time.Time // of the next attempt, unless everything is done
}

// attempt has the claim of a message, and ends it.
func (s *Spool) attempt(ctx context.Context, sh *shelf, id string, c *claim) {
	a := &attempt{Spool: s, shelf: sh, path: filepath.Join(sh.path, id+suffix)}
	next, err := a.run(ctx, id)
	switch {
	case errors.Is(err, errUnreadable):
		s.quarantine(sh, a.path, id, err)
		next = time.Time{}
	case errors.Is(err, os.ErrNotExist):
		next = time.Time{} // deleted or moved meanwhile
	case err != nil:
		s.Log.Error("a queued message cannot be attempted; it waits", "id", id, "path", a.path, "error", err)
		next = s.now().Add(s.jitter(time.Minute))
	}
	s.release(id, a.shelf, c, next)
	s.mu.Lock()
	sh.running--
	s.running--
	s.mu.Unlock()
	s.stir()
}

// run reads the message, asks where its recipients are, delivers, records, notifies, and removes or reschedules it.
func (a *attempt) run(ctx context.Context, id string) (next time.Time, err error) {
	if a.file, err = openItem(a.path, os.O_RDWR); err != nil {
		return time.Time{}, err
	}
	defer a.file.Close()
	info, err := a.file.Stat()
	if err != nil {
		return time.Time{}, err
	}
	if due := info.ModTime(); due.After(a.now().Add(time.Second)) && due.Before(a.latest()) {
		return due, nil // it was attempted after the window was filled
	}
	if a.item, err = readItem(a.file, info.Size()); err != nil {
		return time.Time{}, err
	}
	if a.ID != id { // a copy that somebody made: the paths of two files must not become one
		return time.Time{}, fmt.Errorf("%w: the file's name is not its id, %s", errUnreadable, a.ID)
	}
	a.next = a.now().Add(a.pause(a.now().Sub(a.At)))
	pending := a.waiting()
	if len(pending) > 0 {
		a.deliver(ctx, pending)
		if err := a.settle(ctx); err != nil {
			return time.Time{}, err
		}
	}
	a.notifySuccess(ctx)
	if len(a.waiting()) == 0 {
		return time.Time{}, a.finish(ctx, info.Size())
	}
	return a.next, a.reschedule(info.Size())
}

// deliver routes the recipients and takes the message to all their members at the same time. It fills in a.log.
func (a *attempt) deliver(ctx context.Context, pending []int) {
	groups := make(map[Target][]int)
	for _, n := range pending {
		target, err := a.Router.Route(ctx, &a.rcpts[n].Recipient)
		var permanent *PermanentError
		switch {
		case err == nil:
			groups[target] = append(groups[target], n)
		case ctx.Err() != nil:
			return // what was not asked to its end says nothing
		case errors.As(err, &permanent):
			a.note(n, target, Outcome{State: Failed, Reply: permanent.Reply, Status: permanent.Status})
		case target.Host != "" && target.Host == a.rcpts[n].Host && a.rcpts[n].Attempts > 0:
			// No member is in service, as the file says already. To write that again at every attempt of everything that waits
			// would keep the disk from what comes in.
			a.Log.Debug("delivery not tried", "id", a.ID, "host", target.Host, "error", err)
		default:
			a.note(n, target, Outcome{State: Waiting, Reply: err.Error(), Status: "4.4.0"})
		}
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	left := len(groups)
	// From here on other members' outcomes change the recipients: each delivery gets what they are now.
	message := &Message{ID: a.ID, Envelope: a.envelope(), Arrived: a.At, Size: a.Size, data: a.file, start: a.start}
	for target, numbers := range groups {
		rcpts := make([]Recipient, len(numbers))
		for i, n := range numbers {
			rcpts[i] = message.Envelope.To[n]
			rcpts[i].Host = target.Host
		}
		wg.Go(func() {
			outcomes, probe := a.hand(ctx, target, message, rcpts)
			mu.Lock()
			defer mu.Unlock()
			if !probe.IsZero() && probe.Before(a.next) {
				a.next = probe
			}
			a.noteAll(target, numbers, outcomes)
			if left--; left > 0 {
				// A slow member must not keep from the record what another one has: see settle for the rest.
				a.recordDelivered(ctx)
			}
		})
	}
	wg.Wait()
}

// noteAll takes the outcomes of one member into the log. Without any it was not tried.
func (a *attempt) noteAll(target Target, numbers []int, outcomes []Outcome) {
	for i, n := range numbers {
		if outcomes != nil {
			a.note(n, target, outcomes[i])
		} else if a.rcpts[n].Host != target.Host { // not tried, but it has moved
			a.note(n, target, Outcome{State: Waiting, Reply: a.rcpts[n].Reply, Status: a.rcpts[n].Status})
		}
	}
}

// recordDelivered writes the deliveries of the log, before the whole attempt is settled.
func (a *attempt) recordDelivered(ctx context.Context) {
	var delivered, rest []record
	for _, r := range a.log {
		if r.State == Delivered {
			delivered = append(delivered, r)
		} else {
			rest = append(rest, r)
		}
	}
	if a.record(ctx, delivered) == nil {
		a.log = rest // otherwise settle tries it again
	}
}

// hand takes the message to one member. Without outcomes it was not tried.
func (s *Spool) hand(ctx context.Context, target Target, message *Message, rcpts []Recipient) (outcomes []Outcome, probe time.Time) {
	m, err := s.enter(ctx, target)
	if err != nil {
		s.Log.Debug("delivery not tried", "id", message.ID, "host", target.Host, "member", target.Member, "error", err)
		return nil, time.Time{}
	}
	bounded, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	outcomes = s.Deliverer.Deliver(bounded, target, message, rcpts)
	for len(outcomes) < len(rcpts) {
		outcomes = append(outcomes, Outcome{State: Waiting, Reply: "no answer for this recipient", Status: "4.4.2"})
	}
	unreachable, reason := true, ""
	for _, o := range outcomes[:len(rcpts)] {
		unreachable = unreachable && o.Unreachable
		reason = o.Reply
	}
	return outcomes, s.leave(target, m, unreachable && ctx.Err() == nil, clean(reason))
}

// note takes an outcome into the log, together with others that are alike.
func (a *attempt) note(n int, t Target, o Outcome) {
	if o.State == "" {
		o.State = Waiting
	}
	if o.Member != "" {
		t.Member = o.Member
	}
	r := record{At: a.now(), Rcpt: []int{n}, State: o.State, Host: t.Host, Member: t.Member, Reply: clean(o.Reply),
		Status: clean(o.Status), Action: o.Action}
	a.Log.Info("delivery", "id", a.ID, "from", a.From, "to", a.rcpts[n].Address, "host", t.Host, "member", t.Member,
		"state", string(o.State), "reply", r.Reply, "status", r.Status, "age", a.now().Sub(a.At).Round(time.Millisecond).String(),
		"attempt", a.rcpts[n].Attempts+1)
	a.tally(func(c *Counters) {
		switch o.State {
		case Delivered:
			c.Delivered++
		case Failed:
			c.Failed++
		default:
			c.Deferred++
		}
	})
	for i := range a.log {
		if l := &a.log[i]; l.State == r.State && l.Host == r.Host && l.Member == r.Member && l.Reply == r.Reply &&
			l.Status == r.Status && l.Action == r.Action {
			l.Rcpt = append(l.Rcpt, n)
			return
		}
	}
	a.log = append(a.log, r)
}

// settle makes the outcomes the message's state. First what was delivered is recorded, because nothing may come between
// that and the member's answer; then the sender is told of failures, and only when that is safe in the queue they are
// recorded, too. What must outlive a power failure is synced at the end, unless the file is removed next.
func (a *attempt) settle(ctx context.Context) error {
	var now, failed []record
	delivered := 0
	for _, r := range a.log {
		if r.State == Failed {
			failed = append(failed, r)
			continue
		}
		now = append(now, r)
		if r.State == Delivered {
			delivered += len(r.Rcpt)
		}
	}
	if delivered == len(a.waiting()) && !a.wantsSuccess(now) {
		return a.applyAll(now) // the removal of the file records the same
	}
	if err := a.record(ctx, now); err != nil {
		return err
	}
	failed = append(failed, a.expired(failed)...)
	if len(failed) > 0 && a.tell(ctx, kindFailed, failed) {
		if err := a.record(ctx, failed); err != nil {
			return err
		}
	}
	if err := a.warn(ctx); err != nil {
		return err
	}
	if a.loose && len(a.waiting()) > 0 {
		return a.commits.commit(a.file, "", nil)
	}
	return nil
}

// statusExpired is the enhanced code of what was given up (RFC 3463 section 3.5).
const statusExpired = "4.4.7"

// expired gives up what waits too long; the last attempt has just been made.
func (a *attempt) expired(failed []record) []record {
	if a.now().Sub(a.At) < a.cfg.MaxAge {
		return nil
	}
	out := make(map[int]bool)
	for _, r := range failed {
		for _, n := range r.Rcpt {
			out[n] = true
		}
	}
	var records []record
	for _, n := range a.waiting() {
		if p := &a.rcpts[n]; !out[n] {
			reply := fmt.Sprintf("not delivered within %s; last: %s", a.cfg.MaxAge, public(p.Reply))
			records = append(records, record{At: a.now(), Rcpt: []int{n}, State: Failed, Host: p.Host, Member: p.Member, Reply: reply, Status: statusExpired})
			a.Log.Info("delivery given up", "id", a.ID, "from", a.From, "to", p.Address, "host", p.Host, "reply", reply)
			a.tally(func(c *Counters) { c.Expired++ })
		}
	}
	return records
}

// warn tells the sender once that recipients wait.
func (a *attempt) warn(ctx context.Context) error {
	if a.now().Sub(a.At) < a.cfg.DelayWarning {
		return nil
	}
	r := record{At: a.now(), Delayed: true}
	for _, n := range a.waiting() {
		if !a.rcpts[n].Delayed {
			r.Rcpt = append(r.Rcpt, n)
		}
	}
	if len(r.Rcpt) == 0 || !a.tell(ctx, kindDelayed, []record{r}) {
		return nil
	}
	return a.record(ctx, []record{r})
}

// record appends to the file. What is done must not be forgotten: if the disk refuses, it is asked again until it does
// not, or the process ends.
func (a *attempt) record(ctx context.Context, records []record) error {
	lines, err := encodeRecords(records)
	if err != nil || len(lines) == 0 {
		return err
	}
	done := false
	for _, r := range records {
		done = done || r.State == Delivered || r.State == Failed
	}
	err = a.insist(ctx, done, "an outcome cannot be recorded; make room in the spool, or recipients may get the message twice", func() error {
		return a.append(lines)
	})
	if err != nil {
		return err
	}
	a.loose = a.loose || done
	a.end += int64(len(lines))
	return a.applyAll(records)
}

// append writes behind the last whole record, over what a crash may have left there.
func (a *attempt) append(lines []byte) error {
	if err := a.disk.truncate(a.file, a.end); err != nil {
		return err
	}
	return a.disk.writeAt(a.file, lines, a.end)
}

// insist does something to the disk until that works, or ctx ends; only once, if it is not that important.
func (a *attempt) insist(ctx context.Context, important bool, complaint string, do func() error) error {
	for complained := false; ; complained = true {
		err := do()
		if err == nil || !important {
			return err
		}
		if !complained {
			a.Log.Error(complaint, "id", a.ID, "path", a.path, "error", err)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Second):
		}
	}
}

func (a *attempt) applyAll(records []record) error {
	for i := range records {
		if err := a.apply(&records[i]); err != nil {
			return err
		}
	}
	return nil
}

// finish removes the message. Where the disk refuses, it must not be delivered again.
func (a *attempt) finish(ctx context.Context, counted int64) error {
	err := a.insist(ctx, true, "a delivered message cannot be removed from the spool", func() error {
		return ignoreMissing(a.disk.remove(a.path))
	})
	if err != nil {
		return err
	}
	a.gone(a.shelf, counted)
	return nil
}

// gone takes a removed file off the books.
func (s *Spool) gone(sh *shelf, size int64) {
	s.commits.removed(sh.dir)
	s.mu.Lock()
	defer s.mu.Unlock()
	sh.count--
	s.bytes -= size
}

// reschedule sets the time of the next attempt, and takes the file to the shelf of the host that it now waits for.
func (a *attempt) reschedule(counted int64) error {
	a.mu.Lock()
	a.bytes += max(a.end, counted) - counted
	a.mu.Unlock()
	if err := a.disk.schedule(a.path, a.next); err != nil {
		return err
	}
	home, err := a.Spool.shelf(a.host())
	if err != nil || home == a.shelf {
		return err
	}
	to := filepath.Join(home.path, a.ID+suffix)
	if err := a.disk.rename(a.path, to); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.shelf.count--
	home.count++
	a.shelf, a.path = home, to
	return nil
}

// quarantine takes a file that cannot be read out of the way, for a human to look at.
func (s *Spool) quarantine(sh *shelf, path, id string, why error) {
	to := s.path(dirQuarantine, id+suffix)
	info, err := os.Lstat(path)
	if err == nil {
		err = s.disk.rename(path, to)
	}
	if err != nil {
		s.Log.Error("a queue file is not readable, and cannot be moved to quarantine", "path", path, "reason", why, "error", err)
		return
	}
	s.gone(sh, info.Size())
	s.tally(func(c *Counters) { c.Quarantined++ })
	s.Log.Error("a queue file is not readable and was moved to quarantine; delete it, or mend it and move it back while mailmux is stopped",
		"path", to, "reason", why)
}
