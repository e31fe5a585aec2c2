package incoming

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strconv"
	"sync"
	"time"

	"mailmux/proxy/envelope"
	"mailmux/proxy/smtpwire"
)

// Refusal is a fault of a message, with the reply for each of its recipients.
type Refusal struct {
	Reply smtpwire.Reply
	Err   error
}

func (r *Refusal) Error() string { return r.Err.Error() }
func (r *Refusal) Unwrap() error { return r.Err }

// reading is the text of a message as a receiver reads it: a fault of the message is an error in place of io.EOF.
type reading struct {
	session *Session
	text    *envelope.Text
	last    error
}

func (r *reading) Read(p []byte) (int, error) {
	n, err := r.text.Read(p)
	if err == io.EOF {
		err = r.session.judge(r.text)
	}
	r.last = err
	return n, err
}

// maxPasses is how often a message may come by here: forwarding brings one back now and then, a loop does so again and again.
// Frontends of one site share their name, and so count each other's passes.
const maxPasses = 10

// watched is a text whose passes by this site are counted.
func (s *Session) watched(text *envelope.Text) *envelope.Text {
	text.Watch(s.by())
	return text
}

// judge says what is wrong with a text that has come to its end: io.EOF if nothing is.
func (s *Session) judge(text *envelope.Text) error {
	fault := text.Fault()
	if fault == nil && (text.Hops() > s.cfg.MaxHops || text.Passes() >= maxPasses) {
		fault = envelope.ErrHops
	}
	switch {
	case fault == nil:
		return io.EOF
	case errors.Is(fault, envelope.ErrTooBig):
		return &Refusal{smtpwire.Reply{Code: 552, Text: tooBig[len("552 "):]}, fault}
	case errors.Is(fault, envelope.ErrHops):
		return &Refusal{smtpwire.Reply{Code: 554, Text: "5.4.6 The message has passed too many servers"}, fault}
	}
	return &Refusal{smtpwire.Reply{Code: 554, Text: "5.6.0 Bare CR or LF in the message (RFC 5321 section 2.3.8)"}, fault}
}

// patient reads a message from the client. Not the whole message is timed, but its silence, and its pace: a client that
// sends a byte now and then would hold its session, and its member's, for ever.
type patient struct {
	*Session
	due time.Time // when the client has fallen behind the slowest pace
}

// slowest is the pace, in bytes a second, that a message has to keep in the long run (Postfix's smtpd_min_data_rate).
const slowest = 500

func (s *Session) patient() *patient {
	return &patient{Session: s, due: time.Now().Add(s.cfg.ClientTimeout)}
}

func (p *patient) Peek() ([]byte, error) {
	if p.Client.Buffered() == 0 {
		if err := p.Await(min(p.cfg.ClientTimeout, time.Until(p.due))); err != nil {
			return nil, err
		}
	}
	return p.Client.Peek()
}

func (p *patient) Skip(n int) {
	p.Client.Skip(n)
	p.due = p.due.Add(time.Duration(n) * (time.Second / slowest))
	if latest := time.Now().Add(p.cfg.ClientTimeout); p.due.After(latest) {
		p.due = latest
	}
}

func (s *Session) data(ctx context.Context, args []byte) error {
	switch {
	case len(args) > 0:
		return errArguments
	case s.accepted == 0:
		return errNoRecipients
	}
	s.Client.Line("354 End the message with a dot on a line by itself")
	text := &reading{session: s, text: s.watched(envelope.NewText(s.patient(), s.cfg.MaxSize, s.cfg.BareNewlines == "repair"))}
	err := s.receiver.Message(ctx, text, nil)
	return s.conclude(text.last, err)
}

// conclude ends a transaction: what is wrong with the message is told for each recipient; other errors of the client's leg
// end the session.
func (s *Session) conclude(last, err error) error {
	var refusal *Refusal
	switch {
	case errors.As(last, &refusal), errors.As(err, &refusal):
		for range s.expected() {
			s.Client.Line(refusal.Reply.Wire())
		}
	case last != io.EOF:
		return last
	case err != nil:
		return err
	default:
		s.refused, s.idle = 0, 0 // who brings messages does not only guess
	}
	s.reset()
	return nil
}

// expected is how many replies a message gets.
func (s *Session) expected() int {
	if s.handler.dialect.LMTP {
		return s.accepted
	}
	return 1
}

// Answer writes one reply to a message. With more to come it may wait in the buffer until those are there.
func (s *Session) Answer(reply smtpwire.Reply) { s.Client.Line(reply.Wire()) }

// bdat takes a chunk. Its bytes come without waiting for an answer, so they are read whatever is wrong.
func (s *Session) bdat(ctx context.Context, args []byte) error {
	number, rest, _ := bytes.Cut(args, []byte{' '})
	size, err := strconv.ParseUint(string(number), 10, 62)
	last := bytes.EqualFold(bytes.TrimSpace(rest), []byte("LAST"))
	if err != nil || len(rest) > 0 && !last {
		s.Client.Line(string(errArguments))
		return errLostChunk // where the next command begins is not known
	}
	text := s.chunks
	if text == nil {
		text = s.watched(envelope.NewChunks(s.patient(), s.cfg.MaxSize, s.cfg.BareNewlines == "repair"))
	}
	text.Chunk(int64(size))
	if s.state&(sending|chunking) == 0 || s.accepted == 0 {
		if _, err := io.Copy(io.Discard, text); err != nil {
			return err
		}
		if s.state&(sending|chunking) == 0 {
			return errMailFirst
		}
		return errNoRecipients
	}
	if s.body == nil {
		s.chunks, s.body, s.state = text, s.Deliverer.NewBody(), chunking
	}
	if err := s.chunk(text); err != nil {
		return err
	}
	if last {
		return s.lastChunk(ctx)
	}
	s.Client.Line("250 2.0.0 ", strconv.FormatUint(size, 10), " octets received")
	if size == 0 {
		return s.idled()
	}
	return nil
}

// chunk reads one chunk. A disk that fails is told at the end; the chunks are read all the same.
func (s *Session) chunk(text *envelope.Text) error {
	buf := buffers.Get().(*[4096]byte)
	defer buffers.Put(buf)
	for {
		n, err := text.Read(buf[:])
		if n > 0 && s.lost == nil {
			_, s.lost = s.body.Write(buf[:n])
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// lastChunk hands a complete message to the receiver.
func (s *Session) lastChunk(ctx context.Context) error {
	_ = s.chunks.Close() // judge asks for the fault
	verdict := s.judge(s.chunks)
	if verdict == io.EOF && s.lost != nil {
		verdict = DiskFault(s.lost)
	}
	var err error
	if verdict == io.EOF {
		err = s.receiver.Message(ctx, s.body.Open(), s.body)
	}
	return s.conclude(verdict, err)
}

// DiskFault is the refusal for a message that there is no room for (RFC 5321 section 4.2.2).
func DiskFault(err error) *Refusal {
	return &Refusal{smtpwire.Reply{Code: 452, Text: "4.3.1 Insufficient storage, try again later"}, err}
}

// buffers are what texts are read through, 4 KiB at a time.
var buffers = sync.Pool{New: func() any { return new([4096]byte) }}

// Take reads a text into a body. When the disk fails the text is still the client's to finish: it is read to its end, and
// the error is a Refusal. Other errors are those of text.
func Take(text io.Reader, body *envelope.Body) error {
	buf := buffers.Get().(*[4096]byte)
	defer buffers.Put(buf)
	var disk error
	for {
		n, err := text.Read(buf[:])
		if n > 0 && disk == nil {
			_, disk = body.Write(buf[:n])
		}
		switch {
		case err == io.EOF && disk != nil:
			return DiskFault(disk)
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}
