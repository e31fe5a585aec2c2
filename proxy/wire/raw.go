package wire

import (
	"bytes"
	"errors"
	"io"
)

// ErrBareNewline: a command line that does not end with CRLF, or has a CR inside. Who takes such lines for commands can be
// made to read a command that another server took for text.
var ErrBareNewline = errors.New("line end other than CRLF")

// ReadCRLF is ReadLine for protocols whose lines end with CRLF and nothing else. A line with another end is read, and
// its error is ErrBareNewline.
func (c *Conn) ReadCRLF() ([]byte, error) {
	line, err := c.ReadLine()
	if err != nil {
		return nil, err
	}
	// The line and its end lie in front of c.r: c.in[c.r-1] is the LF.
	if c.r < 2 || c.in[c.r-2] != '\r' || bytes.IndexByte(line, '\r') >= 0 {
		return line, ErrBareNewline
	}
	return line, nil
}

// Peek returns what the peer has sent and nobody has asked for yet, at least one byte; it reads when there is none. The
// slice is valid until the next read. io.EOF is io.ErrUnexpectedEOF: who peeks is in the middle of something.
func (c *Conn) Peek() ([]byte, error) {
	if c.r == c.w {
		if err := c.fill(blockSize); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	return c.in[c.r:c.w], nil
}

// Skip takes the first n bytes of what Peek returned.
func (c *Conn) Skip(n int) { c.r += n }
