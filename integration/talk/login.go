package talk

import (
	"encoding/base64"
	"fmt"
	"strings"
)

// Command is the name by which Login knows the protocol's own login command: LOGIN in IMAP, USER and PASS in POP3.
const Command = "command"

// Mechanisms returns what Login knows for a protocol: its own command, where it has one, and the SASL mechanisms. With
// "-IR" behind a name the first response goes out with the command.
func Mechanisms(p Protocol) []string {
	m := []string{"PLAIN", "PLAIN-IR", "LOGIN", "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-256-IR", "OAUTHBEARER-IR", "XOAUTH2-IR", "XOAUTH2"}
	if p == IMAP || p == POP3 {
		return append([]string{Command}, m...)
	}
	return m
}

// Login logs in. secret is a password, or a bearer token for OAUTHBEARER and XOAUTH2.
func (c *Conn) Login(mechanism, user, secret string) (Reply, error) {
	if mechanism == Command {
		return c.loginCommand(user, secret)
	}
	name, initial := strings.CutSuffix(mechanism, "-IR")
	m, err := newMechanism(name, user, secret)
	if err != nil {
		return Reply{}, err
	}
	return c.Authenticate(name, m, initial)
}

func (c *Conn) loginCommand(user, password string) (Reply, error) {
	switch c.Proto {
	case IMAP:
		return c.Command("LOGIN " + quote(user) + " " + quote(password))
	case POP3:
		r, err := c.Command("USER " + user)
		if err != nil || !r.OK {
			return r, err
		}
		return c.Command("PASS " + password)
	}
	return Reply{}, fmt.Errorf("%s has no login command", c.Proto)
}

// quote writes an IMAP quoted string. What cannot stand in one becomes a non-synchronising literal (RFC 7888).
func quote(s string) string {
	for i := range len(s) {
		if s[i] >= 0x80 || s[i] == '\r' || s[i] == '\n' || s[i] == 0 {
			return fmt.Sprintf("{%d+}\r\n%s", len(s), s)
		}
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// Authenticate runs a SASL exchange. Mechanism is the client's part of it.
func (c *Conn) Authenticate(name string, m Mechanism, initial bool) (Reply, error) {
	verb := map[Protocol]string{IMAP: "AUTHENTICATE ", POP3: "AUTH ", Submission: "AUTH ", Sieve: "AUTHENTICATE "}[c.Proto]
	line := verb + name
	if c.Proto == Sieve {
		line = verb + `"` + name + `"`
	}
	if initial {
		ir := base64.StdEncoding.EncodeToString(m.Start())
		switch {
		case c.Proto == Sieve:
			line += ` "` + ir + `"`
		case ir == "":
			line += " ="
		default:
			line += " " + ir
		}
	}
	if c.Proto == IMAP {
		c.tag++
		line = fmt.Sprintf("t%d %s", c.tag, line)
	}
	if err := c.Send(line + "\r\n"); err != nil {
		return Reply{}, err
	}
	return c.exchange(m, initial)
}

func (c *Conn) exchange(m Mechanism, started bool) (Reply, error) {
	for {
		challenge, r, err := c.challenge()
		if err != nil || challenge == nil {
			return r, err
		}
		var answer []byte
		if !started && len(challenge) == 0 {
			answer = m.Start()
		} else if answer, err = m.Next(challenge); err != nil {
			return r, err
		}
		started = true
		text := base64.StdEncoding.EncodeToString(answer)
		if c.Proto == Sieve {
			text = `"` + text + `"`
		}
		if err := c.Send(text + "\r\n"); err != nil {
			return r, err
		}
	}
}

// challenge reads one challenge, not nil, or the end of the exchange.
func (c *Conn) challenge() ([]byte, Reply, error) {
	var r Reply
	tag := fmt.Sprintf("t%d ", c.tag)
	for {
		line, err := c.imapLine()
		if err != nil {
			return nil, r, err
		}
		text, isChallenge := "", false
		switch c.Proto {
		case IMAP:
			if rest, ok := strings.CutPrefix(line, tag); ok {
				return nil, Reply{OK: strings.HasPrefix(rest, "OK"), Final: rest, Lines: r.Lines}, nil
			}
			text, isChallenge = strings.CutPrefix(line, "+")
		case POP3:
			if text, isChallenge = strings.CutPrefix(line, "+ "); !isChallenge && line != "+" {
				return nil, Reply{OK: strings.HasPrefix(line, "+OK"), Final: line}, nil
			}
			isChallenge = true
		case Submission:
			if text, isChallenge = strings.CutPrefix(line, "334"); !isChallenge {
				if len(line) > 3 && line[3] == '-' {
					r.Lines = append(r.Lines, line)
					continue
				}
				return nil, Reply{OK: strings.HasPrefix(line, "235"), Final: line, Lines: r.Lines}, nil
			}
		case Sieve:
			if word, _, _ := strings.Cut(line, " "); word == "OK" || word == "NO" || word == "BYE" {
				return nil, Reply{OK: word == "OK", Final: line, Lines: r.Lines}, nil
			}
			if _, literal, ok := strings.Cut(line, "}\r\n"); ok {
				text, isChallenge = literal, true
			} else if strings.HasPrefix(line, `"`) {
				text, isChallenge = strings.Trim(line, `"`), true
			}
		}
		if !isChallenge {
			r.Lines = append(r.Lines, line)
			continue
		}
		b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
		if err != nil {
			return nil, r, fmt.Errorf("challenge %q is not base64: %w", line, err)
		}
		if b == nil {
			b = []byte{}
		}
		return b, r, nil
	}
}
