package envelope

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"mailmux/proxy/smtpwire"
)

// Why MAIL and RCPT are not understood. Each has its own reply.
var (
	// ErrSyntax: no path between < and >, or an argument that does not follow its grammar.
	ErrSyntax = errors.New("syntax error in the arguments")
	// ErrParameter: a parameter that was not offered.
	ErrParameter = errors.New("unknown parameter")
	// ErrUTF8: an address beyond ASCII in a transaction without SMTPUTF8 (RFC 6531 section 3.4).
	ErrUTF8 = errors.New("address needs SMTPUTF8")
)

// The longest things (RFC 5321 section 4.5.3.1.3, RFC 3461 sections 4.2 and 4.4).
const (
	maxPath  = 254
	maxEnvID = 100
	maxORcpt = 500
)

// Sender is what MAIL says.
type Sender struct {
	// Address is what stood between < and >, "" for the null sender.
	Address string
	// Size is the size that was announced, 0 without one.
	Size int64
	// EightBit says that BODY=8BITMIME was given.
	EightBit bool
	// UTF8 says that addresses or headers may be beyond ASCII (SMTPUTF8).
	UTF8 bool
	// Return is what a DSN carries back: FULL, HDRS or "".
	Return string
	// EnvID is the sender's own mark of the transaction, decoded.
	EnvID string
}

// Recipient is what RCPT says.
type Recipient struct {
	// Address is what stood between < and >.
	Address string
	// Notify lists when the sender wants a DSN: NEVER, or some of SUCCESS, FAILURE, DELAY. Empty when it did not say.
	Notify []string
	// Original is the address that the message was first sent to, "" when not given; OriginalType is what it is one of: rfc822,
	// utf-8, or a kind that other mail systems have (RFC 3461 section 4.2).
	OriginalType, Original string
}

// Offer says which extensions were offered, and so which parameters may come.
type Offer struct{ DSN, UTF8 bool }

// ParseMail reads the arguments of MAIL. The error is one of ErrSyntax and ErrParameter, or ErrUTF8.
func ParseMail(args []byte, offer Offer) (Sender, error) {
	address, parameters, err := path(args, "FROM:")
	if err != nil {
		return Sender{}, err
	}
	s := Sender{Address: address}
	err = each(parameters, func(name, value string, given bool) error { return s.set(name, value, given, offer) })
	if err != nil {
		return Sender{}, err
	}
	if !s.UTF8 && !ascii(address) {
		return Sender{}, ErrUTF8
	}
	return s, nil
}

func (s *Sender) set(name, value string, given bool, offer Offer) error {
	switch {
	case name == "SIZE" && given:
		n, err := strconv.ParseUint(value, 10, 62)
		s.Size = int64(n)
		return syntax(err == nil && len(value) <= 20)
	case name == "BODY" && given:
		s.EightBit = strings.EqualFold(value, "8BITMIME")
		return syntax(s.EightBit || strings.EqualFold(value, "7BIT"))
	case name == "SMTPUTF8" && offer.UTF8:
		s.UTF8 = true
		return syntax(!given)
	case name == "RET" && given && offer.DSN:
		s.Return = strings.ToUpper(value)
		return syntax(s.Return == "FULL" || s.Return == "HDRS")
	case name == "ENVID" && given && offer.DSN:
		id, err := smtpwire.ParseXtext(value)
		s.EnvID = id
		return syntax(err == nil && id != "" && printable(id) && len(value) <= maxEnvID)
	case name == "AUTH" && given: // RFC 4954 section 5: what an untrusted peer says of a login is dropped
		return nil
	}
	return ErrParameter
}

// ParseRecipient reads the arguments of RCPT. utf8 says whether MAIL asked for SMTPUTF8. The errors are those of
// ParseMail.
func ParseRecipient(args []byte, offer Offer, utf8 bool) (Recipient, error) {
	address, parameters, err := path(args, "TO:")
	if err != nil {
		return Recipient{}, err
	}
	r := Recipient{Address: address}
	err = each(parameters, func(name, value string, given bool) error {
		if !given || !offer.DSN {
			return ErrParameter
		}
		return r.set(name, value)
	})
	switch {
	case err != nil:
		return Recipient{}, err
	case address == "":
		return Recipient{}, ErrSyntax
	case !utf8 && !ascii(address):
		return Recipient{}, ErrUTF8
	}
	return r, nil
}

func (r *Recipient) set(name, value string) error {
	switch name {
	case "NOTIFY":
		r.Notify = strings.Split(strings.ToUpper(value), ",")
		for i, word := range r.Notify {
			switch word {
			case "SUCCESS", "FAILURE", "DELAY":
			case "NEVER":
				if len(r.Notify) > 1 {
					return ErrSyntax
				}
			default:
				return ErrSyntax
			}
			for _, other := range r.Notify[:i] {
				if other == word {
					return ErrSyntax
				}
			}
		}
		return nil
	case "ORCPT":
		kind, encoded, found := strings.Cut(value, ";")
		original, err := smtpwire.ParseXtext(encoded)
		if strings.EqualFold(kind, "utf-8") && err == nil {
			original, err = unescape(original)
		}
		r.OriginalType, r.Original = strings.ToLower(kind), original
		return syntax(found && err == nil && original != "" && len(value) <= maxORcpt && printable(original) && atom(kind))
	}
	return ErrParameter
}

// each calls do with every parameter, its name in upper case. None may come twice: which one holds would be a guess (RFC 3461
// section 4).
func each(parameters string, do func(name, value string, given bool) error) error {
	var seen []string
	for word := range strings.FieldsSeq(parameters) {
		name, value, given := strings.Cut(word, "=")
		name = strings.ToUpper(name)
		if slices.Contains(seen, name) {
			return ErrSyntax
		}
		seen = append(seen, name)
		if err := do(name, value, given); err != nil {
			return err
		}
	}
	return nil
}

func syntax(ok bool) error {
	if ok {
		return nil
	}
	return ErrSyntax
}

// path reads "FROM:<address> parameters". A source route in front of the address is dropped (RFC 5321 appendix C). A
// space behind the colon is not RFC, and common.
func path(args []byte, keyword string) (address, parameters string, err error) {
	if len(args) < len(keyword) || !strings.EqualFold(string(args[:len(keyword)]), keyword) {
		return "", "", ErrSyntax
	}
	rest := strings.TrimLeft(string(args[len(keyword):]), " ")
	if !strings.HasPrefix(rest, "<") || !utf8.ValidString(rest) {
		return "", "", ErrSyntax
	}
	end := closing(rest)
	if end < 0 {
		return "", "", ErrSyntax
	}
	address, parameters = rest[1:end], rest[end+1:]
	if strings.HasPrefix(address, "@") {
		_, address, _ = strings.Cut(address, ":")
		if address == "" || address[0] == '@' {
			return "", "", ErrSyntax
		}
	}
	for i := range len(rest) {
		if c := rest[i]; c < ' ' || c == 0x7f {
			return "", "", ErrSyntax
		}
	}
	if len(address) > maxPath || parameters != "" && parameters[0] != ' ' || !wellQuoted(address) {
		return "", "", ErrSyntax
	}
	return address, parameters, nil
}

// closing is the index of the ">" that ends a path; those inside quotes do not.
func closing(s string) int {
	quoted := false
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			if quoted {
				i++
			}
		case '"':
			quoted = !quoted
		case '>':
			if !quoted {
				return i
			}
		}
	}
	return -1
}

// wellQuoted refuses an address with spaces or brackets outside quotes: they would read as something else behind the next
// server's RCPT TO.
func wellQuoted(address string) bool {
	quoted := false
	for i := 0; i < len(address); i++ {
		switch c := address[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ' ' || c == '<' || c == '>' || c == '\\'):
			return false
		}
	}
	return !quoted
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// unescape decodes what an address beyond ASCII looks like where SMTPUTF8 is not in use: "j\x{FC}rgen" (RFC 6533 section 3).
func unescape(s string) (string, error) {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(s, `\x{`)
		b.WriteString(before)
		if !found {
			return b.String(), nil
		}
		digits, after, closed := strings.Cut(rest, "}")
		n, err := strconv.ParseUint(digits, 16, 21)
		if !closed || err != nil || !utf8.ValidRune(rune(n)) {
			return "", ErrSyntax
		}
		b.WriteRune(rune(n))
		s = after
	}
}

// atom says whether s is an atom of RFC 5322.
func atom(s string) bool {
	return s != "" && ascii(s) && printable(s) && !strings.ContainsAny(s, " ()<>[]:;@\\,.\"")
}

// printable says whether s has no control character. Text beyond ASCII has to be UTF-8.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 0x7f {
			return false
		}
	}
	return utf8.ValidString(s)
}
