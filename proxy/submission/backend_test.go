package submission

import (
	"errors"
	"strings"
	"testing"

	"mailmux/proxy"
	"mailmux/proxy/smtpwire"
)

// TestRefused: what a member's answer to AUTH means. The client's view follows from CauseOf.
func TestRefused(t *testing.T) {
	for _, tt := range []struct {
		code int
		text string
		want proxy.Cause
	}{
		{535, "5.7.8 wrong password of ann", proxy.CauseAuth},
		{535, "", proxy.CauseAuth},
		{454, "4.7.0 busy", proxy.CauseReply},
		{432, "4.7.12 password transition needed", proxy.CauseReply},
		{451, "4.3.0 local error", proxy.CauseReply},
		{525, "5.7.13 disabled", proxy.CauseReply},
		{534, "5.7.9 mechanism too weak", proxy.CauseReply},
		{550, "5.7.1 not you", proxy.CauseReply},
		{554, "5.7.0 go away", proxy.CauseReply},
		{421, "4.3.2 closing", proxy.CauseTemporary},
		{500, "5.5.6 line too long", proxy.CauseTemporary},
		{503, "5.5.1 already authenticated", proxy.CauseTemporary},
		{504, "5.5.4 no such mechanism", proxy.CauseTemporary},
		{530, "5.7.0 STARTTLS first", proxy.CauseTemporary},
		{538, "5.7.11 encryption required", proxy.CauseTemporary},
		{250, "OK", proxy.CauseTemporary},
		{354, "go ahead", proxy.CauseTemporary},
	} {
		reply := smtpwire.Reply{Code: tt.code, Text: tt.text}
		err := refused(reply)
		if got := proxy.CauseOf(err); got != tt.want {
			t.Errorf("%s: %s, want %s", reply, got, tt.want)
		}
		var verbatim *proxy.Reply
		if errors.As(err, &verbatim) && verbatim.Text != reply.Wire() {
			t.Errorf("%s: the client would read %q", reply, verbatim.Text)
		}
	}
}

// TestEveryCauseHasItsWords is the column "submission" of the design's table of what a client is told.
func TestEveryCauseHasItsWords(t *testing.T) {
	want := map[proxy.Cause]string{
		proxy.CauseTemporary:   "454 4.7.0 ",
		proxy.CauseAuth:        "535 5.7.8 ",
		proxy.CauseHeld:        "454 4.7.0 ",
		proxy.CauseDisabled:    "525 5.7.13 ",
		proxy.CauseUnreachable: "454 4.7.0 ",
		proxy.CausePlaintext:   "538 5.7.11 ",
		proxy.CauseLimit:       "421 4.7.0 ",
		proxy.CauseShutdown:    "421 4.3.2 ",
		proxy.CauseTimeout:     "421 4.4.2 ",
		proxy.CauseGarbage:     "421 4.7.0 ",
	}
	for _, cause := range proxy.Causes() {
		words := refusals[cause]
		if words == "" {
			words = byes[cause]
		}
		prefix, ok := want[cause]
		switch {
		case cause == proxy.CauseReply, cause == proxy.CauseGone: // the reply's own, and nothing
			if words != "" {
				t.Errorf("%s: %q", cause, words)
			}
		case !ok || !strings.HasPrefix(words, prefix):
			t.Errorf("%s: %q, want %q", cause, words, prefix)
		}
		if byes[cause] != "" && !strings.HasPrefix(byes[cause], "421 4.") {
			t.Errorf("%s: the last word %q does not say that the connection is closed", cause, byes[cause])
		}
	}
}
