package pop3

import (
	"mailmux/proxy"
	"mailmux/proxy/wire"
)

var _ proxy.Redactor = (*Handler)(nil)

// Redact shows a client's line without its secret, for the trace. Lines that are a secret as a whole are read as such.
func (h *Handler) Redact(line []byte) []byte { return wire.Redact(line, "PASS", "AUTH", "APOP") }
