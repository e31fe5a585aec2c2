package deliver

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"mailmux/proxy"
)

// Bounds on what a member answers to one command, in bytes. Four KiB for each recipient cover the answers to the text.
const (
	maxAnswer    = 64 << 10
	maxRcptReply = 4 << 10
	maxQuoted    = 200 // in an error
)

// grace is what a transaction has left when the frontend ends: a member that has the text in full should be heard out, or
// its recipients get the message twice.
const grace = 5 * time.Second

// bounded is a member's connection as go-smtp's client sees it. The client puts deadlines on it and takes them away; here
// none is later than until. What it reads between two commands is bounded, and comes to it in whole lines, one by one: what
// nobody has asked for stays here and is noticed, and a line that breaks off, which go-smtp would take for an answer, is
// none. The first thing that it reads is a greeting that we have read before it. Text that is held goes out with the next
// thing that it writes.
type bounded struct {
	net.Conn

	greeting string
	read     int    // since the last command
	ahead    []byte // read, and not handed out yet
	most     int
	held     []byte

	mu    sync.Mutex // for the end of the frontend
	until time.Time
	set   time.Time // the deadline that the connection has
	hasty bool      // the frontend ends: until is not moved any more
}

var (
	errEndless = fmt.Errorf("the member's answer does not end: %w", proxy.ErrProtocol)
	errUnasked = fmt.Errorf("the member says more than it was asked: %w", proxy.ErrProtocol)
)

func (b *bounded) Read(p []byte) (int, error) {
	if b.greeting != "" {
		n := copy(p, b.greeting)
		b.greeting = b.greeting[n:]
		return n, nil
	}
	for firstLine(b.ahead) == 0 {
		n, err := b.Conn.Read(p)
		if b.read += n; b.read > max(b.most, maxAnswer) {
			return 0, errEndless
		}
		if len(b.ahead) == 0 && n > 0 && firstLine(p[:n]) == n { // nearly always
			return n, nil
		}
		b.ahead = append(b.ahead, p[:n]...)
		if err != nil && firstLine(b.ahead) == 0 {
			return 0, err
		}
	}
	n := copy(p, b.ahead[:firstLine(b.ahead)])
	b.ahead = b.ahead[n:]
	return n, nil
}

// firstLine is the length of the first line of some bytes, 0 where none has come to its end.
func firstLine(b []byte) int { return bytes.IndexByte(b, '\n') + 1 }

// quiet is an error when the member has said something that nobody has read: the answer to the next command would be that,
// and a recipient would be told what was meant for another one.
func (b *bounded) quiet() error {
	if len(b.ahead) > 0 {
		return fmt.Errorf("%w: %q", errUnasked, b.ahead[:min(len(b.ahead), maxQuoted)])
	}
	return nil
}

func (b *bounded) Write(p []byte) (int, error) {
	if err := b.quiet(); err != nil {
		return 0, err
	}
	b.read = 0
	if len(b.held) == 0 {
		return b.Conn.Write(p)
	}
	_, err := b.Conn.Write(append(b.held, p...))
	b.held = nil
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// SetDeadline sets no later deadline than until; the zero time is until.
func (b *bounded) SetDeadline(t time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t.IsZero() || t.After(b.until) {
		t = b.until
	}
	if t.Equal(b.set) {
		return nil
	}
	b.set = t
	return b.Conn.SetDeadline(t)
}

// extend moves the latest deadline, unless the frontend ends.
func (b *bounded) extend(until time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.hasty {
		b.until, b.set = until, until
		b.Conn.SetDeadline(until)
	}
}

// hurry leaves what is under way its grace. It may be called by any goroutine.
func (b *bounded) hurry() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hasty = true
	if end := time.Now().Add(grace); end.Before(b.until) {
		b.until, b.set = end, end
		b.Conn.SetDeadline(end)
	}
}

// textBuffers are what a text goes through on its way to a member.
type textBuffers struct {
	in  [16 << 10]byte
	out [40 << 10]byte
}

var texts = sync.Pool{New: func() any { return new(textBuffers) }}

// errSource marks an error of what is read, not of the member.
type errSource struct{ error }

func (e errSource) Unwrap() error { return e.error }

// sendText writes a message behind DATA with its dots stuffed (RFC 5321 section 4.5.2), but for its last bytes: those wait
// in held, to go out together with the end of the message, and its last line end is left to who writes that. A bare LF,
// which can only be in a queue file that was edited by hand, becomes a line end. The error is an errSource when text fails.
// release gives the buffers back, after the end of the message was written or not.
func (b *bounded) sendText(text io.Reader) (release func(), err error) {
	buffers := texts.Get().(*textBuffers)
	release = func() { b.held = nil; texts.Put(buffers) }
	out := buffers.out[:0]
	start, cr := true, false // of a line; the last byte was a CR
	for {
		n, err := text.Read(buffers.in[:])
		out, start, cr = stuff(out, buffers.in[:n], start, cr)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return release, errSource{err}
		}
		if len(out) > cap(out)-2*len(buffers.in) {
			keep := len(out) - 2 // the last line end may be the text's
			if _, err := b.Conn.Write(out[:keep]); err != nil {
				return release, err
			}
			out = append(out[:0], out[keep:]...)
		}
	}
	b.held = bytes.TrimSuffix(out, []byte("\r\n"))
	return release, nil
}

// stuff appends a piece of a text to out, at most twice as long as it was.
func stuff(out, piece []byte, start, cr bool) (_ []byte, startNow, crNow bool) {
	for len(piece) > 0 {
		if start && piece[0] == '.' {
			out = append(out, '.')
		}
		end := bytes.IndexByte(piece, '\n')
		if end < 0 {
			return append(out, piece...), false, piece[len(piece)-1] == '\r'
		}
		out = append(out, piece[:end]...)
		if end > 0 {
			cr = piece[end-1] == '\r'
		}
		if !cr {
			out = append(out, '\r')
		}
		out = append(out, '\n')
		piece, start, cr = piece[end+1:], true, false
	}
	return out, start, cr
}
