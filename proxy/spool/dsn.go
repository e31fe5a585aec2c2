package spool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"mime"
	"strings"
	"time"
	"unicode/utf8"
)

// kind is what a notification says.
type kind struct {
	mark   string // in the id
	wish   string // the word of NOTIFY that asks for it
	action string
	title  string
	text   string
}

var (
	kindFailed = kind{"f", NotifyFailure, "failed", "Undelivered mail returned to sender",
		"Your message could not be delivered to the recipients below, and will not be tried again.\n"}
	kindDelayed = kind{"d", NotifyDelay, "delayed", "Delayed mail (still being tried)",
		"Your message could not yet be delivered to the recipients below.\nIt will be tried further; you need not send it again.\n"}
	kindSuccess = kind{"s", NotifySuccess, "delivered", "Successful mail delivery report",
		"Your message was delivered, or handed on, as you asked to be told.\n"}
)

// maxReturned is the most of a message that goes back to its sender.
const maxReturned = 1 << 20

// tell queues a notification for those recipients of the records that want one. It says whether that is done, or was not
// wanted: only then may the outcome be recorded.
func (a *attempt) tell(ctx context.Context, k kind, records []record) bool {
	if a.From == "" { // RFC 5321 section 4.5.5: a notification is never answered
		if k == kindFailed {
			a.Log.Info("a message without sender could not be delivered, and is gone", "id", a.ID, "client", a.Client,
				"to", a.rcpts[records[0].Rcpt[0]].Address, "reply", records[0].Reply)
		}
		return true
	}
	var wanted []record
	sum := fnv.New32a()
	for _, r := range records {
		var numbers []int
		for _, n := range r.Rcpt {
			if a.rcpts[n].Notify.wants(k.wish) {
				numbers = append(numbers, n)
				_, _ = fmt.Fprintf(sum, "%d,", n)
			}
		}
		if r.Rcpt = numbers; len(numbers) > 0 {
			wanted = append(wanted, r)
		}
	}
	if len(wanted) == 0 {
		return true
	}
	id := fmt.Sprintf("%s-%s%08x", a.ID, k.mark, sum.Sum32())
	if _, err := a.find(id); err == nil {
		return true // queued before a crash
	}
	if err := a.queueNotification(ctx, id, k, wanted); err != nil {
		if !errors.Is(err, context.Canceled) {
			a.Log.Error("a notification cannot be queued; the recipients are tried again until it can", "id", a.ID, "error", err)
		}
		return false
	}
	a.Log.Info("notification queued", "id", id, "action", k.action, "to", a.From)
	a.tally(func(c *Counters) { c.Notifications++ })
	return true
}

func (a *attempt) queueNotification(ctx context.Context, id string, k kind, records []record) error {
	e := &Envelope{To: []Recipient{{Address: a.From, Notify: Notify{NotifyNever}, Relay: true}}, Body: a.Body, SMTPUTF8: a.SMTPUTF8, Client: "notification"}
	head, tail := a.compose(id, k, records)
	returned := io.Reader(io.NewSectionReader(a.file, a.start, a.Size))
	if k != kindFailed || a.Ret != ReturnFull || a.Size > maxReturned {
		headers, err := headerOf(returned)
		if err != nil {
			return err
		}
		returned = bytes.NewReader(headers)
	}
	_, err := a.acceptAs(ctx, id, e, io.MultiReader(strings.NewReader(head), returned, strings.NewReader(tail)))
	return err
}

// wantsSuccess says whether one of the delivered recipients gets a notification from us.
func (a *attempt) wantsSuccess(records []record) bool {
	for _, r := range records {
		for _, n := range r.Rcpt {
			if r.State == Delivered && r.Action != ActionNone && a.rcpts[n].Notify.wants(NotifySuccess) {
				return true
			}
		}
	}
	return false
}

// notifySuccess tells the sender of what was delivered (RFC 3461 section 5.2.2), unless the member does. Should that not
// work, the mail is delivered all the same.
func (a *attempt) notifySuccess(ctx context.Context) {
	var records []record
	told := record{At: a.now(), Notified: true}
	for n := range a.rcpts {
		p := &a.rcpts[n]
		if p.State == Delivered && p.Action != ActionNone && !p.Notified && p.Notify.wants(NotifySuccess) {
			records = append(records, record{At: p.Last, Rcpt: []int{n}, Member: p.Member, Reply: p.Reply, Status: p.Status, Action: p.Action})
			told.Rcpt = append(told.Rcpt, n)
		}
	}
	if len(records) == 0 || !a.tell(ctx, kindSuccess, records) {
		return
	}
	if err := a.record(ctx, []record{told}); err != nil {
		a.Log.Warn("a notification of success may be sent twice", "id", a.ID, "error", err)
	}
}

// compose gives what stands before and behind the returned message (RFC 3464, and RFC 6533 for SMTPUTF8).
func (a *attempt) compose(id string, k kind, records []record) (head, tail string) {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\r\n", args...) }
	boundary := "=_" + id
	now := a.now()

	status, content := "message/delivery-status", "text/rfc822-headers"
	if a.SMTPUTF8 {
		status, content = "message/global-delivery-status", "message/global-headers"
	}
	if k == kindFailed && a.Ret == ReturnFull && a.Size <= maxReturned {
		content = "message/rfc822"
		if a.SMTPUTF8 {
			content = "message/global"
		}
	}
	line("From: Mail Delivery System <%s>", a.postmaster())
	line("To: <%s>", a.From)
	line("Subject: %s", mime.QEncoding.Encode("utf-8", k.title))
	line("Date: %s", now.Format(time.RFC1123Z))
	line("Message-ID: <%s@%s>", id, a.Hostname)
	line("Auto-Submitted: auto-replied")
	line("MIME-Version: 1.0")
	line("Content-Type: multipart/report; report-type=delivery-status;\r\n boundary=%q", boundary)
	line("Content-Transfer-Encoding: 8bit\r\n")
	line("--%s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n", boundary)
	line("This is the mail system at %s.\r\n", a.Hostname)
	line("%s", strings.ReplaceAll(k.text, "\n", "\r\n"))
	for _, r := range records {
		for _, n := range r.Rcpt {
			line("<%s>: %s", a.rcpts[n].Address, a.lastReply(n, r))
		}
	}
	line("\r\n--%s\r\nContent-Type: %s\r\nContent-Transfer-Encoding: 8bit\r\n", boundary, status)
	line("Reporting-MTA: dns; %s", a.Hostname)
	if a.EnvID != "" {
		line("Original-Envelope-Id: %s", a.field(a.EnvID))
	}
	line("Arrival-Date: %s", a.At.Format(time.RFC1123Z))
	for _, r := range records {
		for _, n := range r.Rcpt {
			a.composeRecipient(line, k, r, n)
		}
	}
	line("\r\n--%s\r\nContent-Type: %s\r\nContent-Transfer-Encoding: 8bit\r\n", boundary, content)
	return b.String(), fmt.Sprintf("\r\n--%s--\r\n", boundary)
}

func (a *attempt) composeRecipient(line func(string, ...any), k kind, r record, n int) {
	p := &a.rcpts[n]
	line("")
	if p.ORcpt != "" {
		kind, address, _ := strings.Cut(p.ORcpt, ";")
		if a.field(address) != address {
			kind = "utf-8"
		}
		line("Original-Recipient: %s;%s", kind, a.field(address))
	}
	kind := "rfc822"
	if a.SMTPUTF8 {
		kind = "utf-8"
	}
	line("Final-Recipient: %s; %s", kind, p.Address)
	action, status := k.action, r.Status
	if r.Action != ActionNone {
		action = string(r.Action)
	}
	if k == kindDelayed {
		status = p.Status
	}
	line("Action: %s", action)
	line("Status: %s", statusFor(k, status))
	reply := a.field(a.lastReply(n, r))
	if isReply(reply) {
		line("Diagnostic-Code: smtp; %s", reply)
	} else {
		line("Diagnostic-Code: x-mailmux; %s", reply)
	}
	if !r.At.IsZero() {
		line("Last-Attempt-Date: %s", r.At.Format(time.RFC1123Z))
	}
	if k == kindDelayed {
		line("Will-Retry-Until: %s", a.At.Add(a.cfg.MaxAge).Format(time.RFC1123Z))
	}
}

// field is a text as a field of the report may have it: beyond ASCII only with SMTPUTF8, otherwise in the form that RFC 6533
// section 3 has for addresses.
func (a *attempt) field(text string) string {
	if a.SMTPUTF8 {
		return text
	}
	var b strings.Builder
	for _, c := range text {
		if c < utf8.RuneSelf {
			b.WriteRune(c)
		} else {
			fmt.Fprintf(&b, `\x{%X}`, c)
		}
	}
	return b.String()
}

// lastReply is what the sender is told of a recipient: the reply of its record, or of its last attempt.
func (a *attempt) lastReply(n int, r record) string {
	if isReply(r.Reply) || r.Status == statusExpired {
		return r.Reply
	}
	return public(a.rcpts[n].Reply)
}

// public is what strangers may read: a server's reply. Our own errors name addresses and servers that are nobody's business.
func public(reply string) string {
	if isReply(reply) {
		return reply
	}
	return "the recipient's server is not available"
}

// isReply says whether a text is an SMTP reply, and no error of ours.
func isReply(text string) bool {
	return len(text) > 3 && text[0] >= '2' && text[0] <= '5' && text[1] >= '0' && text[1] <= '9' && text[2] >= '0' && text[2] <= '9' &&
		(text[3] == ' ' || text[3] == '-')
}

// statusFor is an enhanced code of the right class: 2 for success, 4 for delay; a failure may be either, because what
// was temporary for too long failed, too.
func statusFor(k kind, status string) string {
	class, rest, ok := strings.Cut(status, ".")
	if ok && strings.Trim(rest, "0123456789.") == "" {
		switch {
		case k == kindFailed && (class == "4" || class == "5"), k == kindDelayed && class == "4", k == kindSuccess && class == "2":
			return status
		}
	}
	return map[string]string{kindFailed.mark: "5.0.0", kindDelayed.mark: "4.4.1", kindSuccess.mark: "2.0.0"}[k.mark]
}

func (s *Spool) postmaster() string {
	if s.cfg.Postmaster != "" {
		return s.cfg.Postmaster
	}
	return "MAILER-DAEMON@" + s.Hostname
}

// headerOf reads the header section of a message, up to a bound.
func headerOf(message io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(message, 64<<10))
	if err != nil {
		return nil, err
	}
	if i := bytes.Index(b, []byte("\r\n\r\n")); i >= 0 {
		return b[:i+2], nil
	}
	if i := bytes.LastIndexByte(b, '\n'); i >= 0 { // no body, or a header section above the bound
		return b[:i+1], nil
	}
	return nil, nil
}
