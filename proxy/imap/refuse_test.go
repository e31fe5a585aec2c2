package imap

import (
	"fmt"
	"strings"
	"testing"

	"mailmux/proxy"
	"mailmux/proxy/prototest"
)

func TestWhatAClientIsTold(t *testing.T) {
	prototest.Refusals{
		Script: "S: * OK {*}\nC: a LOGIN ann sesame\n",
		Reply:  "NO [LIMIT] Too many connections of this user.",
		Want: map[proxy.Cause][]string{
			proxy.CauseTemporary:   {"a NO [UNAVAILABLE] Account is temporarily unavailable. (session {id})"},
			proxy.CauseAuth:        {"a NO [AUTHENTICATIONFAILED] Authentication failed. (session {id})"},
			proxy.CauseHeld:        {"a NO [UNAVAILABLE] Account is temporarily unavailable. (session {id})"},
			proxy.CauseDisabled:    {"a NO [CONTACTADMIN] Account is disabled. (session {id})"},
			proxy.CauseUnreachable: {"a NO [UNAVAILABLE] Account is temporarily unavailable. (session {id})"},
			proxy.CauseReply:       {"a NO [LIMIT] Too many connections of this user."},
			proxy.CausePlaintext:   {"a NO [PRIVACYREQUIRED] Login needs TLS. (session {id})"},
			proxy.CauseLimit:       {"* BYE [UNAVAILABLE] Too many sessions, try again later. (session {id})", "closed"},
			proxy.CauseShutdown:    {"* BYE Server is shutting down, try again later. (session {id})", "closed"},
			proxy.CauseTimeout:     {"* BYE Login timed out. (session {id})", "closed"},
			proxy.CauseGarbage:     {"* BYE Too many errors. (session {id})", "closed"},
			proxy.CauseGone:        {"closed"},
		},
	}.Check(t, New(), "imap")
}

// Wherever a leg breaks, a client is told that its account is unavailable, and never that its password is wrong.
func TestBrokenLegs(t *testing.T) {
	const script = `# A login whose legs break.
# set members=2
S: * OK {*}
C: a ID ("name" "x")
S: * ID {*}
S: a OK {*}
C: b LOGIN {3+}
C> ann
C:  "sesame"
B: * OK [CAPABILITY IMAP4rev1 ID SASL-IR] ready.
P: I ID {*}
P: L LOGIN "ann@example.com" "sesame"
B: * OK [ALERT] Be careful.
B: I OK done
B: L OK Logged in
P: Q CAPABILITY
B: * CAPABILITY IMAP4rev1 IDLE
B: Q OK done
S: * OK [ALERT] Be careful.
S: b OK [CAPABILITY IMAP4rev1 IDLE] Logged in
`
	prototest.Break(t, New(), "imap", script, func(lines []string) error {
		for _, line := range lines {
			if !strings.HasPrefix(line, "* ") && !strings.HasPrefix(line, "a ") && !strings.HasPrefix(line, "b ") && line != "" {
				return fmt.Errorf("the client hears %q", line)
			}
			if strings.HasPrefix(line, "b NO") && !strings.HasPrefix(line, "b NO [UNAVAILABLE]") {
				return fmt.Errorf("the client is told %q", line)
			}
		}
		return nil
	})
}
