package imap

import (
	"mailmux/proxy"
	"mailmux/proxy/wire"
)

var _ proxy.Redactor = (*Handler)(nil)

// Redact shows a client's line without its secret, for the trace. Lines that are a secret as a whole are read as such.
func (h *Handler) Redact(line []byte) []byte { return wire.Redact(line, 1, showing) }

// showing is what may be shown of a command. Those that have to wait for the login are no part of it.
func showing(word []byte) wire.Showing {
	var buf [24]byte
	p := parser{rest: word}
	switch v, known := verbs[string(p.word(&buf))]; {
	case !known:
		return wire.ShowNothing
	case v.states == logins, v.states == never:
		return wire.ShowVerb
	}
	return wire.ShowLine
}
