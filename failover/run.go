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

// DefaultBatch is how many changes go into one transaction. Larger ones are hardly faster, and hold up other writers.
const DefaultBatch = 1000

// Run makes the changes that a feed finds. It is used once.
type Run struct {
	Feed   Feed
	Writer Writer
	// Again says to feed once more until nothing new comes: what a search finds changes while it runs. It makes sense
	// for a Writer that does change things.
	Again bool
	Batch int // changes written together; DefaultBatch when 0
	Rate  int // changes a second at most; 0 for as fast as can be
	Limit int // changes in all at most; 0 for all
	// Report is told of each entry that was left alone or refused. It is called by one goroutine at a time.
	Report func(Note)

	mu      sync.Mutex
	summary Summary
	settled map[uint64]int // entries that no further pass has to try, and how often they conflicted
	seed    maphash.Seed
	planned int
	fault   string    // why the first change was refused
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
	// LastChange is when the last batch was written that changed something.
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
	if t := r.Snapshot().Total(); err == nil && t.Failed >= hopeless && t.Changed+t.Already == 0 {
		err = fmt.Errorf("%w, %d in all: %s", ErrRefused, t.Failed, r.fault)
	}
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

// ErrRefused is how a run ended in which the directory refused every change.
var ErrRefused = errors.New("the directory refused every change")

const (
	firstBatch = 20  // the first one is small: it shows whether the entries can be changed at all
	hopeless   = 100 // refusals without a single change of which the run says so
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

// pass feeds once. Writing goes on beside the feed: one batch is written while the next one is gathered. Two batches are
// never written at the same time: transactions that overlap crash slapd 2.5, and are hardly faster.
func (r *Run) pass(ctx context.Context) (fresh int, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	batches := make(chan []directory.Change)
	written := make(chan error, 1)
	go r.write(ctx, cancel, batches, written)

	size := r.Batch
	if r.planned == 0 {
		size = min(firstBatch, r.Batch)
	}
	var batch []directory.Change
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		select {
		case batches <- batch:
			batch = make([]directory.Change, 0, r.Batch)
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	err = r.Feed.Feed(ctx, func(item Item) error {
		switch {
		case item.Barrier:
			if err := flush(); err != nil {
				return err
			}
			return r.barrier(ctx, batches)
		case !r.take(item):
			return nil
		}
		fresh++
		if batch = append(batch, item.Change); len(batch) >= size {
			size = r.Batch
			return flush()
		}
		return nil
	})
	if err == nil || errors.Is(err, errEnough) || errors.Is(err, ErrPartial) {
		if flushed := flush(); flushed != nil {
			err = flushed
		}
	}
	close(batches)
	if failed := <-written; failed != nil {
		return fresh, failed
	}
	if cause := context.Cause(ctx); cause != nil && err != nil {
		return fresh, cause
	}
	return fresh, err
}

// barrier waits until everything before it is written: an empty batch is taken only when the one before is done.
func (r *Run) barrier(ctx context.Context, batches chan<- []directory.Change) error {
	select {
	case batches <- nil:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
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

// write is the writing half of a pass.
func (r *Run) write(ctx context.Context, cancel context.CancelCauseFunc, batches <-chan []directory.Change, written chan<- error) {
	var failed error
	for batch := range batches {
		if failed != nil || len(batch) == 0 {
			continue
		}
		if r.Limit > 0 && r.planned+len(batch) >= r.Limit {
			batch = batch[:r.Limit-r.planned]
			failed = errEnough
		}
		r.planned += len(batch)
		err := r.pace(ctx, len(batch))
		if err == nil {
			var outcomes []Outcome
			outcomes, err = r.Writer.Write(ctx, batch)
			r.tally(batch, outcomes)
		}
		if err != nil {
			failed = err
		}
		if failed != nil {
			cancel(failed)
		}
	}
	written <- failed
}

// pace keeps to the rate: a batch is due when the ones before it have had their time.
func (r *Run) pace(ctx context.Context, n int) error {
	if r.Rate <= 0 {
		return ctx.Err()
	}
	now := time.Now()
	if r.due.Before(now) {
		r.due = now
	}
	wait := r.due.Sub(now)
	r.due = r.due.Add(time.Duration(n) * time.Second / time.Duration(r.Rate))
	return sleep(ctx, wait)
}

// reason is an error's text without the colon at its end, behind which a directory may add a word of its own.
func reason(err error) string { return strings.TrimSuffix(err.Error(), ": ") }

func (r *Run) tally(batch []directory.Change, outcomes []Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
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
			r.summary.LastChange = time.Now()
		case Already:
			count.Already++
		case Conflict:
			count.Conflict++
			r.settled[key]++ // the next pass may find it as it is now
			r.report(Note{DN: c.DN, Result: o.Result, Reason: reason(o.Err)})
		case Failed:
			count.Failed++
			r.fault = cmp.Or(r.fault, reason(o.Err))
			r.settled[key] = tired
			r.report(Note{DN: c.DN, Result: o.Result, Reason: reason(o.Err)})
		}
	}
}
