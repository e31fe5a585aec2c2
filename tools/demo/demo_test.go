package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
)

// TestDemo plays the whole demo with the real programs, as make demo does without a terminal.
func TestDemo(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds and runs both programs")
	}
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	var out, errs bytes.Buffer
	if code := run(nil, &out, &errs); code != 0 {
		t.Fatalf("exit code %d\n%s\n%s", code, out.String(), errs.String())
	}
	text := out.String()
	for _, want := range []string{
		"S: +OK logged in to west.example.com",
		"S: b1 NO [UNAVAILABLE]",
		"hostServer: west.example.com",
		"oldHostServer: east.example.com",
		"ann logs in at east again",
		"Done in",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the demo does not show %q", want)
		}
	}
	if strings.Contains(text, "\x1b") {
		t.Error("colours without a terminal")
	}
	// Her mail is read twice: on east before the failover, on west behind it.
	if n := strings.Count(text, "Subject: Welcome to your mailbox"); n != 2 {
		t.Errorf("ann's mail was shown %d times, want 2", n)
	}
	left, err := filepath.Glob(filepath.Join(tmp, "mailmux-demo-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
