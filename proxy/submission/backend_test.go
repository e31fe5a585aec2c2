package submission

import (
	"errors"
	"net/netip"
	"slices"
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

func TestIntroduction(t *testing.T) {
	id := proxy.Identity{
		Client:  netip.MustParseAddrPort("[2001:db8::5]:51234"),
		Local:   netip.MustParseAddrPort("192.0.2.10:587"),
		Session: "abc", TTL: 6, TLS: true, Name: "mail.example.com", Helo: "pc.example.net", Login: "ann@example.com",
	}
	const all = "NAME ADDR PORT PROTO HELO LOGIN SESSION TTL CLIENT-TRANSPORT DESTADDR DESTPORT DESTNAME"
	got := introduction(all, id)
	want := []string{"XCLIENT HELO=pc.example.net PROTO=ESMTP TTL=6 PORT=51234 ADDR=IPV6:2001:db8::5 NAME=[UNAVAILABLE] " +
		"DESTPORT=587 DESTADDR=192.0.2.10 SESSION=abc CLIENT-TRANSPORT=TLS DESTNAME=mail.example.com"}
	if !slices.Equal(got, want) {
		t.Errorf("%q\nwant %q", got, want)
	}
	if got := introduction("LOGIN FORWARD", id); got != nil {
		t.Errorf("LOGIN is a login for Postfix: %q", got)
	}
	if got := introduction(all, proxy.Identity{TTL: 3, Helo: "a\r\nMAIL"}); !slices.Equal(got, []string{"XCLIENT PROTO=ESMTP TTL=3 CLIENT-TRANSPORT=insecure"}) {
		t.Errorf("nothing known: %q", got)
	}
	id.Helo, id.Name = strings.Repeat("h", 255), strings.Repeat("n", 255)
	got = introduction(all, id)
	if len(got) != 2 || len(got[0]) > 510 || !strings.HasSuffix(got[1], " DESTNAME="+id.Name) {
		t.Errorf("long names: %q", got)
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
