package backend

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// scheduler runs tasks when they are due: a bounded number at once, and a bounded number a second. One goroutine waits
// for all of them, so that thousands of members cost no goroutine while nothing is due.
type scheduler struct {
	mu      sync.Mutex
	queue   taskQueue
	wake    chan struct{} // the head of the queue or the bounds have changed
	most    int
	gap     time.Duration // between two units of work
	free    time.Time     // when the next unit may begin
	running int
	lag     time.Duration // moving average of how late tasks begin
}

// task is one thing to do again and again. It runs at most once at a time.
type task struct {
	due   time.Time
	cost  func() int // units of work for the bound a second
	index int        // in the queue, or one of the two below
	again time.Time
	gone  bool
	// do does it and says when it is due again.
	do func(ctx context.Context) time.Time
}

const (
	idle    = -1 // not in the queue
	running = -2
)

// newTask makes a task that is not due yet.
func newTask(cost func() int, do func(ctx context.Context) time.Time) *task {
	return &task{cost: cost, index: idle, do: do}
}

func newScheduler(most, perSecond int) *scheduler {
	s := &scheduler{wake: make(chan struct{}, 1)}
	s.bound(most, perSecond)
	return s
}

// bound sets the bounds anew.
func (s *scheduler) bound(most, perSecond int) {
	s.mu.Lock()
	s.most, s.gap = most, time.Second/time.Duration(perSecond)
	s.mu.Unlock()
	s.poke()
}

func (s *scheduler) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// at makes a task due at a time, or sooner if it is due sooner already. A task that runs is done once more then.
func (s *scheduler) at(t *task, due time.Time) {
	s.mu.Lock()
	switch {
	case t.gone:
	case t.index == running:
		if t.again.IsZero() || due.Before(t.again) {
			t.again = due
		}
	case t.index == idle:
		t.due = due
		heap.Push(&s.queue, t)
	case due.Before(t.due):
		t.due = due
		heap.Fix(&s.queue, t.index)
	}
	s.mu.Unlock()
	s.poke()
}

// remove takes a task out for good. It may be running still; then that was the last time. A nil task is none.
func (s *scheduler) remove(t *task) {
	if t == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t.gone = true
	if t.index >= 0 {
		heap.Remove(&s.queue, t.index)
	}
}

// late is how much later than due tasks begin, because of the bounds.
func (s *scheduler) late() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lag
}

// run runs tasks until ctx ends, and waits for those that have begun.
func (s *scheduler) run(ctx context.Context) {
	var work sync.WaitGroup
	defer work.Wait()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		t, wait := s.next(time.Now())
		if t != nil {
			work.Go(func() { s.done(t, t.do(ctx)) })
			continue
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-timer.C:
		}
	}
}

// next is the task to begin now, or nil and how long there is none to begin.
func (s *scheduler) next(now time.Time) (*task, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 || s.running >= s.most {
		return nil, time.Hour // done and at wake it up
	}
	t := s.queue[0]
	if wait := max(t.due.Sub(now), s.free.Sub(now)); wait > 0 {
		return nil, wait
	}
	heap.Pop(&s.queue)
	t.index = running
	s.running++
	s.lag += (now.Sub(t.due) - s.lag) / 16
	if s.free.Before(now.Add(-s.gap)) {
		s.free = now // what was not used does not add up to a burst
	}
	s.free = s.free.Add(time.Duration(max(t.cost(), 1)) * s.gap)
	return t, 0
}

func (s *scheduler) done(t *task, due time.Time) {
	s.mu.Lock()
	s.running--
	t.index = idle
	if !t.again.IsZero() && t.again.Before(due) {
		due = t.again
	}
	t.again = time.Time{}
	if !t.gone {
		t.due = due
		heap.Push(&s.queue, t)
	}
	s.mu.Unlock()
	s.poke()
}

// taskQueue is a heap by due.
type taskQueue []*task

func (q taskQueue) Len() int           { return len(q) }
func (q taskQueue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q taskQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

// Push is for container/heap.
func (q *taskQueue) Push(x any) {
	t := x.(*task)
	t.index = len(*q)
	*q = append(*q, t)
}

// Pop is for container/heap.
func (q *taskQueue) Pop() any {
	old := *q
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	t.index = idle
	return t
}
