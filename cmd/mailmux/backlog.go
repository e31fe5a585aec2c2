package main

import (
	"bytes"
	"io"
	"log/slog"
	"sync"
	"time"
)

const (
	// maxBacklog is how many bytes of the log may wait to be written.
	maxBacklog = 4 << 20
	// lastLines is how long the end of the process waits for what is left of the log.
	lastLines = 2 * time.Second
)

// backlog is a log that nobody has to wait for. It takes a line at once; a goroutine of its own writes it. Where whoever
// reads the log hangs, such as a stopped process at the end of a pipe or a journal on a slow disk, sessions go on: what
// does not fit into maxBacklog is lost, and the log says how much once it can. Write may be called from many goroutines.
type backlog struct {
	to  io.Writer
	log *slog.Logger // over remark; nil until tellBy

	mu      sync.Mutex
	more    sync.Cond
	waiting []byte
	lost    int // lines since the last that was written
	closed  bool
	done    chan struct{} // closed when nothing more is written
}

func newBacklog(to io.Writer) *backlog {
	b := &backlog{to: to, done: make(chan struct{})}
	b.more.L = &b.mu
	go b.run()
	return b
}

// under is what the log is written to in the end.
func (b *backlog) under() io.Writer { return b.to }

// remark is the backlog for what is said about it: there is always room for that.
type remark struct{ *backlog }

func (r remark) Write(line []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting = append(r.waiting, line...)
	return len(line), nil
}

// tellBy has the backlog tell by a logger over its remark how many lines were lost.
func (b *backlog) tellBy(log *slog.Logger) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.log = log
}

// Write takes one or several whole lines. It never fails.
func (b *backlog) Write(lines []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || len(b.waiting)+len(lines) > maxBacklog {
		b.lost += bytes.Count(lines, []byte{'\n'})
		return len(lines), nil
	}
	b.waiting = append(b.waiting, lines...)
	b.more.Signal()
	return len(lines), nil
}

// run writes what waits, all of it at once, until close.
func (b *backlog) run() {
	defer close(b.done)
	var lines []byte
	for {
		b.mu.Lock()
		for len(b.waiting) == 0 && !b.closed {
			b.more.Wait()
		}
		if len(b.waiting) == 0 {
			b.mu.Unlock()
			return
		}
		lines, b.waiting = b.waiting, lines[:0]
		b.mu.Unlock()
		_, err := b.to.Write(lines)
		b.written(lines, err)
		if cap(lines) > maxBacklog/64 { // of an outage
			lines = nil
		}
	}
}

// written counts the lines that a failed write has lost; once one succeeds, it has the log tell how many there were.
func (b *backlog) written(lines []byte, err error) {
	b.mu.Lock()
	if err != nil {
		b.lost += bytes.Count(lines, []byte{'\n'})
		b.mu.Unlock()
		return
	}
	lost, log := b.lost, b.log
	if log == nil {
		b.mu.Unlock()
		return
	}
	b.lost = 0
	b.mu.Unlock()
	if lost > 0 {
		log.Warn("a part of the log is lost: nobody read it, or it could not be written", "lines", lost)
	}
}

// close writes what is left, for as long as lastLines.
func (b *backlog) close() {
	b.mu.Lock()
	b.closed = true
	b.more.Signal()
	b.mu.Unlock()
	select {
	case <-b.done:
	case <-time.After(lastLines):
	}
}
