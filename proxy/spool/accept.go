package spool

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Accept takes a message in. When it returns nil the message is on disk with its envelope, and the caller may say 250;
// after any error nothing of it is kept. ErrFull and ErrEnvelope are told apart, everything else is temporary. An error
// of body is returned wrapped. The context ends the copying, but not the commit.
func (s *Spool) Accept(ctx context.Context, e *Envelope, body io.Reader) (id string, err error) {
	return s.acceptAs(ctx, newID(s.now()), e, body)
}

func (s *Spool) acceptAs(ctx context.Context, id string, e *Envelope, body io.Reader) (string, error) {
	if err := e.validate(); err != nil {
		return "", err
	}
	if !s.begin() {
		return "", ErrClosed
	}
	defer s.accepts.Done()
	if err := s.room(0); err != nil {
		return "", err
	}
	host := e.To[0].Host
	for _, r := range e.To {
		if r.Host != host {
			host = ""
		}
	}
	sh, err := s.shelf(host)
	if err != nil {
		return "", err
	}
	due := s.now()
	if e.Tried {
		due = due.Add(s.jitter(s.cfg.FirstRetry))
	}
	f, size, err := s.write(ctx, id, e, body, due)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if err := s.place(id, f, sh, due, size); err != nil {
		return "", err
	}
	s.tally(func(c *Counters) { c.Accepted++ })
	return id, nil
}

// begin holds the spool open for one accept.
func (s *Spool) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping.Err() != nil {
		return false
	}
	s.accepts.Add(1)
	return true
}

// room says whether a message of so many bytes fits; with 0 it asks for the floor alone.
func (s *Spool) room(size int64) error {
	s.mu.Lock()
	held := s.bytes
	s.mu.Unlock()
	if held+size > int64(s.cfg.MaxSize) {
		return fmt.Errorf("%w: spool.max_size, %s, is reached", ErrFull, s.cfg.MaxSize)
	}
	return s.free.take(s.cfg.Dir, int64(s.cfg.MinFree), size)
}

// buffers hold the beginning of a message: most are written by one call. A sync.Pool hands them round.
type buffers struct{ pool sync.Pool }

const bufferSize = 64 << 10

func (b *buffers) get() *[]byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return p
	}
	p := make([]byte, bufferSize)
	return &p
}

// write makes the file below tmp. After an error there is no file.
func (s *Spool) write(ctx context.Context, id string, e *Envelope, body io.Reader, due time.Time) (_ *os.File, size int64, err error) {
	head, sizeAt, err := encodeHead(id, s.now(), e)
	if err != nil {
		return nil, 0, err
	}
	f, err := s.disk.create(s.path(dirTmp, id[idLength-1:idLength], id+suffix))
	if err != nil {
		return nil, 0, fmt.Errorf("make a file in the spool: %w", full(err))
	}
	if size, err = s.copy(ctx, f, head, sizeAt, body); err == nil {
		if err = s.disk.schedule(f.Name(), due); err == nil {
			return f, size, nil
		}
		err = fmt.Errorf("schedule %s: %w", f.Name(), full(err))
	}
	f.Close()
	s.discard(f.Name())
	return nil, 0, err
}

// copy writes head, message and separator, and the size into the head. A message that fits into the buffer together with
// its head is written by one call.
func (s *Spool) copy(ctx context.Context, f *os.File, head []byte, sizeAt int, body io.Reader) (int64, error) {
	buffer := s.buffers.get()
	defer s.buffers.pool.Put(buffer)
	b := append((*buffer)[:0], head...)
	if len(b) < bufferSize {
		b = b[:cap(b)]
	}
	filled, at, size := len(head), int64(0), int64(0)
	for {
		n, err := io.ReadFull(body, b[filled:])
		filled, size = filled+n, size+int64(n)
		ended := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !ended {
			return 0, fmt.Errorf("read the message: %w", err)
		}
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		if ended && at == 0 {
			copy(b[sizeAt:], encodeSize(size))
		}
		if err := s.room(int64(filled)); err != nil {
			return 0, err
		}
		out := b[:filled]
		if ended {
			out = append(out, '\n')
		}
		if err := s.disk.writeAt(f, out, at); err != nil {
			return 0, fmt.Errorf("write %s: %w", f.Name(), full(err))
		}
		if !ended {
			at, filled = at+int64(filled), 0
			continue
		}
		if at > 0 {
			if err := s.disk.writeAt(f, encodeSize(size), int64(sizeAt)); err != nil {
				return 0, fmt.Errorf("write %s: %w", f.Name(), full(err))
			}
		}
		return at + int64(len(out)), nil
	}
}

// place makes a file durable on its shelf, and lets it be found. After an error there is no file.
func (s *Spool) place(id string, f *os.File, sh *shelf, due time.Time, size int64) error {
	to := filepath.Join(sh.path, id+suffix)
	if err := s.commits.commit(f, to, sh.dir); err != nil {
		s.discard(f.Name())
		s.discard(to)
		return fmt.Errorf("commit %s: %w", to, full(err))
	}
	s.mu.Lock()
	sh.count++
	s.bytes += size
	s.line(sh, id, due)
	s.mu.Unlock()
	s.stir()
	return nil
}

// discard removes a file that was not acknowledged.
func (s *Spool) discard(path string) {
	if err := ignoreMissing(s.disk.remove(path)); err != nil {
		s.Log.Warn("a message that was refused is left in the spool; remove the file", "path", path, "error", err)
	}
}

// The alphabet of ids sorts like the numbers that it stands for.
const idAlphabet = "0123456789abcdefghijklmnopqrstuv"

// idLength is the length of an id that newID makes. That of a notification begins with its message's.
const idLength = 17

// newID names a message: nine characters of time in milliseconds, so that names sort by arrival, and eight of chance, so
// that frontends need not agree.
func newID(now time.Time) string {
	var chance [8]byte
	_, _ = rand.Read(chance[:]) // documented never to fail
	ms, bits := uint64(now.UnixMilli()), binary.BigEndian.Uint64(chance[:])
	id := make([]byte, idLength)
	for i := range 9 {
		id[8-i] = idAlphabet[ms>>(5*i)&31]
	}
	for i := range 8 {
		id[16-i] = idAlphabet[bits>>(5*i)&31]
	}
	return string(id)
}

// arrival is the time in a message's name. A notification has that of the message that it tells of.
func arrival(id string) time.Time {
	ms := int64(0)
	for i := range 9 {
		ms = ms<<5 | int64(strings.IndexByte(idAlphabet, id[i]))
	}
	return time.UnixMilli(ms)
}

// ValidID says whether a text has the form of an id: anything else may not become part of a path.
func ValidID(id string) bool {
	return len(id) >= idLength && len(id) <= 100 && !strings.ContainsFunc(id, func(c rune) bool {
		return !strings.ContainsRune(idAlphabet, c) && c != '-'
	})
}
