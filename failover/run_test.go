package failover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mailmux/directory"
)

// feedFunc is a feed of a test.
type feedFunc func(pass int, out func(Item) error) error

type countedFeed struct {
	pass int
	feed feedFunc
}

func (f *countedFeed) Feed(_ context.Context, out func(Item) error) error {
	f.pass++
	return f.feed(f.pass, out)
}

// fakeWriter keeps what it was given, and answers as told.
type fakeWriter struct {
	mu      sync.Mutex
	batches [][]directory.Change
	answer  func(c directory.Change) Outcome
	err     error
}

func (w *fakeWriter) Write(_ context.Context, batch []directory.Change) ([]Outcome, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.batches = append(w.batches, slices.Clone(batch))
	outcomes := make([]Outcome, len(batch))
	for i, c := range batch {
		if w.answer != nil {
			outcomes[i] = w.answer(c)
		}
	}
	return outcomes, w.err
}

func (w *fakeWriter) written() int {
	n := 0
	for _, b := range w.batches {
		n += len(b)
	}
	return n
}

func items(from, to int, out func(Item) error) error {
	for i := from; i < to; i++ {
		if err := out(Item{Change: directory.Change{DN: fmt.Sprint("uid=", i), From: "A", To: "b"}}); err != nil {
			return err
		}
	}
	return nil
}

func TestRunPassesUntilNothingIsNew(t *testing.T) {
	w := &fakeWriter{answer: func(c directory.Change) Outcome {
		switch c.DN {
		case "uid=3":
			return Outcome{Failed, errors.New("refused")}
		case "uid=4":
			return Outcome{Conflict, errors.New("changed")}
		case "uid=5":
			return Outcome{Already, nil}
		}
		return Outcome{}
	}}
	var notes []Note
	run := &Run{Writer: w, Again: true, Batch: 7, Report: func(n Note) { notes = append(notes, n) }, Feed: &countedFeed{feed: func(pass int, out func(Item) error) error {
		if err := out(Item{DN: "uid=left", Leave: "because"}); err != nil {
			return err
		}
		switch pass {
		case 1:
			return items(0, 20, out)
		case 2: // the failed one, the one in conflict, and an account that is new
			return items(3, 5, func(i Item) error {
				return errors.Join(out(i), out(Item{Change: directory.Change{DN: "uid=new", From: "A", To: "b"}}))
			})
		}
		return items(3, 5, out) // the one that fails is not tried again, the one in conflict three times in all
	}}}
	s, err := run.Do(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := *s.Ways[Way{"a", "b"}]
	if want := (Count{Changed: 19, Already: 1, Conflict: 3, Failed: 1}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if s.Passes != 4 || s.Left["because"] != 1 || len(notes) != 5 || w.written() != 24 {
		t.Errorf("%d passes, left %v, %d notes, %d written", s.Passes, s.Left, len(notes), w.written())
	}
}

func TestRunLimit(t *testing.T) {
	for _, limit := range []int{1, 7, 10, 100} {
		w := &fakeWriter{}
		run := &Run{Writer: w, Again: true, Batch: 5, Limit: limit, Feed: &countedFeed{feed: func(pass int, out func(Item) error) error {
			if pass == 1 {
				return items(0, 50, out)
			}
			return nil
		}}}
		if _, err := run.Do(t.Context()); err != nil || w.written() != min(limit, 50) {
			t.Errorf("limit %d: %d written, %v", limit, w.written(), err)
		}
	}
}

func TestRunEndsWithItsWriter(t *testing.T) {
	gone := errors.New("gone")
	w := &fakeWriter{err: gone}
	run := &Run{Writer: w, Again: true, Batch: 5, Feed: &countedFeed{feed: func(_ int, out func(Item) error) error { return items(0, 1000, out) }}}
	if s, err := run.Do(t.Context()); !errors.Is(err, gone) || len(w.batches) != 1 || s.Total().Changed != 5 {
		t.Errorf("%v after %d batches, %+v", err, len(w.batches), s.Total())
	}
	restless := &Run{Writer: &fakeWriter{}, Again: true, Feed: &countedFeed{feed: func(_ int, out func(Item) error) error { return items(0, 1, out) }}}
	if _, err := restless.Do(t.Context()); !errors.Is(err, ErrRestless) {
		t.Errorf("accounts that keep coming back: %v", err)
	}
	partial := &Run{Writer: &fakeWriter{}, Again: true, Feed: &countedFeed{feed: func(pass int, out func(Item) error) error {
		if pass == 2 {
			return items(5, 8, out)
		}
		if pass > 2 {
			return nil
		}
		return errors.Join(items(0, 5, out), ErrPartial)
	}}}
	if s, err := partial.Do(t.Context()); err != nil || s.Total().Changed != 8 {
		t.Errorf("a search that broke off: %+v, %v", s.Total(), err)
	}
	futile := &Run{Writer: &fakeWriter{}, Again: true, Feed: &countedFeed{feed: func(int, func(Item) error) error { return ErrPartial }}}
	if _, err := futile.Do(t.Context()); !errors.Is(err, ErrPartial) {
		t.Errorf("a search that never works: %v", err)
	}
}

func TestBarriersKeepRunsApart(t *testing.T) {
	w := &fakeWriter{}
	run := &Run{Writer: w, Batch: 100, Feed: &countedFeed{feed: func(_ int, out func(Item) error) error {
		return errors.Join(items(0, 3, out), out(Item{Barrier: true}), items(0, 3, out), out(Item{Barrier: true}))
	}}}
	if _, err := run.Do(t.Context()); err != nil || len(w.batches) != 2 || len(w.batches[0]) != 3 {
		t.Errorf("%v: %v", err, w.batches)
	}
}

func TestRateIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &fakeWriter{}
		run := &Run{Writer: w, Rate: 100, Feed: &countedFeed{feed: func(_ int, out func(Item) error) error { return items(0, 1000, out) }}}
		began := time.Now()
		s, err := run.Do(t.Context())
		if took := time.Since(began); err != nil || s.Total().Changed != 1000 || took < 9*time.Second || took > 11*time.Second {
			t.Errorf("1000 changes at 100/s took %s, %v", took, err)
		}
		if len(w.batches) != 41 { // the small first one, and then a quarter of a second each
			t.Errorf("%d batches: they come in bursts", len(w.batches))
		}
	})
}

func TestInterruptedRun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	w := &fakeWriter{answer: func(directory.Change) Outcome { cancel(); return Outcome{} }}
	run := &Run{Writer: w, Again: true, Batch: 5, Feed: &countedFeed{feed: func(_ int, out func(Item) error) error { return items(0, 1000, out) }}}
	s, err := run.Do(ctx)
	if !errors.Is(err, context.Canceled) || s.Total().Changed != w.written() || s.Total().Changed > 10 {
		t.Errorf("%v, %+v", err, s.Total())
	}
}
