package sieve

import (
	"strings"

	"mailmux/proxy"
	"mailmux/proxy/wire"
)

var _ proxy.Redactor = (*Handler)(nil)

// Redact shows a client's line without its secret, for the trace. Lines that are a secret as a whole are read as such.
func (h *Handler) Redact(line []byte) []byte { return wire.Redact(line, 0, showing) }

func showing(verb []byte) wire.Showing {
	_, known := lookup(string(verb))
	switch {
	case !known:
		return wire.ShowNothing
	case strings.EqualFold(string(verb), "AUTHENTICATE"):
		return wire.ShowVerb
	}
	return wire.ShowLine
}
