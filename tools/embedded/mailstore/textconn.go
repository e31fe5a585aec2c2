package mailstore

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

const (
	// maxLine bounds a command line of POP3 and ManageSieve, in bytes.
	maxLine = 8 << 10
	// idleTimeout ends sessions that say nothing (RFC 1939 section 3 asks for ten minutes at least).
	idleTimeout = 10 * time.Minute
	// writeTimeout ends sessions of clients that do not read.
	writeTimeout = time.Minute
)

// errInjected: bytes came behind STARTTLS in the clear. They could be somebody else's, and end the session.
var errInjected = errors.New("bytes behind STARTTLS")

// errLineTooLong: a command line above the bound.
var errLineTooLong = errors.New("line too long")

// textConn is a socket of a line protocol. One goroutine uses it.
type textConn struct {
	nc     net.Conn
	reader *bufio.Reader
	writer *bufio.Writer
}

// newTextConn wraps a socket.
func newTextConn(nc net.Conn) *textConn {
	return &textConn{nc: nc, reader: bufio.NewReaderSize(nc, maxLine), writer: bufio.NewWriter(nc)}
}

// readLine reads a line without its end, after flushing what was written unless the client has sent more already.
func (c *textConn) readLine() (string, error) {
	if c.reader.Buffered() == 0 {
		if err := c.flush(); err != nil {
			return "", err
		}
	}
	c.nc.SetReadDeadline(time.Now().Add(idleTimeout))
	line, err := c.reader.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return "", errLineTooLong
	}
	if err != nil {
		return "", err
	}
	return strings.TrimRight(string(line), "\r\n"), nil
}

// readN reads bytes of a literal.
func (c *textConn) readN(n int) (string, error) {
	if err := c.flush(); err != nil {
		return "", err
	}
	c.nc.SetReadDeadline(time.Now().Add(idleTimeout))
	buf := make([]byte, n)
	_, err := io.ReadFull(c.reader, buf)
	return string(buf), err
}

// printf writes one line, for the next flush. An error shows there.
func (c *textConn) printf(format string, args ...any) {
	c.nc.SetWriteDeadline(time.Now().Add(writeTimeout)) // a full buffer goes out at once
	fmt.Fprintf(c.writer, format+"\r\n", args...)
}

// flush sends what was written.
func (c *textConn) flush() error {
	c.nc.SetWriteDeadline(time.Now().Add(writeTimeout))
	return c.writer.Flush()
}

// secured reports whether TLS is there.
func (c *textConn) secured() bool {
	_, ok := c.nc.(*tls.Conn)
	return ok
}

// startTLS sends the go-ahead and shakes hands.
func (c *textConn) startTLS(config *tls.Config, goAhead string) error {
	if c.reader.Buffered() > 0 {
		return errInjected
	}
	c.printf("%s", goAhead)
	if err := c.flush(); err != nil {
		return err
	}
	secured := tls.Server(c.nc, config)
	c.nc.SetDeadline(time.Now().Add(writeTimeout))
	if err := secured.Handshake(); err != nil {
		return err
	}
	c.nc.SetDeadline(time.Time{})
	c.nc = secured
	c.reader.Reset(secured)
	c.writer.Reset(secured)
	return nil
}
