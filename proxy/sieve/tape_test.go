package sieve

import (
	"bytes"
	"io"
	"net"
	"strings"

	"mailmux/proxy/wire"
)

// tape is a connection whose other end says its packets one by one, whatever it hears, and hangs up.
type tape struct {
	net.Conn // nil: what is not here is not used
	packets  []string
	heard    bytes.Buffer
	writes   int
}

func (t *tape) Read(p []byte) (int, error) {
	if len(t.packets) == 0 {
		return 0, io.EOF
	}
	n := copy(p, t.packets[0])
	if t.packets[0] = t.packets[0][n:]; t.packets[0] == "" {
		t.packets = t.packets[1:]
	}
	return n, nil
}

func (t *tape) Write(p []byte) (int, error) {
	t.writes++
	return t.heard.Write(p)
}

// newTape makes a packet of each line.
func newTape(says string) (*tape, *wire.Conn) {
	t := &tape{}
	for line := range strings.Lines(says) {
		t.packets = append(t.packets, line)
	}
	return t, wire.NewConn(t, 4096)
}

func isControl(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }
