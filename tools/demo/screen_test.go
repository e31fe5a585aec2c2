package main

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestScreenKeepsToTheWidth(t *testing.T) {
	for _, color := range []bool{false, true} {
		var out strings.Builder
		s := newScreen(&out, options{width: 50, color: color})
		long := strings.Repeat("wört ", 30)
		s.headline("%s", long)
		s.note("%s", long)
		s.aside("%s", long)
		s.client(long)
		s.server("tab\there \x1b[31m" + long)
		s.command(long)
		s.output(long + "\n" + long)
		text := out.String()
		if got := strings.Contains(text, "\x1b["); got != color {
			t.Errorf("colour %v, wanted %v:\n%s", got, color, text)
		}
		if strings.Contains(text, "[31m") && strings.Contains(text, "\x1b[31m") {
			t.Error("a server's control characters reach the terminal")
		}
		plain := text
		for _, code := range []string{bold, dim, cyan, green, "0"} {
			plain = strings.ReplaceAll(plain, "\x1b["+code+"m", "")
		}
		for line := range strings.Lines(plain) {
			if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 50 {
				t.Errorf("%d columns: %q", n, line)
			}
		}
	}
}

func TestUsage(t *testing.T) {
	for _, test := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"now"}, 2, "it takes no arguments"},
		{[]string{"-x"}, 2, "flag provided but not defined"},
		{[]string{"-h"}, 0, "-stay"},
	} {
		var out strings.Builder
		if code := run(test.args, &out, &out); code != test.code || !strings.Contains(out.String(), test.want) {
			t.Errorf("%q: %d, %q", test.args, code, out.String())
		}
	}
}

func TestWideTablesLoseSpace(t *testing.T) {
	var out strings.Builder
	s := newScreen(&out, options{width: 40})
	s.output("a table:\nname                       count      more\nü                              1         2\n" +
		"                              10         3\n\nnext                                     line\nshort")
	want := "    a table:\n    name  count  more\n    ü         1     2\n             10     3\n\n    next  line\n    short\n"
	if out.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", out.String(), want)
	}
}

// A table stays one when a label leaves only two blanks before its value.
func TestNarrowLabelsStayInLine(t *testing.T) {
	var out strings.Builder
	s := newScreen(&out, options{width: 40})
	s.output("filter        (mail=somebody.with.a.long.name)\n  hostServer  east\nremembered    for 0s")
	want := "    filter       (mail=somebody.with.a.…\n      hostServer east\n    remembered   for 0s\n"
	if out.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", out.String(), want)
	}
}
