package imap

import (
	"bytes"
	"fmt"

	"mailmux/proxy"
	"mailmux/proxy/wire"
)

// Bounds on what a backend may say before it has accepted or refused a login.
const (
	maxLines = 200
	maxBytes = 64 << 10
	maxKept  = 16   // untagged lines for the client
	maxSkip  = 4096 // bytes of a literal
	maxShown = 120  // bytes of a line in an error
)

// leg is the conversation with a backend before the hand-over. Every word it hears is hostile.
type leg struct {
	c        *wire.Conn
	doing    string    // what is being waited for, in an error's words
	can      abilities // what it says it can do, before the login
	secret   bool      // credentials have been sent: what it says may be their echo, and concerns the login
	owesID   bool      // it has not answered ID yet
	lines    int       // heard so far
	bytes    int
	untagged []string // for the client, should the backend accept
	listed   string   // the capabilities that it told during the login, for the client
	keep     bool     // keep those that it showed before the login
	shown    string
}

// kind is what an answer means.
type kind uint8

const (
	isOK   kind = iota
	isNO        // refused
	isBAD       // not understood
	isMore      // "+"
)

// answer is what a backend answers to a command. The text is valid until the next read.
type answer struct {
	kind kind
	text []byte // behind the word, or behind "+"
}

// greeting reads the first line.
func (l *leg) greeting() error {
	l.doing = "the greeting"
	line, err := l.readLine()
	if err != nil {
		return err
	}
	text, found := cutWord(line, "*")
	if !found {
		return l.nonsense(line)
	}
	if text, found = cutWord(text, "OK"); !found {
		return l.nonsense(line) // BYE, and PREAUTH, which would be somebody else's mailbox
	}
	code, _ := responseCode(text)
	if list, listed := capabilityCode(code); listed {
		l.learn(list)
	}
	return nil
}

// answer reads until the answer to a command, or a "+", and takes notice of the untagged lines before it. The answer to
// ID, which was sent ahead of the login, is passed over: whatever it is, it is no reason not to log in.
func (l *leg) answer(tag string) (answer, error) {
	for {
		line, err := l.readLine()
		if err != nil {
			return answer{}, err
		}
		if text, found := cutWord(line, "*"); found {
			if err := l.notice(text); err != nil {
				return answer{}, err
			}
			continue
		}
		if len(line) > 0 && line[0] == '+' {
			return answer{isMore, bytes.TrimPrefix(line[1:], []byte(" "))}, nil
		}
		if _, found := cutWord(line, tagID); found && l.owesID {
			l.owesID = false
			if tag != tagID {
				continue
			}
		}
		text, found := cutWord(line, tag)
		if !found {
			return answer{}, l.nonsense(line)
		}
		for i, word := range [...]string{isOK: "OK", isNO: "NO", isBAD: "BAD"} {
			if rest, found := cutWord(text, word); found {
				return answer{kind(i), rest}, nil
			}
		}
		return answer{}, l.nonsense(line)
	}
}

// notice takes an untagged line. What comes during the login is kept for the client, except capabilities.
func (l *leg) notice(text []byte) error {
	if rest, found := cutWord(text, "BYE"); found {
		return l.farewell(rest)
	}
	if rest, found := cutWord(text, "OK"); found {
		if code, _ := responseCode(rest); code != nil {
			list, listed := capabilityCode(code)
			if listed {
				l.learn(list)
			}
			if listed || isReferral(code) {
				return nil
			}
		}
	}
	if list, found := cutWord(text, "CAPABILITY"); found {
		l.learn(list)
		return nil
	}
	_, about := cutWord(text, "ID")
	_, _, literal := literalAt(text)
	if !status(text) && (literal || about || !l.secret) {
		return l.skip(text)
	}
	if !l.secret {
		return nil
	}
	if len(l.untagged) == maxKept {
		return fmt.Errorf("%w: it says more and more about %s", proxy.ErrProtocol, l.doing)
	}
	l.untagged = append(l.untagged, clean(text))
	return nil
}

// status says whether an untagged line is a text for people. Braces mean nothing there.
func status(text []byte) bool {
	for _, word := range [...]string{"OK", "NO", "BAD"} {
		if _, found := cutWord(text, word); found {
			return true
		}
	}
	return false
}

// learn takes a list of capabilities: before the login it is about logging in, then it is for the client.
func (l *leg) learn(list []byte) {
	if l.secret {
		l.listed = afterLogin(list)
	} else {
		l.can.read(list)
		if l.keep {
			l.shown = clean(list)
		}
	}
}

// skip reads over the literals of an untagged line.
func (l *leg) skip(text []byte) error {
	for {
		size, _, found := literalAt(text)
		if !found {
			return nil
		}
		if size > maxSkip {
			return fmt.Errorf("%w: a literal of more than %d bytes before the login", proxy.ErrProtocol, maxSkip)
		}
		if _, err := l.c.ReadN(size); err != nil {
			return l.wrap(err)
		}
		l.bytes += size
		var err error
		if text, err = l.readLine(); err != nil {
			return err
		}
	}
}

// readLine reads a line, within the bounds.
func (l *leg) readLine() ([]byte, error) {
	line, err := l.c.ReadLine()
	if err != nil {
		return nil, l.wrap(err)
	}
	l.lines++
	l.bytes += len(line)
	if l.lines > maxLines || l.bytes > maxBytes {
		return nil, fmt.Errorf("%w: it says more and more about %s", proxy.ErrProtocol, l.doing)
	}
	return line, nil
}

func (l *leg) wrap(err error) error { return fmt.Errorf("wait for %s: %w", l.doing, err) }

// nonsense is the error for an answer that makes no sense. It shows it as long as it cannot be an echo of a password.
func (l *leg) nonsense(line []byte) error {
	if l.secret || line == nil {
		return fmt.Errorf("%w: to %s", proxy.ErrProtocol, l.doing)
	}
	return fmt.Errorf("%w: to %s it says %s", proxy.ErrProtocol, l.doing, shown(line))
}

func shown(text []byte) string { return fmt.Sprintf("%q", text[:min(len(text), maxShown)]) }

// verdict is the text of an OK, or the error for a refusal: without a code of its own it is about the credentials
// (RFC 3501 section 6.2.3).
func (l *leg) verdict(a answer) ([]byte, error) {
	switch a.kind {
	case isOK:
		return a.text, nil
	case isNO:
		return nil, l.refusal(a.text)
	}
	return nil, fmt.Errorf("%w: it does not understand %s", proxy.ErrProtocol, l.doing)
}

// refusal sorts a NO by its response code (RFC 5530).
func (l *leg) refusal(text []byte) error {
	code, _ := responseCode(text)
	name, _, _ := bytes.Cut(code, []byte(" "))
	switch {
	case len(name) == 0, is(name, "AUTHENTICATIONFAILED"), is(name, "CAPABILITY"):
		return fmt.Errorf("%w: it says %s", proxy.ErrRejected, shown(text))
	case is(name, "PRIVACYREQUIRED"), is(name, "REFERRAL"): // about our leg, and nothing that the client could act on
		return fmt.Errorf("%w: to %s it says %s", proxy.ErrProtocol, l.doing, shown(text))
	}
	return &proxy.Reply{Text: "NO " + clean(text)}
}

// farewell sorts a BYE in place of an answer. With a code it is a refusal; a member that only goes away, or says that it
// is unavailable, is at fault itself, and another one may do better.
func (l *leg) farewell(text []byte) error {
	code, _ := responseCode(text)
	name, _, _ := bytes.Cut(code, []byte(" "))
	if len(name) == 0 || !l.secret || is(name, "UNAVAILABLE") || is(name, "SERVERBUG") {
		return fmt.Errorf("%w: to %s it says BYE %s", proxy.ErrProtocol, l.doing, shown(text))
	}
	return l.refusal(text)
}

// cutWord takes a word, in any case, and the space behind it off the front of a line.
func cutWord(line []byte, word string) (rest []byte, found bool) {
	n := len(word)
	if len(line) < n || !is(line[:n], word) {
		return line, false
	}
	switch {
	case len(line) == n:
		return nil, true
	case line[n] == ' ':
		return line[n+1:], true
	}
	return line, false
}

// responseCode takes "[code]" off the front of a text. code is nil when there is none.
func responseCode(text []byte) (code, rest []byte) {
	if len(text) == 0 || text[0] != '[' {
		return nil, text
	}
	end := bytes.IndexByte(text, ']')
	if end < 0 {
		return nil, text
	}
	return text[1:end], bytes.TrimPrefix(text[end+1:], []byte(" "))
}

// isReferral says whether a response code leads to another server (RFC 2221). A client that followed it would go past the
// frontend, so it does not get to see it.
func isReferral(code []byte) bool {
	_, found := cutWord(code, "REFERRAL")
	return found
}

// capabilityCode is the list in a response code CAPABILITY.
func capabilityCode(code []byte) (list []byte, found bool) {
	return cutWord(code, "CAPABILITY")
}
