package proxy

import (
	"context"
	"log/slog"
)

// Redactor is what a protocol adds to be traced: it returns what may be shown of a client's line. Lines that are a
// secret as a whole, such as SASL responses, do not come here; the protocol reads them as such.
type Redactor interface {
	Redact(line []byte) []byte
}

// trace logs the words of both legs until the hand-over, for clients that the configuration lists. What passes the relay
// is never looked at.
func (s *Session) trace() {
	if !networks(s.state.Config.Trace).contains(s.identity.Client.Addr()) {
		return
	}
	redactor, ok := s.state.Handlers[s.Service()].(Redactor)
	if !ok {
		return
	}
	s.tracing = true
	s.Client.Trace(s.tracer("client"), redactor.Redact)
}

// maxTraced bounds what is shown of a line, in bytes.
const maxTraced = 512

func (s *Session) tracer(leg string) func(bool, []byte) {
	return func(sent bool, line []byte) {
		direction := "from"
		if sent {
			direction = "to"
		}
		s.server.log.LogAttrs(context.Background(), slog.LevelInfo, "trace", slog.String("id", s.id),
			slog.String("leg", direction+" "+leg), slog.String("line", string(line[:min(len(line), maxTraced)])))
	}
}
