package integration

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mailmux/integration/stage"
	"mailmux/integration/talk"
)

// run runs a client program to its end and returns what it printed.
func run(t testing.TB, input string, argv ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return runWith(ctx, input, argv...)
}

// runFor is run until the end of a context.
func runFor(ctx context.Context, argv ...string) (string, error) { return runWith(ctx, "", argv...) }

func runWith(ctx context.Context, input string, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin = strings.NewReader(input)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, out.String())
	}
	return out.String(), err
}

// Python's own libraries work: imaplib, poplib and smtplib, in the clear, with STARTTLS and with implicit TLS, for an
// ordinary and for an awkward password.
func TestPythonClients(t *testing.T) {
	t.Parallel()
	d := front(t)
	python := needProgram(t, "python3", "python3")
	for _, login := range []string{"ann@example.com", "o'hara@example.com"} {
		a := d.W.Account(login)
		for script, p := range map[string]talk.Protocol{"imap.py": talk.IMAP, "pop3.py": talk.POP3} {
			t.Run(script+"/"+login, func(t *testing.T) {
				out, err := run(t, "", python, "testdata/"+script, d.IP, fmt.Sprint(backendPort(p, talk.Plain)), fmt.Sprint(backendPort(p, talk.Implicit)),
					d.W.CA.File, a.Login, a.Password)
				if err != nil {
					t.Fatal(err)
				}
				inOrder(t, out, "ok plain", "ok starttls", "ok implicit", "ok refused")
			})
		}
	}
	t.Run("submit.py", func(t *testing.T) {
		needPostfix(t, d.W)
		subject := rand.Text()
		for _, login := range []string{"ann@example.com", "pete@example.com"} { // by Dovecot's submission service, and by Postfix
			a := d.W.Account(login)
			out, err := run(t, "", python, "testdata/submit.py", d.IP, fmt.Sprint(stage.PortSubmission), fmt.Sprint(stage.PortSubmissions),
				d.W.CA.File, a.Login, a.Password, "letters@example.com", subject)
			if err != nil {
				t.Fatal(err)
			}
			inOrder(t, out, "ok plain", "ok starttls", "ok implicit", "ok refused")
		}
		for _, what := range []string{"plain", "starttls", "implicit"} {
			waitForMail(t, d.W.Back1, "letters@example.com", subject+" "+what)
		}
	})
}

// curl reads and writes mail by IMAP, POP3 and SMTP, with STARTTLS and with implicit TLS, and verifies our certificate.
func TestCurl(t *testing.T) {
	t.Parallel()
	d := front(t)
	curl := needProgram(t, "curl", "curl")
	base := func(scheme string, port int, tls string) []string {
		argv := []string{curl, "-sS", "--max-time", "30", "--cacert", d.W.CA.File, "--resolve", fmt.Sprintf("mail.example.com:%d:%s", port, d.IP)}
		if tls == "starttls" {
			argv = append(argv, "--ssl-reqd")
		}
		return argv
	}
	url := func(scheme string, port int, path string) string {
		return fmt.Sprintf("%s://mail.example.com:%d%s", scheme, port, path)
	}
	ways := []struct {
		scheme string
		port   int
		tls    string
		path   string
	}{
		{"imap", stage.PortIMAP, "off", "/INBOX;MAILINDEX=1"},
		{"imap", stage.PortIMAP, "starttls", "/INBOX;MAILINDEX=1"},
		{"imaps", stage.PortIMAPS, "implicit", "/INBOX;MAILINDEX=1"},
		{"pop3", stage.PortPOP3, "off", "/1"},
		{"pop3", stage.PortPOP3, "starttls", "/1"},
		{"pop3s", stage.PortPOP3S, "implicit", "/1"},
	}
	for _, w := range ways {
		for _, auth := range []string{"", "AUTH=PLAIN", "AUTH=LOGIN"} {
			t.Run(w.scheme+"/"+w.tls+"/"+auth, func(t *testing.T) {
				argv := append(base(w.scheme, w.port, w.tls), "--user", "bob@example.com:open")
				if auth != "" {
					argv = append(argv, "--login-options", auth)
				}
				out, err := run(t, "", append(argv, url(w.scheme, w.port, w.path))...)
				if err != nil {
					t.Fatal(err)
				}
				if !strings.Contains(out, "Subject: welcome to "+stage.Back2) {
					t.Errorf("the message is not that of back2:\n%s", out)
				}
			})
		}
	}
	for _, w := range []struct {
		scheme string
		port   int
		tls    string
	}{{"smtp", stage.PortSubmission, "off"}, {"smtp", stage.PortSubmission, "starttls"}, {"smtps", stage.PortSubmissions, "implicit"}} {
		t.Run(w.scheme+"/"+w.tls, func(t *testing.T) {
			needPostfix(t, d.W)
			subject := rand.Text()
			argv := append(base(w.scheme, w.port, w.tls), "--user", "ann@example.com:sesame", "--mail-from", "ann@example.com",
				"--mail-rcpt", "letters@example.com", "--upload-file", "-")
			if _, err := run(t, "Subject: "+subject+"\r\n\r\nGood day.\r\n", append(argv, url(w.scheme, w.port, ""))...); err != nil {
				t.Fatal(err)
			}
			waitForMail(t, d.W.Back1, "letters@example.com", subject)
		})
	}
	t.Run("oauth", func(t *testing.T) {
		argv := append(base("imaps", stage.PortIMAPS, "implicit"), "--user", "bob@example.com:", "--oauth2-bearer", stage.TokenOf("bob@example.com"))
		out, err := run(t, "", append(argv, url("imaps", stage.PortIMAPS, "/INBOX;MAILINDEX=1"))...)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out, "Subject: welcome to "+stage.Back2) {
			t.Errorf("the message is not that of back2:\n%s", out)
		}
	})
}

// openssl s_client sees our certificate and, behind the login, the backend.
func TestOpenSSL(t *testing.T) {
	t.Parallel()
	d := front(t)
	openssl := needProgram(t, "openssl", "openssl")
	dialogues := map[talk.Protocol][2]string{
		talk.IMAP:       {"a LOGIN bob@example.com open\r\nb ID NIL\r\nc LOGOUT\r\n", stage.Back2},
		talk.POP3:       {"USER bob@example.com\r\nPASS open\r\nTOP 1 0\r\nQUIT\r\n", "welcome to " + stage.Back2},
		talk.Submission: {"EHLO x\r\nAUTH PLAIN AGJvYkBleGFtcGxlLmNvbQBvcGVu\r\nEHLO x\r\nQUIT\r\n", "250-" + stage.Back2},
		talk.Sieve:      {"AUTHENTICATE \"PLAIN\" \"AGJvYkBleGFtcGxlLmNvbQBvcGVu\"\r\nCAPABILITY\r\nLOGOUT\r\n", `"IMPLEMENTATION" "` + stage.Back2},
	}
	names := map[talk.Protocol]string{talk.IMAP: "imap", talk.POP3: "pop3", talk.Submission: "smtp", talk.Sieve: "sieve"}
	for p, dialogue := range dialogues {
		for _, mode := range []talk.Mode{talk.StartTLS, talk.Implicit} {
			t.Run(string(p)+"/"+string(mode), func(t *testing.T) {
				argv := []string{openssl, "s_client", "-quiet", "-ign_eof", "-verify_return_error", "-CAfile", d.W.CA.File, "-servername", "mail.example.com",
					"-verify_hostname", "mail.example.com", "-connect", d.addr(p, mode)}
				if mode == talk.StartTLS {
					argv = append(argv, "-starttls", names[p])
				}
				out, err := run(t, dialogue[0], argv...)
				if err != nil {
					t.Fatal(err)
				}
				if !strings.Contains(out, dialogue[1]) {
					t.Errorf("%q is missing in:\n%s", dialogue[1], out)
				}
			})
		}
	}
}

// swaks submits by every mechanism that it knows.
func TestSwaks(t *testing.T) {
	t.Parallel()
	d := front(t)
	swaks := needProgram(t, "swaks", "swaks")
	needPostfix(t, d.W)
	for _, mechanism := range []string{"PLAIN", "LOGIN"} {
		for tls, extra := range map[string][]string{"off": nil, "starttls": {"-tls"}, "implicit": {"-tlsc"}} {
			t.Run(mechanism+"/"+tls, func(t *testing.T) {
				port, subject := stage.PortSubmission, rand.Text()
				if tls == "implicit" {
					port = stage.PortSubmissions
				}
				argv := append([]string{swaks, "--server", d.IP, "--port", fmt.Sprint(port), "--auth", mechanism, "--auth-user", "pete@example.com",
					"--auth-password", "post", "--from", "pete@example.com", "--to", "letters@example.com", "--header", "Subject: " + subject, "--body", "Good day."}, extra...)
				out, err := run(t, "", argv...)
				if strings.Contains(out, "requires Net::SSLeay") {
					need(t, &stage.MissingError{Program: "swaks's Net::SSLeay", Package: "libnet-ssleay-perl"})
				}
				if err != nil {
					t.Fatal(err)
				}
				waitForMail(t, d.W.Back1, "letters@example.com", subject)
			})
		}
	}
}

// mbsync copies a mailbox both ways.
func TestMbsync(t *testing.T) {
	t.Parallel()
	d := front(t)
	mbsync := needProgram(t, "mbsync", "isync")
	for tls, port := range map[string]int{"None": stage.PortIMAP, "STARTTLS": stage.PortIMAP, "IMAPS": stage.PortIMAPS} {
		t.Run(tls, func(t *testing.T) {
			dir := t.TempDir()
			config := fmt.Sprintf(`IMAPAccount front
Host %s
Port %d
User carl@example.com
Pass sinbad
SSLType %s
SystemCertificates no
CertificateFile %s
AuthMechs *

IMAPStore far
Account front

MaildirStore near
Path %s/
Inbox %s/INBOX
SubFolders Verbatim

Channel all
Far :far:
Near :near:
Patterns INBOX
Create Near
Sync All
SyncState *
`, d.IP, port, tls, d.W.Front.Cert, dir, dir)
			file := filepath.Join(dir, "mbsyncrc")
			if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := run(t, "", mbsync, "-c", file, "-V", "-a"); err != nil {
				t.Fatal(err)
			}
			if n := grepFiles(t, filepath.Join(dir, "INBOX", "*", "*"), "Subject: welcome to "+stage.Back1); n != 1 {
				t.Errorf("%d copies of the first message came, want 1", n)
			}
			subject := rand.Text()
			note := filepath.Join(dir, "INBOX", "cur", "1.note:2,S")
			if err := os.WriteFile(note, []byte("Subject: "+subject+"\n\nGood day.\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := run(t, "", mbsync, "-c", file, "-V", "-a"); err != nil {
				t.Fatal(err)
			}
			waitForMail(t, d.W.Back1, "carl@example.com", subject)
		})
	}
}

// grepFiles counts the files of a pattern with a text in them.
func grepFiles(t testing.TB, pattern, text string) int {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), text) {
			n++
		}
	}
	return n
}
