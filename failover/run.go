package failover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"time"

	"mailmux/directory"
)

// DefaultBatch is how many changes go into one transaction. Larger ones are no faster, and hold up other writers.
const DefaultBatch = 500

// Run makes the changes that a feed finds. It is used once.
type Run struct {
	Feed   Feed
	Writer Writer
	// Again says to feed once more until nothing new comes: what a search finds changes while it runs. It makes sense
	// for a Writer that does change things.
	Again bool
	Batch int // changes written together; DefaultBatch when 0
	// Workers is how many batches are written at the same time; 1 when 0.
	Workers int
	Rate  int // changes a second at most; 0 for as fast as can be
	Limit int // changes in all at most; 0 for all
	// Report is told of each entry that was left alone or refused. It is called by one goroutine at a time.
	Report func(Note)

	mu      sync.Mutex
	summary Summary
	settled map[uint64]int // entries that no further pass has to try, and how often they conflicted
	seed    maphash.Seed
	planned int
	due     time.Time // when the next batch may be written
}

// Note says what became of an entry that was not simply changed.
type Note struct {
	DN     string
	Result Result // Conflict or Failed; Changed for one that was left alone
	Reason string
	Broken bool // left alone because something is wrong with it
}

// Way is from one host to another.
type Way struct{ From, To string }

// Count is what became of the accounts of a Way.
type Count struct {
	Changed, Already, Conflict, Failed int
}

// Summary is what a run did.
type Summary struct {
	Ways    map[Way]*Count
	Left    map[string]int // reasons for which entries were left alone, and how many
	Broken  int            // of them those that name something wrong
	Passes  int
	Began   time.Time
	Seconds float64
	// LastChange is when the last batch was written.
	LastChange time.Time
}

// Total adds the ways up.
func (s Summary) Total() Count {
	var t Count
	for _, c := range s.Ways {
		t.Changed += c.Changed
		t.Already += c.Already
		t.Conflict += c.Conflict
		t.Failed += c.Failed
	}
	return t
}

// Sorted gives the ways in the order of their names.
func (s Summary) Sorted() []Way {
	var ways []Way
	for w := range s.Ways {
		ways = append(ways, w)
	}
	slices.SortFunc(ways, func(a, b Way) int { return cmp.Or(strings.Compare(a.From, b.From), strings.Compare(a.To, b.To)) })
	return ways
}

// Snapshot is the summary so far. It may be called while the run goes on.
func (r *Run) Snapshot() Summary {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.summary
	s.Ways, s.Left = map[Way]*Count{}, map[string]int{}
	for way, c := range r.summary.Ways {
		copied := *c
		s.Ways[way] = &copied
	}
	for reason, n := range r.summary.Left {
		s.Left[reason] = n
	}
	if s.Seconds == 0 && !s.Began.IsZero() {
		s.Seconds = time.Since(s.Began).Seconds()
	}
	return s
}

var errEnough = errors.New("limit reached")

// Do runs to the end, and gives the summary also when it failed.
func (r *Run) Do(ctx context.Context) (Summary, error) {
	r.mu.Lock()
	r.summary = Summary{Ways: map[Way]*Count{}, Left: map[string]int{}, Began: time.Now()}
	r.settled, r.seed = map[uint64]int{}, maphash.MakeSeed()
	r.mu.Unlock()
	if r.Batch <= 0 {
		r.Batch = DefaultBatch
	}
	if r.Rate > 0 {
		r.Batch = max(1, min(r.Batch, r.Rate/4))
	}
	err := r.passes(ctx)
	r.mu.Lock()
	r.summary.Seconds = time.Since(r.summary.Began).Seconds()
	r.mu.Unlock()
	return r.Snapshot(), err
}

// Somebody who undoes what the run does would keep it busy for ever.
const (
	maxPasses = 50
	maxFutile = 5 // passes in a row that broke off before they found anything
)

// ErrRefused ends a run in which the directory refused every change.
var ErrRefused = errors.New("the directory refuses every change")

const (
	firstBatch = 20  // the first one is small: it shows whether the entries can be changed at all
	hopeless   = 100 // refusals without a single change after which a run ends
)

// ErrRestless ends a run in which accounts kept coming back.
var ErrRestless = errors.New("accounts keep coming back: something else changes them")

func (r *Run) passes(ctx context.Context) error {
	futile := 0
	for range maxPasses {
		fresh, err := r.pass(ctx)
		r.mu.Lock()
		r.summary.Passes++
		r.mu.Unlock()
		if futile++; fresh > 0 {
			futile = 0
		}
		switch {
		case errors.Is(err, errEnough):
			return nil
		case errors.Is(err, ErrPartial) && r.Again && ctx.Err() == nil && futile < maxFutile:
		case err != nil:
			return err
		case !r.Again || fresh == 0:
			return nil
		}
	}
	return ErrRestless
}

// pass feeds once. Writing goes on beside the feed: batches are written while the next one is gathered.
func (r *Run) pass(ctx context.Context) (fresh int, err error) {
	feeding, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w := &writing{run: r, cancel: cancel, batches: make(chan []directory.Change)}
	workers := max(r.Workers, 1)
	for range workers {
		w.workers.Go(func() { w.work(ctx) })
	}
	size := r.Batch
	if r.planned == 0 {
		size = min(firstBatch, r.Batch)
	}
	var batch []directory.Change
	flush := func() error {
		full := batch
		batch = make([]directory.Change, 0, r.Batch)
		return w.send(feeding, full)
	}
	err = r.Feed.Feed(feeding, func(item Item) error {
		switch {
		case item.Barrier:
			err := flush()
			w.busy.Wait()
			return err
		case !r.take(item):
			return nil
		}
		fresh++
		if batch = append(batch, item.Change); len(batch) < size {
			return nil
		}
		err := flush()
		if size != r.Batch { // the first batch shows something: nothing else is written beside it
			w.busy.Wait()
			size = r.Batch
		}
		return err
	})
	if err == nil || errors.Is(err, errEnough) || errors.Is(err, ErrPartial) {
		if flushed := flush(); flushed != nil {
			err = flushed
		}
	}
	close(w.batches)
	w.workers.Wait()
	if w.failed != nil {
		return fresh, w.failed
	}
	if cause := context.Cause(feeding); cause != nil && err != nil {
		return fresh, cause
	}
	return fresh, err
}

// writing is the writing half of a pass.
type writing struct {
	run     *Run
	cancel  context.CancelCauseFunc // of the feed
	batches chan []directory.Change
	busy    sync.WaitGroup // batches that were sent and are not written yet
	workers sync.WaitGroup

	failed error // the first one; guarded by the run's mutex until the workers are done
}

func (w *writing) send(ctx context.Context, batch []directory.Change) error {
	if len(batch) == 0 {
		return nil
	}
	w.busy.Add(1)
	select {
	case w.batches <- batch:
		return nil
	case <-ctx.Done():
		w.busy.Done()
		return context.Cause(ctx)
	}
}

func (w *writing) work(ctx context.Context) {
	for batch := range w.batches {
		if err := w.write(ctx, batch); err != nil {
			w.run.mu.Lock()
			if w.failed == nil || errors.Is(w.failed, errEnough) {
				w.failed = err
			}
			w.run.mu.Unlock()
			w.cancel(err)
		}
		w.busy.Done()
	}
}

// write writes a batch, or what the limit leaves of it.
func (w *writing) write(ctx context.Context, batch []directory.Change) error {
	r := w.run
	batch, wait, err := r.admit(w, batch)
	if len(batch) == 0 {
		return err
	}
	if slept := sleep(ctx, wait); slept != nil {
		return slept
	}
	outcomes, failed := r.Writer.Write(ctx, batch)
	r.tally(batch, outcomes)
	if failed != nil {
		return failed
	}
	if t := r.Snapshot().Total(); t.Failed >= hopeless && t.Changed+t.Already == 0 {
		return fmt.Errorf("%w, %d so far: %w", ErrRefused, t.Failed, outcomes[len(outcomes)-1].Err)
	}
	return err
}

// admit says what of a batch may be written, after which pause, and errEnough with the last one that may.
func (r *Run) admit(w *writing, batch []directory.Change) (admitted []directory.Change, wait time.Duration, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w.failed != nil {
		return nil, 0, nil
	}
	if r.Limit > 0 && r.planned+len(batch) >= r.Limit {
		batch, err = batch[:r.Limit-r.planned], errEnough
	}
	r.planned += len(batch)
	if r.Rate <= 0 {
		return batch, 0, err
	}
	// A batch is due when the ones before it have had their time.
	now := time.Now()
	if r.due.Before(now) {
		r.due = now
	}
	wait = r.due.Sub(now)
	r.due = r.due.Add(time.Duration(len(batch)) * time.Second / time.Duration(r.Rate))
	return batch, wait, err
}

// take counts an item, and says whether it is to be changed.
func (r *Run) take(item Item) bool {
	dn := item.Change.DN
	if item.Leave != "" {
		dn = item.DN
	}
	key := maphash.String(r.seed, dn)
	r.mu.Lock()
	defer r.mu.Unlock()
	if item.Leave != "" {
		if r.settled[key] == 0 {
			r.settled[key] = tired
			r.summary.Left[item.Leave]++
			if item.Broken {
				r.summary.Broken++
			}
			r.report(Note{DN: item.DN, Reason: item.Leave, Broken: item.Broken})
		}
		return false
	}
	return r.settled[key] < tired
}

// tired is how many conflicts make a further attempt pointless: somebody else keeps changing the entry.
const tired = 3

func (r *Run) report(n Note) {
	if r.Report != nil {
		r.Report(n)
	}
}

func (r *Run) tally(batch []directory.Change, outcomes []Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.summary.LastChange = time.Now()
	for i, o := range outcomes {
		c := batch[i]
		way := Way{strings.ToLower(c.From), strings.ToLower(c.To)}
		count := r.summary.Ways[way]
		if count == nil {
			count = &Count{}
			r.summary.Ways[way] = count
		}
		key := maphash.String(r.seed, c.DN)
		switch o.Result {
		case Changed:
			count.Changed++
		case Already:
			count.Already++
		case Conflict:
			count.Conflict++
			r.settled[key]++ // the next pass may find it as it is now
			r.report(Note{DN: c.DN, Result: o.Result, Reason: o.Err.Error()})
		case Failed:
			count.Failed++
			r.settled[key] = tired
			r.report(Note{DN: c.DN, Result: o.Result, Reason: o.Err.Error()})
		}
	}
}
