package spool

import (
	"context"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// committer makes files durable and renames them into place, for all that are ready together. While it waits for the disk
// the next ones gather.
//
// A round with several files asks the whole file system to sync, once: measured on ext4 with 50 files, that is 2 to 4
// times as fast as one fsync each, even if all of those are in flight together. Where somebody else writes much on the same
// file system it is slow, since it writes theirs, too; then each file has an fsync of its own for a while, many at a time,
// because the journal takes those that come together as one. That while is short at first, since one sync may have written
// all that there was, and grows as long as the next one is slow again. Should single syncs be no faster they are left at
// once: they cost several times the CPU.
type committer struct {
	disk disk

	mu      sync.Mutex
	pending []*commit
	dirty   map[*os.File]bool // directories with removals that nobody waits for
	timer   *time.Timer
	poke    chan struct{}

	whole whole // only run knows it
}

// whole says whether a sync of the whole file system is worth it.
type whole struct {
	after time.Time     // none before
	slow  time.Duration // what the last slow one took for each file
	pause time.Duration // how long none was tried after that; 0 when the last one was not slow
}

// took tells of a sync of the whole file system for so many files.
func (w *whole) took(d time.Duration, files int, now time.Time) {
	if d <= slowSync {
		w.pause = 0
		return
	}
	w.pause = min(max(2*w.pause, firstPause), longPause)
	w.slow, w.after = d/time.Duration(files), now.Add(w.pause)
}

// singly tells of as many syncs of single files instead.
func (w *whole) singly(d time.Duration, files int) {
	if d/time.Duration(files) > w.slow {
		w.after = time.Time{} // no better, and a lot of work for the processor
	}
}

// commit is a file to be synced, and then to be renamed, unless to is "". The committer sends its outcome once.
type commit struct {
	file     *os.File
	from, to string
	dir      *os.File
	err      error
	done     chan error
}

const (
	lazy       = time.Second            // within what time a removal is synced
	few        = 3                      // as many files are synced one by one
	together   = 64                     // fsyncs in flight
	slowSync   = 200 * time.Millisecond // a sync of the file system that has others' data to write
	firstPause = 500 * time.Millisecond // without it, after that
	longPause  = 8 * time.Second        // at most
)

func newCommitter(d disk) *committer {
	return &committer{disk: d, dirty: make(map[*os.File]bool), poke: make(chan struct{}, 1)}
}

// commit syncs a file, renames it, and returns when its directory is synced, too. Without a new name it syncs alone.
func (c *committer) commit(file *os.File, to string, dir *os.File) error {
	job := &commit{file: file, from: file.Name(), to: to, dir: dir, done: make(chan error, 1)}
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

// round serves everything that has gathered. A file is renamed only when it is durable, so that after a power failure no
// half message stands in the queue.
func (c *committer) round() {
	c.mu.Lock()
	jobs, dirs := c.pending, c.dirty
	c.pending, c.dirty = nil, make(map[*os.File]bool)
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
	c.mu.Unlock()

	c.syncFiles(jobs)
	for _, job := range jobs {
		if job.err == nil && job.to != "" {
			if job.err = c.disk.rename(job.from, job.to); job.err == nil {
				dirs[job.dir] = true
			}
		}
	}
	outcome := c.syncDirs(dirs)
	for _, job := range jobs {
		if job.err == nil && job.to != "" {
			job.err = outcome[job.dir]
		}
		job.done <- job.err
	}
}

// syncFiles makes the files of all jobs durable.
func (c *committer) syncFiles(jobs []*commit) {
	if len(jobs) <= few {
		c.syncEach(jobs)
		return
	}
	started := time.Now()
	if started.Before(c.whole.after) {
		c.syncEach(jobs)
		c.whole.singly(time.Since(started), len(jobs))
		return
	}
	err := c.disk.syncAll(jobs)
	c.whole.took(time.Since(started), len(jobs), time.Now())
	if err != nil {
		c.syncEach(jobs) // the error may be somebody else's: ask for each file
	}
}

// syncDirs syncs directories, together: the journal takes them as one.
func (c *committer) syncDirs(dirs map[*os.File]bool) map[*os.File]error {
	outcome := make(map[*os.File]error, len(dirs))
	var mu sync.Mutex
	var work errgroup.Group
	work.SetLimit(together)
	for dir := range dirs {
		work.Go(func() error {
			err := c.disk.sync(dir)
			mu.Lock()
			defer mu.Unlock()
			outcome[dir] = err
			return nil
		})
	}
	_ = work.Wait() // each has its own outcome
	return outcome
}

// syncEach syncs the files of those jobs that have no error yet, and returns when all of that is done.
func (c *committer) syncEach(jobs []*commit) {
	if len(jobs) == 1 {
		c.syncNext(jobs, new(atomic.Int64))
		return
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(together, len(jobs)) {
		wg.Go(func() { c.syncNext(jobs, &next) })
	}
	wg.Wait()
}

// syncNext syncs one file after the other, as long as there are some that nobody has taken.
func (c *committer) syncNext(jobs []*commit, next *atomic.Int64) {
	for {
		i := int(next.Add(1)) - 1
		if i >= len(jobs) {
			return
		}
		if jobs[i].err == nil {
			jobs[i].err = c.disk.sync(jobs[i].file)
		}
	}
}
