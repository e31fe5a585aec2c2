package pop3

import (
	"strings"

	"mailmux/proxy"
	"mailmux/proxy/wire"
)

var _ proxy.Redactor = (*Handler)(nil)

// Redact shows a client's line without its secret, for the trace. Lines that are a secret as a whole are read as such.
func (h *Handler) Redact(line []byte) []byte { return wire.Redact(line, 0, showing) }

func showing(verb []byte) wire.Showing {
	if _, known := lookup(verb); !known {
		return wire.ShowNothing
	}
	for _, secret := range [...]string{"PASS", "AUTH", "APOP"} {
		if strings.EqualFold(string(verb), secret) {
			return wire.ShowVerb
		}
	}
	return wire.ShowLine
}
