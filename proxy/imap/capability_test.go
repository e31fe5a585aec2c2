package imap

import (
	"strings"
	"testing"
)

func TestIntersect(t *testing.T) {
	for _, c := range []struct {
		lists [][]string
		want  string
	}{
		{nil, "IMAP4rev1 LITERAL+ SASL-IR ID"},
		{[][]string{{"IMAP4rev1"}}, "IMAP4rev1 SASL-IR ID"},
		{[][]string{{}}, "IMAP4rev1 SASL-IR ID"},
		{[][]string{{"IMAP4rev1", "IMAP4rev2", "LITERAL-"}}, "IMAP4rev1 IMAP4rev2 LITERAL- SASL-IR ID"},
		{[][]string{{"LITERAL+", "idle", "SORT"}, {"IDLE", "literal+"}}, "IMAP4rev1 LITERAL+ SASL-IR ID idle"},
		{[][]string{{"STARTTLS", "AUTH=PLAIN", "auth=x", "LOGINDISABLED", "LOGIN-REFERRALS", "UNAUTHENTICATE", "SASL-IR", "ID", "IDLE"}},
			"IMAP4rev1 SASL-IR ID IDLE"},
		{[][]string{{"A\r\nB", "C]", "", "D\x00", "X+Y", "\xff"}}, "IMAP4rev1 SASL-IR ID X+Y"},
		{[][]string{{strings.Repeat("x", maxCapability), "IDLE"}}, "IMAP4rev1 SASL-IR ID IDLE"},
	} {
		if got := intersect(c.lists); got != c.want {
			t.Errorf("%.80q: got %.200q, want %q", c.lists, got, c.want)
		}
	}
}

func TestAfterLogin(t *testing.T) {
	for list, want := range map[string]string{
		"IMAP4rev1 IDLE":                               "IMAP4rev1 IDLE",
		"IMAP4rev1 STARTTLS  IDLE auth=PLAIN":          "IMAP4rev1 IDLE",
		"STARTTLS":                                     "",
		"IMAP4rev1 A\x07B":                             "IMAP4rev1 A?B",
		"IMAP4rev1 X]Y IDLE":                           "IMAP4rev1 IDLE",
		"LOGINDISABLED IMAP4rev1 sasl-ir AUTHX":        "IMAP4rev1 AUTHX",
		"IMAP4rev1 LOGIN-REFERRALS UNAUTHENTICATE ID ": "IMAP4rev1 ID",
	} {
		if got := afterLogin([]byte(list)); got != want {
			t.Errorf("%q: got %q, want %q", list, got, want)
		}
	}
}
