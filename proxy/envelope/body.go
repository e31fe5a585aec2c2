package envelope

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"sync/atomic"
	"unicode/utf8"
)

// Store bounds the memory that bodies take: each up to PerBody, all together up to Total. What is more goes into files
// without a name in Dir, which are gone with the process. It may be used from many goroutines.
type Store struct {
	Dir     string
	PerBody int64
	Total   int64

	used atomic.Int64
}

// Body is the text of one message, written once and then read by any number of goroutines at once.
type Body struct {
	store    *Store
	memory   []byte
	held     int64 // of the store's total
	file     *os.File
	size     int64
	eightBit bool
}

// NewBody makes an empty body. Its owner closes it.
func (s *Store) NewBody() *Body { return &Body{store: s} }

// Write adds to the body. An error is one of the disk.
func (b *Body) Write(p []byte) (int, error) {
	if !b.eightBit {
		b.eightBit = slices.ContainsFunc(p, func(c byte) bool { return c >= utf8.RuneSelf })
	}
	if b.file == nil && !b.fits(len(p)) {
		if err := b.toFile(); err != nil {
			return 0, err
		}
	}
	b.size += int64(len(p))
	if b.file == nil {
		if len(b.memory)+len(p) > cap(b.memory) {
			b.memory = append(make([]byte, 0, b.held), b.memory...) // not more than is accounted for
		}
		b.memory = append(b.memory, p...)
		return len(p), nil
	}
	n, err := b.file.Write(p)
	if err != nil {
		return n, fmt.Errorf("write the message to %s: %w", b.store.Dir, err)
	}
	return n, nil
}

// fits takes memory for n more bytes, if there is some.
func (b *Body) fits(n int) bool {
	want := int64(len(b.memory) + n)
	if want > b.store.PerBody {
		return false
	}
	if want <= b.held {
		return true
	}
	more := max(want, min(2*b.held, b.store.PerBody), 4096) - b.held
	if b.store.used.Add(more) > b.store.Total {
		b.store.used.Add(-more)
		return false
	}
	b.held += more
	return true
}

// toFile goes on in a file, which loses its name at once: a crash leaves nothing behind.
func (b *Body) toFile() error {
	f, err := os.CreateTemp(b.store.Dir, "message-*")
	if err != nil {
		return fmt.Errorf("make room for a message: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return fmt.Errorf("make room for a message: %w", err)
	}
	if _, err := f.Write(b.memory); err != nil {
		f.Close()
		return fmt.Errorf("write the message to %s: %w", b.store.Dir, err)
	}
	b.file = f
	b.giveBack()
	return nil
}

func (b *Body) giveBack() {
	b.store.used.Add(-b.held)
	b.memory, b.held = nil, 0
}

// Size is the number of bytes.
func (b *Body) Size() int64 { return b.size }

// EightBit says whether there is a byte above ASCII.
func (b *Body) EightBit() bool { return b.eightBit }

// Open reads the body from its beginning. Each reader belongs to one goroutine.
func (b *Body) Open() io.Reader {
	if b.file == nil {
		return bytes.NewReader(b.memory)
	}
	return io.NewSectionReader(b.file, 0, b.size)
}

// Close gives memory and disk back. It may be called twice.
func (b *Body) Close() {
	b.giveBack()
	if b.file != nil {
		b.file.Close() // it has no name: nothing is lost
		b.file = nil
	}
}
