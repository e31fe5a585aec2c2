package pop3

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"mailmux/proxy"
	"mailmux/proxy/auth"
)

// What a client is told for each cause: the response code decides what a mail program does with its password.
func TestRefusals(t *testing.T) {
	want := map[proxy.Cause]string{
		proxy.CauseTemporary:   "-ERR [SYS/TEMP] ",
		proxy.CauseAuth:        "-ERR [AUTH] ",
		proxy.CauseHeld:        "-ERR [SYS/TEMP] ",
		proxy.CauseDisabled:    "-ERR [SYS/PERM] ",
		proxy.CauseUnreachable: "-ERR [SYS/TEMP] ",
		proxy.CauseReply:       "-ERR [SYS/TEMP] ",
		proxy.CausePlaintext:   "-ERR TLS ",
		proxy.CauseLimit:       "-ERR [SYS/TEMP] ",
		proxy.CauseShutdown:    "-ERR [SYS/TEMP] ",
		proxy.CauseTimeout:     "-ERR [SYS/TEMP] ",
		proxy.CauseGarbage:     "-ERR Too ",
		proxy.CauseGone:        "",
	}
	if len(refusals) != len(proxy.Causes()) {
		t.Errorf("%d causes have words, there are %d", len(refusals), len(proxy.Causes()))
	}
	for _, cause := range proxy.Causes() {
		text, prefix := refusals[cause], want[cause]
		if _, known := want[cause]; !known {
			t.Errorf("%s: nobody said what a client is to be told", cause)
		}
		if !strings.HasPrefix(text, prefix) || (text == "") != (prefix == "") || len(text) > 100 {
			t.Errorf("%s: %q, want %q…", cause, text, prefix)
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
