package backend

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// scheduler runs tasks when they are due: a bounded number at once, and a bounded number a second. One goroutine waits
// for all of them, so that thousands of members cost no goroutine while nothing is due. Urgent tasks that are due go
// before the others: where the bounds are too low for all, what confirms a failure must not wait behind what looks whether
// all is well.
type scheduler struct {
	mu      sync.Mutex
	queues  [2]taskQueue  // the urgent ones, the others
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
	queue int        // which of the two it is in, or was in
	cost  func() int // units of work for the bound a second
	index int        // in its queue, or one of the two below
	again time.Time
	gone  bool
	// do does it and says when it is due again, and whether that is urgent.
	do func(ctx context.Context) (due time.Time, urgent bool)
}

// The queues of a scheduler.
const (
	urgently = 0
	inTurn   = 1
)

// timerSlack is how late a timer may wake the scheduler up without lowering the rate.
const timerSlack = 20 * time.Millisecond

const (
	idle    = -1 // not in the queue
	running = -2
)

// newTask makes a task that is not due yet.
func newTask(cost func() int, do func(ctx context.Context) (time.Time, bool)) *task {
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

// at makes a task due at a time, or sooner if it is due sooner already. A task that runs is done once more then. One that
// is brought forward is urgent.
func (s *scheduler) at(t *task, due time.Time) {
	s.mu.Lock()
	switch {
	case t.gone:
	case t.index == running:
		if t.again.IsZero() || due.Before(t.again) {
			t.again = due
		}
	case t.index == idle:
		s.push(t, due, inTurn)
	case due.Before(t.due):
		heap.Remove(&s.queues[t.queue], t.index)
		s.push(t, due, urgently)
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
		heap.Remove(&s.queues[t.queue], t.index)
	}
}

// push puts a task that is in no queue into one. mu is held.
func (s *scheduler) push(t *task, due time.Time, queue int) {
	t.due, t.queue = due, queue
	heap.Push(&s.queues[queue], t)
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
			work.Go(func() {
				due, urgent := t.do(ctx)
				s.done(t, due, urgent)
			})
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
	if s.running >= s.most {
		return nil, time.Hour // done wakes it up
	}
	soonest := time.Hour // at and done wake it up
	for q := range s.queues {
		if len(s.queues[q]) == 0 {
			continue
		}
		t := s.queues[q][0]
		wait := max(t.due.Sub(now), s.free.Sub(now))
		if wait <= 0 {
			return s.begin(t, now), 0
		}
		soonest = min(soonest, wait)
	}
	return nil, soonest
}

// begin takes a task out of its queue and counts it. mu is held.
func (s *scheduler) begin(t *task, now time.Time) *task {
	heap.Pop(&s.queues[t.queue])
	t.index = running
	s.running++
	s.lag += (now.Sub(t.due) - s.lag) / 16
	// What was not used does not add up to a burst, but for what a timer that comes late has cost.
	if late := now.Add(-timerSlack); s.free.Before(late) {
		s.free = late
	}
	s.free = s.free.Add(time.Duration(max(t.cost(), 1)) * s.gap)
	return t
}

func (s *scheduler) done(t *task, due time.Time, urgent bool) {
	s.mu.Lock()
	s.running--
	t.index = idle
	if !t.again.IsZero() && t.again.Before(due) {
		due, urgent = t.again, true
	}
	t.again = time.Time{}
	queue := inTurn
	if urgent {
		queue = urgently
	}
	if !t.gone {
		s.push(t, due, queue)
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
