package main

import (
	"bytes"
	"fmt"
	"net/smtp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"mailmux/proxy/spool"
)

// bringCommand brings a message by SMTP: bring ADDRESS SENDER RECIPIENT. With a variable's name behind it, that is set to
// the message's id in the queue.
func bringCommand(ts *testscript.TestScript, _ bool, args []string) {
	c, err := smtp.Dial(args[0])
	ts.Check(err)
	defer c.Close()
	ts.Check(c.Mail(args[1]))
	ts.Check(c.Rcpt(args[2]))
	id, err := c.Text.Cmd("DATA")
	ts.Check(err)
	c.Text.StartResponse(id)
	_, _, err = c.Text.ReadResponse(354)
	c.Text.EndResponse(id)
	ts.Check(err)
	_, reply, err := ended(c, "Subject: hello\r\n\r\ntext\r\n.")
	ts.Check(err)
	fields := strings.Fields(reply)
	if len(args) > 3 {
		ts.Setenv(args[3], fields[len(fields)-1])
	}
	ts.Check(c.Quit())
}

func ended(c *smtp.Client, text string) (code int, reply string, err error) {
	id, err := c.Text.Cmd("%s", text)
	if err != nil {
		return 0, "", err
	}
	c.Text.StartResponse(id)
	defer c.Text.EndResponse(id)
	return c.Text.ReadResponse(250)
}

// Times are as people write them.
func TestParseSpan(t *testing.T) {
	for text, want := range map[string]time.Duration{"90m": 90 * time.Minute, "2d": 48 * time.Hour, "1.5d": 36 * time.Hour, "1h30m": 90 * time.Minute} {
		if got, err := parseSpan(text); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0", "-1h", "d", "5", "NaNd", "1e300d", "Infd"} {
		if got, err := parseSpan(text); err == nil {
			t.Errorf("%q is taken for %s", text, got)
		}
	}
}

// A list is sorted by arrival, has a line for each recipient that waits, and never lets a reply speak to the terminal.
func TestListing(t *testing.T) {
	var b bytes.Buffer
	l := &listing{w: &b}
	now := time.Now()
	for i, id := range []string{"1k7vb000000000002", "1k7vb000000000001"} {
		err := l.add(&spool.Info{ID: id, Size: 2048, Arrived: now.Add(-time.Hour), Held: i == 0, Next: now.Add(90 * time.Second), Recipients: []spool.RecipientInfo{
			{Recipient: spool.Recipient{Address: "done@example.com"}, State: spool.Delivered},
			{Recipient: spool.Recipient{Address: "ann@example.com", Host: "back1"}, State: spool.Waiting, Reply: "451 \x1b[2Jgone " + strings.Repeat("x", 200)},
			{Recipient: spool.Recipient{Address: "bob@example.com"}, State: spool.Waiting},
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := l.end(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, line := range strings.Split(b.String(), "\n") {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	reply := "451 \uFFFD[2Jgone " + strings.Repeat("x", 87) + "…"
	want := []string{
		"ID AGE SIZE NEXT SENDER RECIPIENT HOST LAST ANSWER",
		"1k7vb000000000001 1h00m 2.0 KiB in 1m29s <> ann@example.com back1 " + reply,
		"bob@example.com - -",
		"1k7vb000000000002 1h00m 2.0 KiB on hold <> ann@example.com back1 " + reply,
		"bob@example.com - -",
		"2 messages, 4.0 KiB, 1 on hold", "",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
