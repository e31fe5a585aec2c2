package wire

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
)

// The ways a conversation breaks that callers tell apart.
var (
	// ErrLineTooLong: the peer sent more than the limit without ending the line.
	ErrLineTooLong = errors.New("line too long")
	// ErrInjected: bytes were buffered behind STARTTLS, in the clear.
	ErrInjected = errors.New("bytes sent in the clear behind STARTTLS")
)

// blockSize is what a conversation borrows for reading, and again for the answers it gathers. It holds a usual
// exchange; longer lines grow a buffer of their own, up to the limit.
const blockSize = 4096

var blocks = sync.Pool{New: func() any { return new([blockSize]byte) }}

// Conn is one leg of a session before the hand-over: bounded lines in, gathered replies out. It is used by one goroutine
// at a time. It does not own the connection: who opened that closes it.
type Conn struct {
	nc      net.Conn
	maxLine int

	in   []byte // unread bytes are in[r:w]
	r, w int
	out  []byte // gathered, not yet sent

	inBlock, outBlock *[blockSize]byte

	mute   bool   // a handshake has failed on nc: no more words
	sent   func() // called behind each write
	trace  func(sent bool, line []byte)
	redact func(line []byte) []byte

	secrets []string // told to the peer
	echoed  bool     // the peer has said one of them
}

// NewConn starts a conversation on nc with lines of at most maxLine bytes, the line end not counted.
func NewConn(nc net.Conn, maxLine int) *Conn {
	return &Conn{nc: nc, maxLine: maxLine}
}

// NetConn is the connection below: TLS after Upgrade.
func (c *Conn) NetConn() net.Conn { return c.nc }

// ReadLine returns the next line without its end. The slice is valid until the next read. The error is ErrLineTooLong,
// io.EOF at a clean end, io.ErrUnexpectedEOF in the middle of a line, or what the connection said.
func (c *Conn) ReadLine() ([]byte, error) {
	line, err := c.readLine()
	if c.trace != nil && err == nil {
		c.traceLine(false, line)
	}
	return line, err
}

// ReadSecret is ReadLine for a line that is a secret as a whole, such as a SASL response: the trace does not show it.
func (c *Conn) ReadSecret() ([]byte, error) {
	line, err := c.readLine()
	if c.trace != nil && err == nil {
		c.trace(false, []byte("[redacted]"))
	}
	return line, err
}

func (c *Conn) readLine() ([]byte, error) {
	scanned := 0
	for {
		if i := bytes.IndexByte(c.in[c.r+scanned:c.w], '\n'); i >= 0 {
			end := c.r + scanned + i
			line := c.in[c.r:end]
			c.r = end + 1
			if n := len(line); n > 0 && line[n-1] == '\r' {
				line = line[:n-1]
			}
			if len(line) > c.maxLine {
				return nil, ErrLineTooLong
			}
			c.echoed = c.echoed || c.holdsSecret(line)
			return line, nil
		}
		scanned = c.w - c.r
		if scanned > c.maxLine+1 {
			return nil, ErrLineTooLong
		}
		if err := c.fill(c.maxLine + 2); err != nil {
			if err == io.EOF && scanned > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// ReadN returns the next n bytes, such as a literal, secrets included: they are not traced. The caller has checked n
// against its own limit. The slice is valid until the next read.
func (c *Conn) ReadN(n int) ([]byte, error) {
	for c.w-c.r < n {
		if err := c.fill(n); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	b := c.in[c.r : c.r+n]
	c.r += n
	c.echoed = c.echoed || c.holdsSecret(b)
	return b, nil
}

// Await waits until the peer has said something, which the next read returns.
func (c *Conn) Await() error {
	if c.Buffered() > 0 {
		return nil
	}
	return c.fill(c.maxLine + 2)
}

// fill reads once from the connection, after it has sent the gathered replies. It makes room for at most want unread
// bytes in all.
func (c *Conn) fill(want int) error {
	if err := c.Flush(); err != nil {
		return err
	}
	if c.in == nil {
		c.inBlock = blocks.Get().(*[blockSize]byte)
		c.in = c.inBlock[:]
	}
	if c.r > 0 {
		c.w = copy(c.in, c.in[c.r:c.w])
		c.r = 0
	}
	if c.w == len(c.in) {
		grown := make([]byte, min(2*len(c.in), max(want, c.w+1)))
		copy(grown, c.in)
		c.giveInBack()
		c.in = grown
	}
	n, err := c.nc.Read(c.in[c.w:])
	c.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}

// Buffered is the number of bytes read from the connection and not yet asked for.
func (c *Conn) Buffered() int { return c.w - c.r }

// Line gathers one line, made of parts, and its CRLF. It is sent with the next Flush or by the next read that has to
// wait.
func (c *Conn) Line(parts ...string) {
	from := len(c.out)
	c.gather(parts)
	if c.trace != nil {
		c.traceLine(true, c.out[from:])
	}
	c.out = append(c.out, '\r', '\n')
}

// Raw gathers words as they are, with their own line ends.
func (c *Conn) Raw(words string) {
	c.gather([]string{words})
}

// Secret is Line for a line that holds a secret; the trace shows the text given for it.
func (c *Conn) Secret(shown string, parts ...string) {
	c.gather(parts)
	if c.trace != nil {
		c.trace(true, []byte(shown))
	}
	c.out = append(c.out, '\r', '\n')
}

func (c *Conn) gather(parts []string) {
	if c.out == nil {
		c.outBlock = blocks.Get().(*[blockSize]byte)
		c.out = c.outBlock[:0]
	}
	for _, p := range parts {
		c.out = append(c.out, p...)
	}
}

// Flush sends what was gathered and gives the buffer back.
func (c *Conn) Flush() error {
	if len(c.out) == 0 {
		return nil
	}
	if c.mute {
		c.releaseOut()
		return nil
	}
	_, err := c.nc.Write(c.out)
	c.releaseOut()
	if c.sent != nil {
		c.sent()
	}
	return err
}

// OnSent calls f behind each write, for what has to be said to the socket then.
func (c *Conn) OnSent(f func()) { c.sent = f }

// Upgrade goes on over another connection, TLS over the one so far, once the gathered replies are sent. It fails with
// ErrInjected when the peer sent anything behind its last line: those bytes came in the clear. When the handshake itself
// fails nothing is sent any more: the peer, in the middle of it or already behind, would take words for a TLS record.
func (c *Conn) Upgrade(handshake func(net.Conn) (net.Conn, error)) error {
	if c.Buffered() > 0 {
		return ErrInjected
	}
	if err := c.Flush(); err != nil {
		return err
	}
	nc, err := handshake(c.nc)
	if err != nil {
		c.mute = true
		return err
	}
	c.nc = nc
	return nil
}

// Detach ends the conversation for the hand-over: gathered replies are sent, the buffers given back, and the bytes that
// the peer sent ahead are returned; they belong to the relay now. nil when there are none.
func (c *Conn) Detach() (ahead []byte, err error) {
	err = c.Flush()
	if c.r < c.w {
		ahead = bytes.Clone(c.in[c.r:c.w])
	}
	c.Release()
	return ahead, err
}

// Release gives the buffers back and drops what is in them. The conversation may go on afterwards.
func (c *Conn) Release() {
	c.giveInBack()
	c.in, c.r, c.w = nil, 0, 0
	c.releaseOut()
}

// giveInBack returns the borrowed block, if the conversation still reads into one.
func (c *Conn) giveInBack() {
	if c.inBlock != nil {
		clear(c.inBlock[:c.w]) // passwords do not wait in a pool
		blocks.Put(c.inBlock)
		c.inBlock = nil
	}
}

func (c *Conn) releaseOut() {
	if c.outBlock != nil {
		clear(c.outBlock[:min(len(c.out), blockSize)])
		blocks.Put(c.outBlock)
		c.outBlock = nil
	}
	c.out = nil
}

// Trace shows every line to f from now on. What the peer says is redacted by the protocol's function, which knows the
// verb: it returns what may be shown of a line. Both may be nil.
func (c *Conn) Trace(f func(sent bool, line []byte), redact func(line []byte) []byte) {
	c.trace, c.redact = f, redact
}

func (c *Conn) traceLine(sent bool, line []byte) {
	if c.redact != nil && !sent {
		line = c.redact(line)
	}
	if c.holdsSecret(line) {
		line = []byte("[redacted: it holds the credentials]")
	}
	c.trace(sent, line)
}

// Guard looks out for secrets that the peer has been told, in place of those before: from now on the trace shows no line
// that holds one of them, and Echoed says whether the peer has said one.
func (c *Conn) Guard(secrets []string) { c.secrets = secrets }

// Echoed says whether the peer has said back what it is not to be heard saying: its words belong into no log then.
func (c *Conn) Echoed() bool { return c.echoed }

func (c *Conn) holdsSecret(text []byte) bool {
	for _, secret := range c.secrets {
		if bytes.Contains(text, []byte(secret)) {
			return true
		}
	}
	return false
}
