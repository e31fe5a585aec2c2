package integration

import (
	"testing"

	"mailmux/integration/stage"
	"mailmux/integration/talk"
)

// The stage itself: each Dovecot takes every mechanism on every leg from an ordinary and from an awkward account, so
// that a failure through mailmux is mailmux's.
func TestDovecotTakesEveryMechanism(t *testing.T) {
	t.Parallel()
	w := world(t)
	for _, p := range talk.Protocols() {
		for _, mode := range talk.Modes() {
			if p == talk.Sieve && mode == talk.Implicit {
				continue // see stage.Dovecot
			}
			for _, m := range talk.Mechanisms(p) {
				t.Run(string(p)+"/"+string(mode)+"/"+m, func(t *testing.T) {
					c, err := talk.Dial(p, w.Back1.Addr(backendPort(p, mode)), talk.Options{TLS: mode, Roots: w.CA.Pool, ServerName: stage.Back1})
					if err != nil {
						t.Fatal(err)
					}
					defer c.Close()
					login(t, c, m, w.Account("ann@example.com"), stage.Back1)
				})
			}
		}
	}
}

// So do the Dovecots take awkward names and passwords.
func TestDovecotTakesAwkwardCredentials(t *testing.T) {
	t.Parallel()
	w := world(t)
	for _, a := range awkward(w) {
		t.Run(a.Login, func(t *testing.T) {
			for _, d := range []*stage.Dovecot{w.Back1, w.Back2} {
				for _, m := range []string{talk.Command, "PLAIN-IR", "LOGIN"} {
					c, err := talk.Dial(talk.IMAP, d.Addr(stage.PortIMAP), talk.Options{})
					if err != nil {
						t.Fatal(err)
					}
					defer c.Close()
					login(t, c, m, a, d.HostName)
				}
			}
		})
	}
}

// Postfix takes a message after SASL by Dovecot and brings it to the mailbox by LMTP.
func TestPostfixTakesMail(t *testing.T) {
	t.Parallel()
	w := world(t)
	needPostfix(t, w)
	c, err := talk.Dial(talk.Submission, w.Postfix.Addr(stage.PortSubmission), talk.Options{TLS: talk.StartTLS, Roots: w.CA.Pool, ServerName: stage.PostHost})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	login(t, c, "PLAIN-IR", w.Account("pete@example.com"), stage.PostHost)
	subject := send(t, c, "pete@example.com", "letters@example.com")
	waitForMail(t, w.Back1, "letters@example.com", subject)
}

// backendPort is where a Dovecot listens for a protocol.
func backendPort(p talk.Protocol, mode talk.Mode) int {
	if mode == talk.Implicit {
		return map[talk.Protocol]int{talk.IMAP: stage.PortIMAPS, talk.POP3: stage.PortPOP3S, talk.Submission: stage.PortSubmissions, talk.Sieve: stage.PortSieves}[p]
	}
	return map[talk.Protocol]int{talk.IMAP: stage.PortIMAP, talk.POP3: stage.PortPOP3, talk.Submission: stage.PortSubmission, talk.Sieve: stage.PortSieve}[p]
}
