package integration

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"mailmux/integration/stage"
)

// attack is what one client sends, all at once, and how the conversation has to end: with which word of ours, and whether
// something may arrive.
type attack struct {
	name, bytes string
	want        string // a word of one of the answers
	open        bool   // the session goes on: a NOOP is answered
}

const intro = "EHLO x.example.net\r\nMAIL FROM:<a@example.net>\r\nRCPT TO:<recording@fake.example.com>\r\n"

// attacks are hostile bytes at every stage.
func attacks() []attack {
	long := strings.Repeat("x", 100_000)
	return []attack{
		{"nothing but NULs", strings.Repeat("\x00", 100_000), "500", false},
		{"HTTP", "POST / HTTP/1.1\r\nHost: x\r\n\r\nEHLO x\r\n", "421", false},
		{"TLS in the clear", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + long, "500", false},
		{"an endless verb", long, "500 5.5.2 Line too long", false},
		{"an endless EHLO", "EHLO " + long + "\r\n", "500 5.5.2 Line too long", false},
		{"NUL in EHLO", "EHLO x\x00y\r\n", "501", true},
		{"CR in EHLO", "EHLO x\ry\r\n", "500 5.5.2", false},
		{"LF alone", "EHLO x\nMAIL FROM:<>\r\n", "500 5.5.2", false},
		{"NUL in MAIL", "EHLO x\r\nMAIL FROM:<a\x00@b>\r\n", "501", true},
		{"a path without end", "EHLO x\r\nMAIL FROM:<a@b\r\n", "501", true},
		{"a path in a path", "EHLO x\r\nMAIL FROM:<a@b> TO:<c@d>\r\n", "555", true},
		{"a size of minus one", "EHLO x\r\nMAIL FROM:<> SIZE=-1\r\n", "501", true},
		{"a size beyond all numbers", "EHLO x\r\nMAIL FROM:<> SIZE=99999999999999999999999\r\n", "501", true},
		{"a size above the limit", "EHLO x\r\nMAIL FROM:<> SIZE=9999999999\r\n", "552 5.3.4", true},
		{"an address of 5 KiB", "EHLO x\r\nMAIL FROM:<" + strings.Repeat("a", 3000) + "@example.net>\r\n", "50", true},
		{"DATA before all", "EHLO x\r\nDATA\r\n", "503", true},
		{"DATA without recipients", "EHLO x\r\nMAIL FROM:<>\r\nDATA\r\n", "503", true},
		{"BDAT before all", "EHLO x\r\nBDAT 5\r\nhello", "503", true},
		{"BDAT without a size", intro + "BDAT\r\n", "501", false},
		{"BDAT of minus one", intro + "BDAT -1 LAST\r\n", "501", false},
		{"BDAT of all numbers", intro + "BDAT 99999999999999999999 LAST\r\n", "501", false},
		{"BDAT in hexadecimal", intro + "BDAT 0x10 LAST\r\n", "501", false},
		{"BDAT LAST 0", intro + "BDAT 0 LAST\r\n", "250", true},
		{"BDAT with a command in it", intro + "BDAT 12 LAST\r\nRSET\r\nQUIT\r\n", "250", true},
		{"BDAT that says less than it sends", intro + "BDAT 2 LAST\r\nhelloRCPT TO:<x>\r\n", "500", true},
		{"DATA in the middle of BDAT", intro + "BDAT 2\r\nhiDATA\r\n", "503", true},
		{"MAIL in the middle of BDAT", intro + "BDAT 2\r\nhiMAIL FROM:<>\r\n", "503", true},
		{"a bare CR at the end of BDAT", intro + "BDAT 3 LAST\r\nhi\r", "554 5.6.0", true},
		{"CRLF across two chunks", intro + "BDAT 3\r\nhi\rBDAT 3 LAST\r\n\nho", "250 2.0.0", true},
		{"a line of 1 MiB", intro + "DATA\r\n" + strings.Repeat(long, 10) + "\r\n.\r\n", "250 2.0.0", true},
		{"lines without end", intro + "DATA\r\n" + strings.Repeat("\r\n", 200_000) + ".\r\n", "250 2.0.0", true},
		{"dots without end", intro + "DATA\r\n" + strings.Repeat("..\r\n", 200_000) + ".\r\n", "250 2.0.0", true},
		{"more than the limit", intro + "DATA\r\n" + strings.Repeat(strings.Repeat("x", 998)+"\r\n", 3000) + ".\r\n", "552 5.3.4", true},
		{"more than the limit by BDAT", intro + "BDAT 3000000 LAST\r\n" + strings.Repeat("x", 3_000_000), "552 5.3.4", true},
		{"a hundred hops", intro + "DATA\r\n" + strings.Repeat("Received: from x by y\r\n", 101) + "\r\ntext\r\n.\r\n", "554 5.4.6", true},
		{"ten passes by us", intro + "DATA\r\n" + strings.Repeat("Received: from x\r\n\tby mail.example.com (mailmux) with ESMTP;\r\n", 10) + "\r\ntext\r\n.\r\n", "554 5.4.6", true},
		{"nine passes by us", intro + "DATA\r\n" + strings.Repeat("Received: from x\r\n\tby mail.example.com (mailmux) with ESMTP;\r\n", 9) + "\r\ntext\r\n.\r\n", "250 2.0.0", true},
		{"STARTTLS and more", "EHLO x\r\nSTARTTLS\r\nMAIL FROM:<>\r\n", "421", false},
		{"XCLIENT from a stranger", "EHLO x\r\nXCLIENT ADDR=192.0.2.1\r\n", "550", true},
		{"guessing names", "EHLO x\r\nMAIL FROM:<>\r\n" + repeated("RCPT TO:<nobody%d@example.com>\r\n", 30), "421", false},
		{"a thousand NOOPs", "EHLO x\r\n" + strings.Repeat("NOOP\r\n", 1000), "421", false},
		{"a thousand empty chunks", intro + strings.Repeat("BDAT 0\r\n", 1000), "421", false},
		{"a thousand RSETs", "EHLO x\r\n" + strings.Repeat("MAIL FROM:<>\r\nRSET\r\n", 1000), "421", false},
		{"too many recipients", "EHLO x\r\nMAIL FROM:<>\r\n" + strings.Repeat("RCPT TO:<recording@fake.example.com>\r\n", 150), "452 4.5.3", true},
		{"gone in the middle of DATA", intro + "DATA\r\nhalf", "354", false},
		{"gone in the middle of BDAT", intro + "BDAT 100 LAST\r\nhalf", "250", false},
	}
}

func repeated(format string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

// run sends the bytes, and then a NOOP where the session has to be open still, and half-closes. It gives all answers.
func (a *attack) run(addr string) (answers string, err error) {
	nc, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return "", err
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(20 * time.Second)) // a fault shows at the next read
	var got bytes.Buffer
	read := make(chan error, 1)
	go func() {
		_, err := io.Copy(&got, nc)
		read <- err
	}()
	send := a.bytes
	if a.open {
		send += "NOOP\r\nHELP\r\n"
	}
	// One that is sent away before it has said everything cannot say the rest.
	_, _ = io.WriteString(nc, send)
	_ = nc.(*net.TCPConn).CloseWrite()
	err = <-read
	return got.String(), err
}

// Hostile bytes at every stage get an answer or the door; nothing of them arrives that is not a message, the daemon stays
// as it was, and nothing is left of them: no goroutine, no descriptor, no file.
func TestMXUnderAttack(t *testing.T) {
	w := world(t)
	book := newLedger()
	playBox(t, memberAddress(t, w, "recording", stage.PortLMTP), book, false)
	temp, spool := t.TempDir(), filepath.Join(t.TempDir(), "spool")
	for _, queue := range []string{"", "spool: {dir: " + spool + ", min_free: 1MiB}"} {
		var addr string
		d := ownDaemon(t, w, func(s *setup) {
			addr = fmt.Sprintf("%s:%d", s.IP, stage.PortSMTP)
			s.Listeners = append(s.Listeners, fmt.Sprintf(`{service: smtp, address: "%s"}`, addr))
			s.Greets = append(s.Greets, addr)
			s.Limits = strings.Replace(s.Limits, "per_address: 20000", "per_address: 200", 1)
			s.More = "delivery: {member_timeout: 5s, client_timeout: 3s, max_size: 2000000, max_recipients: 100, memory_per_message: 65536, temp_dir: " + temp +
				", idle_timeout: 100ms}\n" + queue
		})
		before := vitals(t, d)
		for round := range 2 {
			var work sync.WaitGroup
			for _, a := range attacks() {
				work.Go(func() {
					answers, err := a.run(addr)
					ended := strings.HasSuffix(strings.TrimRight(answers, "\r\n"), "214 2.0.0 RFC 5321, RFC 2033")
					if !strings.Contains(answers, "\n"+a.want) || a.open && !ended {
						t.Errorf("%s, round %d: the end of the answers is %q (%v), want %s", a.name, round, answers[max(0, len(answers)-300):], err, a.want)
					}
				})
			}
			work.Wait()
		}
		eventually(t, "nothing is left", func() error {
			now := vitals(t, d)
			if now.goroutines > before.goroutines+5 || now.descriptors > before.descriptors+5 {
				return fmt.Errorf("%+v, before: %+v", now, before)
			}
			if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
				return fmt.Errorf("in temp_dir: %v, %v", left, err)
			}
			return nil
		})
		d.Stop()
	}
}

// vital is what a daemon holds.
type vital struct{ goroutines, descriptors int }

func vitals(t *testing.T, d *daemon) vital {
	t.Helper()
	m, err := d.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.PID()))
	if err != nil {
		t.Fatal(err)
	}
	return vital{int(m["go_goroutines"]), len(fds)}
}

// A client that sends its message a byte now and then is sent away, and so is one that says nothing at all; both get a
// word, and the member has been told nothing that could become a message.
func TestMXSlowSenders(t *testing.T) {
	w := world(t)
	book := newLedger()
	playBox(t, memberAddress(t, w, "recording", stage.PortLMTP), book, false)
	_, addr := mxFront(t, w, ", client_timeout: 1s")
	for name, until := range map[string]string{"in a command": "EHLO x\r\nMAIL FR", "in DATA": intro + "DATA\r\nX-Mark: slow\r\n\r\n", "in BDAT": intro + "BDAT 100000 LAST\r\nX-Mark: slow\r\n\r\n"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nc, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			_ = nc.SetDeadline(time.Now().Add(20 * time.Second)) // a fault shows at the next read
			began := time.Now()
			ctx, cancel := context.WithCancel(t.Context())
			var trickle sync.WaitGroup
			trickle.Go(func() {
				_, err := io.WriteString(nc, until)
				tick := time.NewTicker(200 * time.Millisecond)
				defer tick.Stop()
				for err == nil && ctx.Err() == nil {
					<-tick.C
					_, err = nc.Write([]byte("x"))
				}
			})
			answers, _ := io.ReadAll(bufio.NewReader(nc)) // it may end with a reset
			cancel()
			trickle.Wait()
			if took := time.Since(began); !strings.Contains(string(answers), "421 4.4.2") || took > 5*time.Second {
				t.Errorf("after %s: %q", took, answers)
			}
		})
	}
	t.Cleanup(func() {
		if len(book.boxes) > 0 {
			t.Errorf("delivered: %v", book.boxes)
		}
	})
}
