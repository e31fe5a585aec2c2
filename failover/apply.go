package failover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"mailmux/directory"
)

// Result is what became of a change.
type Result uint8

// The results.
const (
	Changed  Result = iota // as planned
	Already                // the entry was found as the change would have left it
	Conflict               // changed by somebody else, or gone: left alone
	Failed                 // the directory refuses this change
)

// Outcome is what became of one change, and why.
type Outcome struct {
	Result Result
	Err    error // of Conflict and Failed
}

// Writer makes changes. Write may be called from several goroutines, with different entries.
type Writer interface {
	// Write makes the changes of a batch, and gives an outcome for each. Its error ends the run: the directory is away,
	// the journal cannot be written, or ctx ended. The outcomes say then, as far as known, what was done.
	Write(ctx context.Context, batch []directory.Change) ([]Outcome, error)
}

// Dry is the Writer that changes nothing.
type Dry struct {
	Print func(directory.Change) // may be nil
}

// Write tells Print, and claims that all went well.
func (d *Dry) Write(_ context.Context, batch []directory.Change) ([]Outcome, error) {
	if d.Print != nil {
		for _, c := range batch {
			d.Print(c)
		}
	}
	return make([]Outcome, len(batch)), nil
}

// Transactions says when to use them.
type Transactions uint8

// The modes of an Applier.
const (
	Auto   Transactions = iota // where the server has them, until one aborts
	Always                     // where the server has them, also after one aborted
	Never
)

// Applier is the Writer that changes the directory, and writes a journal.
type Applier struct {
	Link         *Link
	Journal      *Journal // nil for none
	Transactions Transactions
	Connections  int // for single changes
	// Look reads the entries of a batch before they go into a transaction, and makes those single changes that do not fit.
	// A search has just seen its entries; a journal says how they were long ago, and a transaction must not abort.
	Look bool
	Say  func(format string, args ...any)

	tried  atomic.Bool // a first batch was written
	single atomic.Bool // transactions are over for this run
}

// Mode says how the next batch will be written.
func (a *Applier) Mode() string {
	if a.single.Load() || a.Transactions == Never {
		return "single changes"
	}
	return "transactions"
}

// Write journals the batch, applies it, and strikes out of the journal what was not done.
func (a *Applier) Write(ctx context.Context, batch []directory.Change) ([]Outcome, error) {
	w := newWork(batch)
	if a.Journal == nil {
		return w.outcomes, a.apply(ctx, w)
	}
	first, err := a.Journal.Intend(batch)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrJournal, err)
	}
	err = a.apply(ctx, w)
	for i, o := range w.outcomes {
		if o.Result == Changed || o.Result == unknown || o.Result == Conflict && w.sent[i] {
			continue // it was made, or may have been before somebody else changed the entry again
		}
		if err := a.Journal.Void(first+int64(i), o); err != nil {
			return w.outcomes, fmt.Errorf("%w: %w", ErrJournal, err)
		}
	}
	return w.outcomes, err
}

// unknown is the result of a change that may have been made: the run ended before that could be found out. It stays in
// the journal.
const unknown Result = 255

func (a *Applier) apply(ctx context.Context, w *work) error {
	deadline := time.Now().Add(a.Link.Wait)
	pause := 20 * time.Millisecond
	for len(w.pending) > 0 {
		before := len(w.pending)
		editor, err := a.Link.Editor(ctx)
		if err != nil {
			return err
		}
		// What was sent is waited for, even if the run is to end: then it is known what was done.
		err = a.attempt(context.WithoutCancel(ctx), editor, w)
		if ctx.Err() != nil && len(w.pending) > 0 {
			return ctx.Err()
		}
		if len(w.pending) < before {
			deadline, pause = time.Now().Add(a.Link.Wait), 20*time.Millisecond
			continue
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w: %w", ErrAway, err)
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
		pause = min(2*pause, time.Second)
	}
	return nil
}

// work is a batch on its way.
type work struct {
	batch    []directory.Change
	outcomes []Outcome
	pending  []int  // what has no outcome yet
	sent     []bool // what may have been done by us without our knowing
}

func newWork(batch []directory.Change) *work {
	w := &work{batch: batch, outcomes: make([]Outcome, len(batch)), sent: make([]bool, len(batch))}
	for i := range w.outcomes {
		w.outcomes[i].Result = unknown
		w.pending = append(w.pending, i)
	}
	return w
}

func (w *work) settle(i int, result Result, err error) { w.outcomes[i] = Outcome{result, err} }

// attempt tries all that is pending once. Its error is why something still is.
//
// The first batch, a small one, goes without a transaction: if we may not change the entries at all, or many of them
// are at fault, that shows there, and no transaction has to abort for it.
func (a *Applier) attempt(ctx context.Context, editor directory.Editor, w *work) error {
	if !a.tried.Swap(true) {
		err := a.modify(ctx, editor, w)
		for _, o := range w.outcomes {
			if o.Result == Failed {
				a.stopTransactions(fmt.Sprintf("some entries cannot be changed (%v)", o.Err))
				break
			}
		}
		return err
	}
	whole := len(w.pending) == len(w.batch) && !slices.Contains(w.sent, true) // what was done already aborts it
	if whole && a.Transactions != Never && !a.single.Load() && editor.Capabilities().Transactions {
		if a.Look && !a.fits(ctx, editor, w.batch) {
			return a.modify(ctx, editor, w)
		}
		done, err := a.transact(ctx, editor, w)
		if done || err != nil {
			return err
		}
	}
	return a.modify(ctx, editor, w)
}

// fits says whether all entries are as the changes expect them.
func (a *Applier) fits(ctx context.Context, editor directory.Editor, batch []directory.Change) bool {
	dns := make([]string, len(batch))
	for i, c := range batch {
		dns[i] = c.DN
	}
	records, errs := editor.GetAll(ctx, dns)
	for i, c := range batch {
		r := records[i]
		if errs[i] != nil || r.Several || !strings.EqualFold(r.Host, c.From) || !strings.EqualFold(r.OldHost, c.OldFrom) {
			return false
		}
	}
	return true
}

// transact tries the whole batch in a transaction. It is not done when the batch has to be made one by one.
func (a *Applier) transact(ctx context.Context, editor directory.Editor, w *work) (done bool, err error) {
	err = editor.Transact(ctx, w.batch)
	switch {
	case err == nil:
		for i := range w.batch {
			w.settle(i, Changed, nil)
		}
		w.pending = nil
		return true, nil
	case errors.Is(err, directory.ErrReadOnly):
		a.readOnly(editor, err)
		return true, err
	case errors.Is(err, directory.ErrBusy):
		a.Link.Lost(editor)
		return true, err
	case errors.Is(err, directory.ErrLost):
		a.mark(w)
		a.Link.Lost(editor)
		a.stopTransactions("the directory was lost while it committed a transaction")
		return true, err
	}
	a.stopTransactions(fmt.Sprintf("a transaction aborted (%v)", err))
	return false, nil
}

// mark keeps in mind that the pending changes may have been done.
func (a *Applier) mark(w *work) {
	for _, i := range w.pending {
		w.sent[i] = true
	}
}

func (a *Applier) stopTransactions(why string) {
	if a.Transactions == Auto && a.single.CompareAndSwap(false, true) {
		a.Say("%s: going on with single changes, because aborts can crash slapd 2.5", why)
	}
}

func (a *Applier) readOnly(editor directory.Editor, err error) {
	a.Say("%s takes no changes (%v): trying another server", editor.Server(), err)
	a.Link.ReadOnly(editor)
}

// modify makes the pending changes one by one, with many in flight on each of several connections.
func (a *Applier) modify(ctx context.Context, editor directory.Editor, w *work) error {
	errs := make([]error, len(w.batch))
	chunk := (len(w.pending) + max(a.Connections, 1) - 1) / max(a.Connections, 1)
	var wg sync.WaitGroup
	for from := 0; from < len(w.pending); from += chunk {
		part := w.pending[from:min(from+chunk, len(w.pending))]
		wg.Go(func() {
			changes := make([]directory.Change, len(part))
			for k, i := range part {
				changes[k] = w.batch[i]
			}
			for k, err := range editor.Modify(ctx, changes) {
				errs[part[k]] = err
			}
		})
	}
	wg.Wait()
	return a.judge(ctx, editor, w, errs)
}

// judge turns the errors of single changes into outcomes; what has to be tried again stays pending.
func (a *Applier) judge(ctx context.Context, editor directory.Editor, w *work, errs []error) error {
	var again, faulty []int
	var cause error
	readOnly := 0
	for _, i := range w.pending {
		err := errs[i]
		switch {
		case err == nil:
			w.settle(i, Changed, nil)
		case errors.Is(err, directory.ErrLost):
			w.sent[i] = true
			again, cause = append(again, i), err
		case errors.Is(err, directory.ErrBusy):
			again, cause = append(again, i), err
		default:
			if errors.Is(err, directory.ErrReadOnly) {
				readOnly++
			}
			faulty = append(faulty, i)
		}
	}
	// One entry may be protected; when all are, the server is a replica.
	if readOnly > 0 && readOnly == len(w.pending) {
		cause = errs[w.pending[0]]
		a.readOnly(editor, cause)
		return cause
	}
	lost, err := a.verify(ctx, editor, w, faulty, errs)
	if err != nil {
		again, cause = append(again, lost...), err
	}
	w.pending = again
	if errors.Is(cause, directory.ErrLost) {
		a.Link.Lost(editor)
	}
	return cause
}

// passes says whether an error is about the server at this moment, and not about the entry.
func passes(err error) bool {
	return errors.Is(err, directory.ErrLost) || errors.Is(err, directory.ErrBusy) || errors.Is(err, directory.ErrUnavailable)
}

// verify reads the entries whose change was refused, to tell our own work, of which the answer was lost, from somebody
// else's, and that from a fault of the entry. It gives those that it could not read, and why.
func (a *Applier) verify(ctx context.Context, editor directory.Editor, w *work, faulty []int, why []error) (lost []int, cause error) {
	dns := make([]string, len(faulty))
	for k, i := range faulty {
		dns[k] = w.batch[i].DN
	}
	records, errs := editor.GetAll(ctx, dns)
	for k, i := range faulty {
		c, now := w.batch[i], records[k]
		is := func(host, old string) bool {
			return strings.EqualFold(now.Host, host) && strings.EqualFold(now.OldHost, old) && !now.Several
		}
		switch err := errs[k]; {
		case errors.Is(err, directory.ErrGone):
			w.settle(i, Conflict, directory.ErrGone)
		case err != nil && !passes(err):
			w.settle(i, Failed, why[i]) // another server holds it by now, or it may not be read
		case err != nil:
			lost, cause = append(lost, i), fmt.Errorf("%w: %w", directory.ErrLost, err)
		case is(c.To, c.OldTo):
			w.settle(i, Already, nil)
			if w.sent[i] {
				w.settle(i, Changed, nil)
			}
		case !is(c.From, c.OldFrom):
			w.settle(i, Conflict, fmt.Errorf("%w: home host is %s now, original %s", directory.ErrConflict, orNone(now.Host), orNone(now.OldHost)))
		default:
			w.settle(i, Failed, why[i])
		}
	}
	return lost, cause
}
