package envelope

import (
	"bytes"
	"errors"
	"io"
)

// Why a text is not acceptable. It has been read to its end all the same, so the conversation can go on.
var (
	// ErrBareNewline: a CR without an LF, or an LF without a CR.
	ErrBareNewline = errors.New("bare CR or LF in the message")
	// ErrTooBig: more bytes than the limit.
	ErrTooBig = errors.New("message is too big")
	// ErrHops: the message has passed too many servers (RFC 5321 section 6.3).
	ErrHops = errors.New("message has passed too many servers")
)

// Source hands out what the client sends (wire.Conn is one). Peek returns at least one byte.
type Source interface {
	Peek() ([]byte, error)
	Skip(n int)
}

// Text reads the text of one message. It implements io.Reader: lines end with CRLF, the dots of DATA are taken off, and
// io.EOF comes behind the end of a text without fault. It belongs to one goroutine.
type Text struct {
	src    Source
	repair bool
	limit  int64

	chunk int64 // bytes left of a BDAT chunk; -1 for DATA
	state textState
	ended bool
	fault error // of the text; it is read on
	size  int64
	hops  hops
	out   []byte // what is decoded; from at on it is not yet asked for
	at    int
	err   error // of the source
}

// textState is where the decoder stands.
type textState uint8

const (
	lineStart textState = iota
	inLine
	afterCR    // a CR came, and is not passed on yet
	afterDot   // a dot at the start of a line: it is taken off
	afterDotCR // and a CR behind it
)

// NewText reads the text behind DATA. With repair, bare CRs and LFs become CRLF.
func NewText(src Source, limit int64, repair bool) *Text {
	return &Text{src: src, repair: repair, limit: limit, chunk: -1}
}

// NewChunks reads a text that comes in the chunks of BDAT. Chunk opens each.
func NewChunks(src Source, limit int64, repair bool) *Text {
	return &Text{src: src, repair: repair, limit: limit}
}

// Chunk begins a chunk of n bytes. Read returns io.EOF at its end; the last one also ends the text.
func (t *Text) Chunk(n int64) { t.chunk = n }

// Close ends a text of chunks, and returns its fault. A CR that was held back is a bare one.
func (t *Text) Close() error {
	if t.state == afterCR {
		t.bare()
	}
	return t.fault
}

// Fault is what is wrong with the text read so far, nil if nothing is.
func (t *Text) Fault() error { return t.fault }

// Size is the number of bytes decoded so far.
func (t *Text) Size() int64 { return t.size }

// Hops is how many Received lines the header has.
func (t *Text) Hops() int { return t.hops.count }

// Watch lets Passes count the Received lines with these words in one line of theirs, such as "by mail.example.com (mailmux)".
func (t *Text) Watch(words string) { t.hops.words = words }

// Passes is how many of the Received lines have the words of Watch.
func (t *Text) Passes() int { return t.hops.passes }

// Read decodes into p. After io.EOF the fault, if any, is Fault; a faulty text yields no more bytes, and is read to its
// end, so that what follows it are commands again.
func (t *Text) Read(p []byte) (int, error) {
	for t.at == len(t.out) {
		if t.err != nil {
			return 0, t.err
		}
		if t.ended || t.chunk == 0 {
			return 0, io.EOF
		}
		in, err := t.src.Peek()
		if err != nil {
			t.err = err
			return 0, err
		}
		used := 0
		t.out, t.at = t.out[:0], 0
		if t.out == nil {
			t.out = make([]byte, 0, 4096) // what a source usually has at once
		}
		if t.chunk < 0 {
			used = t.data(in)
		} else {
			used = t.octets(in[:min(int64(len(in)), t.chunk)])
			t.chunk -= int64(used)
		}
		t.src.Skip(used)
		t.account()
	}
	n := copy(p, t.out[t.at:])
	t.at += n
	return n, nil
}

// account counts what was decoded, and drops it once the text is not acceptable.
func (t *Text) account() {
	t.size += int64(len(t.out))
	t.hops.scan(t.out)
	if t.size > t.limit && t.fault == nil {
		t.fault = ErrTooBig
	}
	if t.fault != nil {
		t.out = t.out[:0]
	}
}

// bare notes a CR or LF that stands alone.
func (t *Text) bare() {
	if t.repair {
		t.out = append(t.out, '\r', '\n')
	} else if t.fault == nil {
		t.fault = ErrBareNewline
	}
}

// data decodes DATA (RFC 5321 section 4.5.2) and returns how much of in it has used: all, or up to the end of the text.
func (t *Text) data(in []byte) int {
	for i := 0; i < len(in); i++ {
		c := in[i]
		switch t.state {
		case afterDot:
			t.state = inLine
			if c == '\r' {
				t.state = afterDotCR
				continue
			}
		case afterDotCR:
			if c == '\n' {
				t.ended = true
				return i + 1
			}
			t.state = afterCR // the dot was stuffing, and the CR is a byte of the line
		case lineStart:
			if c == '.' {
				t.state = afterDot
				continue
			}
		}
		i += t.line(in[i:]) - 1
	}
	return len(in)
}

// octets passes the bytes of a chunk on: no dots there, and the same line ends.
func (t *Text) octets(in []byte) int {
	for i := 0; i < len(in); {
		i += t.line(in[i:])
	}
	return len(in)
}

// line decodes from the first byte on, and returns how many it used: a line end, or all up to the next one.
func (t *Text) line(in []byte) int {
	c := in[0]
	if t.state == afterCR {
		if c == '\n' {
			t.out = append(t.out, '\r', '\n')
			t.state = lineStart
			return 1
		}
		t.bare()
		t.state = inLine
	}
	switch c {
	case '\r':
		t.state = afterCR
		return 1
	case '\n':
		t.bare()
		t.state = inLine // a dot behind it is a dot
		return 1
	}
	end := bytes.IndexAny(in, "\r\n")
	if end < 0 {
		end = len(in)
	}
	t.out = append(t.out, in[:end]...)
	t.state = inLine
	return end
}

// hops counts the Received lines of the header, and those with words of interest.
type hops struct {
	count  int
	words  string
	passes int
	match  int  // bytes of words that were seen just now
	inside bool // a Received line, folded ones included
	line   [len(received)]byte
	at     int // in the line
	done   bool
}

const received = "received:"

// scan looks at the next part of the text.
func (h *hops) scan(b []byte) {
	for i := 0; i < len(b) && !h.done; i++ {
		c := b[i]
		switch {
		case c == '\n':
			h.done = h.at == 0
			h.at, h.match = 0, 0
			continue
		case c == '\r':
			continue
		case h.at == 0 && c != ' ' && c != '\t':
			h.inside = false
		}
		if h.at < len(h.line) {
			h.line[h.at] = c
			if h.at++; h.at == len(received) && bytes.EqualFold(h.line[:], []byte(received)) {
				h.count++
				h.inside = true
			}
		}
		if h.inside && h.words != "" {
			h.look(c)
		}
	}
}

// look compares one more byte of a Received line with the words. They begin again at most with their first byte.
func (h *hops) look(c byte) {
	if c != h.words[h.match] {
		h.match = 0
	}
	if c == h.words[h.match] {
		h.match++
	}
	if h.match == len(h.words) {
		h.passes++
		h.match, h.inside = 0, false // once for each line
	}
}
