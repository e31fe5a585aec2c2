package submission

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"mailmux/proxy/backend"
)

// answers plays a member: it says the first answer at once, and each following one to a command. It returns the commands.
func answers(t *testing.T, c net.Conn, script ...string) <-chan []string {
	heard := make(chan []string, 1)
	go func() {
		defer c.Close()
		var commands []string
		r := bufio.NewReader(c)
		for i, answer := range script {
			if i > 0 {
				line, err := r.ReadString('\n')
				if err != nil {
					break
				}
				commands = append(commands, strings.TrimRight(line, "\r\n"))
			}
			if _, err := io.WriteString(c, answer); err != nil {
				break
			}
		}
		heard <- commands
	}()
	return heard
}

func probe(t *testing.T, p backend.Probe, script ...string) (capabilities, commands []string, err error) {
	t.Helper()
	c, member := net.Pipe()
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	heard := answers(t, member, script...)
	capabilities, err = Prober{}.Probe(context.Background(), c, p)
	c.Close()
	return capabilities, <-heard, err
}

func TestProbe(t *testing.T) {
	const ehlo = "250-store\r\n250-SIZE 5\r\n250-STARTTLS\r\n250-AUTH PLAIN\r\n250 DSN\r\n"
	got, commands, err := probe(t, backend.Probe{}, "220-store\r\n220 ready\r\n", ehlo, "221 bye\r\n")
	if err != nil || !slices.Equal(got, []string{"SIZE 5", "DSN"}) || !slices.Equal(commands, []string{"EHLO localhost", "QUIT"}) {
		t.Errorf("%q %q %v", got, commands, err)
	}
	got, commands, err = probe(t, backend.Probe{User: "ann", Password: "sesame"}, "220 ready\r\n", ehlo, "235 2.7.0 ok\r\n", "221 bye\r\n")
	if err != nil || got == nil || !slices.Equal(commands, []string{"EHLO localhost", "AUTH PLAIN AGFubgBzZXNhbWU=", "QUIT"}) {
		t.Errorf("login: %q %q %v", got, commands, err)
	}
}

func TestProbeFindsFaults(t *testing.T) {
	for name, tt := range map[string]struct {
		p      backend.Probe
		script []string
		want   string
	}{
		"another protocol": {script: []string{"* OK IMAP4rev1\r\n"}, want: "not an SMTP reply"},
		"busy":             {script: []string{"421 4.3.2 too many\r\n"}, want: "421 4.3.2 too many"},
		"no EHLO":          {script: []string{"220 ok\r\n", "502 what\r\n"}, want: "502 what"},
		"endless":          {script: []string{"220 ok\r\n", strings.Repeat("250-x\r\n", 300)}, want: "does not end"},
		"cut off":          {script: []string{"220 ok\r\n", "250-x\r\n25"}, want: "EOF"},
		"long line":        {script: []string{"220 " + strings.Repeat("x", 9000)}, want: "line too long"},
		"no STARTTLS":      {p: backend.Probe{Mode: backend.StartTLS}, script: []string{"220 ok\r\n", "250 x\r\n"}, want: "does not offer STARTTLS"},
		"STARTTLS refused": {p: backend.Probe{Mode: backend.StartTLS}, script: []string{"220 ok\r\n", "250-x\r\n250 STARTTLS\r\n", "454 no\r\n"}, want: "454 no"},
		"injected":         {p: backend.Probe{Mode: backend.StartTLS, TLS: &tls.Config{}}, script: []string{"220 ok\r\n", "250-x\r\n250 STARTTLS\r\n", "220 go\r\n250 x\r\n"}, want: "in the clear"},
		"login refused":    {p: backend.Probe{User: "ann", Password: "x"}, script: []string{"220 ok\r\n", "250-x\r\n250 AUTH PLAIN\r\n", "535 5.7.8 no\r\n"}, want: "535 5.7.8 no"},
	} {
		_, _, err := probe(t, tt.p, tt.script...)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzMember: a hostile member's greeting and answers end as capabilities that are fit to be shown, or as an error.
func FuzzMember(f *testing.F) {
	f.Add("220 ok\r\n250-x\r\n250 SIZE 5\r\n221 bye\r\n")
	f.Add("220-\x00\r\n220 ok\r\n250-x\r\n250-AUTH=PLAIN\r\n250 \xff\r\n")
	f.Fuzz(func(t *testing.T, words string) {
		c, member := net.Pipe()
		defer c.Close()
		done := make(chan struct{})
		go func() {
			defer close(done)
			go io.Copy(io.Discard, member)
			io.WriteString(member, words)
			member.Close()
		}()
		list, err := Prober{}.Probe(context.Background(), c, backend.Probe{})
		c.Close()
		<-done
		for _, line := range list {
			if err != nil || len(line) > maxOffered || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Errorf("capability %q, %v", line, err)
			}
		}
	})
}
