package smtp

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	gosmtp "github.com/emersion/go-smtp"

	"mailmux/proxy/envelope"
)

// taken is what go-smtp's server has taken for messages.
type taken struct {
	texts []string
	from  string
}

func (s *taken) Reset()        {}
func (s *taken) Logout() error { return nil }

func (s *taken) Mail(from string, _ *gosmtp.MailOptions) error { s.from = from; return nil }
func (s *taken) Rcpt(string, *gosmtp.RcptOptions) error        { return nil }

func (s *taken) Data(r io.Reader) error {
	b, err := io.ReadAll(r)
	s.texts = append(s.texts, string(b))
	return err
}

// byGoSMTP sends the bytes behind DATA to go-smtp's server, and gives the messages that it has seen.
func byGoSMTP(t *testing.T, data string) []string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	seen := &taken{}
	srv := gosmtp.NewServer(gosmtp.BackendFunc(func(*gosmtp.Conn) (gosmtp.Session, error) { return seen, nil }))
	srv.Domain, srv.ReadTimeout, srv.WriteTimeout = "mail.example.com", 2*time.Second, 2*time.Second
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	defer func() { srv.Close(); <-done }()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(5 * time.Second)) // a fault shows at the next read
	r := bufio.NewReader(nc)
	expect := func(code string) {
		t.Helper()
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				t.Fatalf("waiting for %s: %v", code, err)
			}
			if len(line) > 3 && line[3] == ' ' {
				if !strings.HasPrefix(line, code) {
					t.Fatalf("%s, want %s", line, code)
				}
				return
			}
		}
	}
	expect("220")
	for _, step := range [][2]string{{"EHLO x.example.net", "250"}, {"MAIL FROM:<a@example.net>", "250"}, {"RCPT TO:<b@example.com>", "250"}, {"DATA", "354"}} {
		fmt.Fprintf(nc, "%s\r\n", step[0])
		expect(step[1])
	}
	if _, err := io.WriteString(nc, data+"QUIT\r\n"); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, r) // until it takes its leave
	return seen.texts
}

// source hands a text out in pieces.
type source struct {
	rest string
	n    int
}

func (s *source) Peek() ([]byte, error) {
	if s.rest == "" {
		return nil, io.EOF
	}
	return []byte(s.rest[:min(s.n, len(s.rest))]), nil
}

func (s *source) Skip(n int) { s.rest = s.rest[n:] }

// byUs reads the same bytes as a message is read here: the text, its fault, and what is left for commands.
func byUs(t *testing.T, data string, repair bool, piece int) (text, rest string, fault error) {
	t.Helper()
	src := &source{data, piece}
	d := envelope.NewText(src, 1<<20, repair)
	b, err := io.ReadAll(d)
	if err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return string(b), src.rest, d.Fault()
}

// bare says whether a text has a CR or an LF that stands alone: a server behind may take it for the end of a line.
func bare(text string) bool {
	return strings.ContainsAny(strings.ReplaceAll(text, "\r\n", ""), "\r\n")
}

// The ends of data by which one message becomes two on its way through servers that disagree. go-smtp's server sees one
// message, too, but passes most bare CRs and LFs on to whoever is behind, drops some together with a dot, and overlooks a
// real end behind a bare CR. Here what has one is refused, or it becomes a line end.
func TestSmuggling(t *testing.T) {
	second := "MAIL FROM:<thief@example.net>\r\nRCPT TO:<b@example.com>\r\nDATA\r\nsmuggled\r\n"
	t.Logf("%-12s %-20s %-8s %s", "end", "go-smtp alone", "refuse", "repair")
	for _, c := range []struct {
		name, end string
		gosmtp    string // messages, and whether what it hands on has bare line ends
	}{
		{"LF.LF", "\n.\n", "1, bare"}, {"LF.CRLF", "\n.\r\n", "1, bare"}, {"CRLF.LF", "\r\n.\n", "1, bare"},
		{"CR.CR", "\r.\r", "1, bare"}, {"CR.CRLF", "\r.\r\n", "1, bare"}, {"CRLF.CR", "\r\n.\r", "1"}, {"LF.CR", "\n.\r", "1, bare"},
		{"CR.LF", "\r.\n", "1, bare"}, {"CRLF.CRCRLF", "\r\n.\r\r\n", "1"}, {"CRCRLF.CRLF", "\r\r\n.\r\n", "1, bare"},
		{"CRLF.NULCRLF", "\r\n.\x00\r\n", "1"}, {"CRLFNUL.CRLF", "\r\n\x00.\r\n", "1"}, {"CRLF. CRLF", "\r\n. \r\n", "1"},
		{"CRLF..CRLF", "\r\n..\r\n", "1"}, {"CRLF.CRLF", "\r\n.\r\n", "2"},
	} {
		data := "text" + c.end + second + ".\r\n"
		texts := byGoSMTP(t, data)
		got := fmt.Sprint(len(texts))
		if bare(strings.Join(texts, "\r\n")) {
			got += ", bare"
		}
		if got != c.gosmtp {
			t.Errorf("%s: go-smtp sees %s, want %s: %q", c.name, got, c.gosmtp, texts)
		}
		var words [2]string
		for i, repair := range []bool{false, true} {
			for _, piece := range []int{1, 2, 3, 4096} {
				text, rest, fault := byUs(t, data, repair, piece)
				ended := rest != "" // a real end: what follows are commands of the sender's own
				switch {
				case bare(text):
					t.Errorf("%s: a bare CR or LF is passed on: %q", c.name, text)
				case ended != strings.Contains(c.end, "\r\n.\r\n"):
					t.Errorf("%s: what is left for commands is %q", c.name, rest)
				}
				if words[i] = "one message"; ended {
					words[i] = "an end"
				}
				if fault != nil {
					words[i] = "554"
				}
				if wantFault := !repair && bare(c.end); wantFault != errors.Is(fault, envelope.ErrBareNewline) {
					t.Errorf("%s, repair %t: %v", c.name, repair, fault)
				}
			}
		}
		t.Logf("%-12s %-20s %-8s %s", c.name, got, words[0], words[1])
	}
}
