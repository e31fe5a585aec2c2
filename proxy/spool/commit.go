package spool

import (
	"context"
	"os"
	"sync"
	"time"
)

// committer renames files into place and syncs their directories, for all that are ready together. While it waits for the
// disk the next ones gather.
type committer struct {
	disk disk

	mu      sync.Mutex
	pending []*commit
	dirty   map[*os.File]bool // directories with removals that nobody waits for
	timer   *time.Timer
	poke    chan struct{}
}

// commit is one rename. The committer sends its outcome once.
type commit struct {
	from, to string
	dir      *os.File
	done     chan error
}

// lazy is within what time a removal is synced.
const lazy = time.Second

func newCommitter(d disk) *committer {
	return &committer{disk: d, dirty: make(map[*os.File]bool), poke: make(chan struct{}, 1)}
}

// commit renames a file and returns when its directory is synced.
func (c *committer) commit(from, to string, dir *os.File) error {
	job := &commit{from: from, to: to, dir: dir, done: make(chan error, 1)}
	c.mu.Lock()
	c.pending = append(c.pending, job)
	c.mu.Unlock()
	c.wake()
	return <-job.done
}

// removed lets the next round sync a directory, and has one soon.
func (c *committer) removed(dir *os.File) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dirty[dir] = true
	if c.timer == nil {
		c.timer = time.AfterFunc(lazy, c.wake)
	}
}

func (c *committer) wake() {
	select {
	case c.poke <- struct{}{}:
	default:
	}
}

// run works until ctx ends, and then once more. Nobody may commit after that.
func (c *committer) run(ctx context.Context) {
	for {
		select {
		case <-c.poke:
			c.round()
		case <-ctx.Done():
			c.round()
			return
		}
	}
}

// round serves everything that has gathered.
func (c *committer) round() {
	c.mu.Lock()
	jobs, dirty := c.pending, c.dirty
	c.pending, c.dirty = nil, make(map[*os.File]bool)
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
	c.mu.Unlock()

	outcome := make(map[*os.File]error)
	failed := make(map[*commit]error)
	for dir := range dirty {
		outcome[dir] = nil
	}
	for _, job := range jobs {
		if err := c.disk.rename(job.from, job.to); err != nil {
			failed[job] = err
			continue
		}
		outcome[job.dir] = nil
	}
	for dir := range outcome {
		outcome[dir] = c.disk.sync(dir)
	}
	for _, job := range jobs {
		if err, ok := failed[job]; ok {
			job.done <- err
		} else {
			job.done <- outcome[job.dir]
		}
	}
}
