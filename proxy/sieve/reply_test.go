package sieve

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"mailmux/proxy"
	"mailmux/proxy/auth"
)

// What a client is told for each cause: the response code decides what it does with its password.
func TestRefusals(t *testing.T) {
	want := map[proxy.Cause]string{
		proxy.CauseTemporary:   `NO (TRYLATER) "`,
		proxy.CauseAuth:        `NO "Authentication failed`,
		proxy.CauseHeld:        `NO (TRYLATER) "`,
		proxy.CauseDisabled:    `NO "Account is disabled`,
		proxy.CauseUnreachable: `NO (TRYLATER) "`,
		proxy.CauseReply:       `NO (TRYLATER) "`,
		proxy.CausePlaintext:   `NO (ENCRYPT-NEEDED) "`,
		proxy.CauseLimit:       `NO (TRYLATER) "`,
		proxy.CauseShutdown:    `NO (TRYLATER) "`,
		proxy.CauseTimeout:     `NO (TRYLATER) "`,
		proxy.CauseGarbage:     `NO "Too many errors`,
		proxy.CauseGone:        "",
	}
	if len(refusals) != len(proxy.Causes()) {
		t.Errorf("%d causes have words, there are %d", len(refusals), len(proxy.Causes()))
	}
	for _, cause := range proxy.Causes() {
		line, prefix := refusal("NO", cause, "id-1"), want[cause]
		if _, known := want[cause]; !known {
			t.Errorf("%s: nobody said what a client is to be told", cause)
		}
		if !strings.HasPrefix(line, prefix) || (line == "") != (prefix == "") {
			t.Errorf("%s: %q, want %q…", cause, line, prefix)
		}
		if line == "" {
			continue
		}
		if r, err := readResponseOf(line); err != nil || r.line() != line || !strings.HasSuffix(r.text, "(session id-1)") {
			t.Errorf("%s: a client could not read %q: %v", cause, line, err)
		}
	}
}

func TestMistake(t *testing.T) {
	for _, err := range []error{auth.ErrCancelled, auth.ErrMalformed, auth.ErrUnknownMechanism, auth.ErrChannelBinding, errUnknown} {
		if mistake(proxy.ClientFault(fmt.Errorf("x: %w", err))) == "" {
			t.Errorf("%v is not told as the client's mistake", err)
		}
	}
	for _, err := range []error{proxy.ErrRejected, proxy.ErrShutdown, auth.ErrCredentials, errors.New("x")} {
		if text := mistake(err); text != "" {
			t.Errorf("%v is told as the client's mistake: %s", err, text)
		}
	}
}
