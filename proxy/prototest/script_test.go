package prototest

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	script, err := Parse("# A story\n# in two lines.\n# set a.b=c d\n#set e=f\n\nC: one\nC: two\n\nC: three\nS: x\nwait 30m\nC> {x*3}\nB: y\n# aside\nB: z\n")
	if err != nil {
		t.Fatal(err)
	}
	if script.Story != "A story in two lines." || len(script.Settings) != 2 || script.Settings[0] != (Setting{"a.b", "c d"}) || script.setting("e") != "f" {
		t.Errorf("story %q, settings %q", script.Story, script.Settings)
	}
	joined := ""
	for _, st := range script.Steps {
		joined += map[bool]string{true: "+", false: "-"}[st.Joined]
	}
	if joined != "-+------" {
		t.Errorf("lines are joined %s", joined)
	}
}

func TestParseTellsAllFaults(t *testing.T) {
	_, err := Parse("C: x\nX: y\nC: \\q\nS: \\x1\nfoo\nclose\nclose client now\nC: {*}\nS> {*}\n# set late=1\nC: {base64:\\z}\n# set noequals\nC: x\n\nrefuse\n")
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"line 2: ", "line 3: bad escape", "line 4: bad escape", "line 5: ", "line 6: ", "line 7: ", "line 8: {*}", "line 9: {*}",
		"line 10: setting", "line 11: bad escape", "line 12: ", "line 15: refuse races", "no story"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in:\n%v", want, err)
		}
	}
	if n := strings.Count(err.Error(), "\n") + 1; n != 13 {
		t.Errorf("%d faults in:\n%v", n, err)
	}
}

func TestTexts(t *testing.T) {
	for source, want := range map[string]string{
		`a\r\n\t\0\\\x7f b`: "a\r\n\t\x00\\\x7f b",
		"{5+} {3} {} { }":   "{5+} {3} {} { }",
		"{ab*3}{\\0*2}":     "ababab\x00\x00",
		"{base64:\\0a\\0b}": "AGEAYg==",
		"{id}!":             "42!",
		"{base64:}":         "",
	} {
		text, err := compile(source)
		if err != nil {
			t.Errorf("%q: %v", source, err)
			continue
		}
		if got, err := (variables{"id": "42"}).said(text); got != want || err != nil {
			t.Errorf("%q: got %q, %v, want %q", source, got, err, want)
		}
	}
	text, _ := compile("{unheard}")
	if _, err := (variables{}).said(text); err == nil {
		t.Error("a word that was not heard can be said")
	}
}

func TestHeard(t *testing.T) {
	for _, c := range []struct {
		text, line string
		want       bool
	}{
		{"* OK", "* OK", true},
		{"* OK", "a OK", false}, // a star in a script is a star
		{"* OK", "* OK ", false},
		{"a.c", "abc", false},
		{"{*}", "", true},
		{"OK {*}!", "OK x\x00\xff y!", true},
		{"\\xc3\\xa4", "\xc3\xa4", true},
		{"\\xc3\\xa4", "\xc3", false},
		{"ä{*}", "ä", true},
		{"{id} and {id}", "x and x", true},
		{"{id} and {other}", "x and y", true},
		{"({id})", "()", false},
		{"({id})", "(a b)", false},
	} {
		text, err := compile(c.text)
		if err != nil {
			t.Fatal(err)
		}
		if got := (variables{}).heard(text, c.line); got != c.want {
			t.Errorf("%q hears %q: %v", c.text, c.line, got)
		}
	}
	bound := variables{}
	first, _ := compile("session {id}")
	if !bound.heard(first, "session a-1") || bound["id"] != "a-1" || bound.heard(first, "session a-2") {
		t.Errorf("bound %q", bound)
	}
}
