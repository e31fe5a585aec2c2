package prototest

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"

	"mailmux/proxy/wire"
)

// Tape is a connection whose other end says its packets one by one, whatever it hears, and hangs up. It is for tests of
// the words alone, without an engine.
type Tape struct {
	net.Conn // nil: what is not here is not used

	Packets []string
	Heard   bytes.Buffer
	Writes  int // how often something was heard
}

// NewTape makes a packet of each line, and a conversation with lines of at most lineLength bytes.
func NewTape(says string, lineLength int) (*Tape, *wire.Conn) {
	t := &Tape{}
	for line := range strings.Lines(says) {
		t.Packets = append(t.Packets, line)
	}
	return t, wire.NewConn(t, lineLength)
}

// Read reads of the packet in hand.
func (t *Tape) Read(p []byte) (int, error) {
	if len(t.Packets) == 0 {
		return 0, io.EOF
	}
	n := copy(p, t.Packets[0])
	if t.Packets[0] = t.Packets[0][n:]; t.Packets[0] == "" {
		t.Packets = t.Packets[1:]
	}
	return n, nil
}

// Write keeps what is heard.
func (t *Tape) Write(p []byte) (int, error) {
	t.Writes++
	return t.Heard.Write(p)
}

// Exchange is an auth.Exchange that answers challenges one after the other, and keeps what it was asked.
type Exchange struct {
	Mechanism string
	Initial   []byte
	Answers   []string
	Asked     []string
}

// Start begins the exchange.
func (e *Exchange) Start() (mechanism string, initial []byte, err error) {
	return e.Mechanism, e.Initial, nil
}

// Next gives the next answer.
func (e *Exchange) Next(challenge []byte) ([]byte, error) {
	e.Asked = append(e.Asked, string(challenge))
	if len(e.Answers) == 0 {
		return nil, errors.New("asked too much")
	}
	answer := e.Answers[0]
	e.Answers = e.Answers[1:]
	return []byte(answer), nil
}

// IsControl says whether a rune is a control character, which no line that mailmux sends may hold.
func IsControl(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }
