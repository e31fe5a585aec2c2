package smtpwire

import (
	"strings"
)

// Extensions are the lines of an answer to EHLO or LHLO behind the first: a keyword, and its parameters behind a space.
type Extensions []string

// Extensions takes the answer to EHLO or LHLO apart. The first line is the server's name and a greeting, not a keyword. Lines
// that are no keyword by RFC 5321 section 4.1.1.1 are left out, and so are control characters, which a client could be
// shown later.
func (r Reply) Extensions() Extensions {
	_, rest, ok := strings.Cut(r.Text, "\n")
	if !ok {
		return nil
	}
	list := make(Extensions, 0, 1+strings.Count(rest, "\n"))
	for line := range strings.SplitSeq(rest, "\n") {
		line = strings.TrimRight(line, " ")
		if keyword, _ := cutKeyword(line); IsKeyword(keyword) && plain(line) {
			list = append(list, line)
		}
	}
	return list
}

// Find returns the parameters of the extension, and whether it is listed. Keywords are compared without case.
func (e Extensions) Find(keyword string) (parameters string, ok bool) {
	for _, line := range e {
		k, p := cutKeyword(line)
		if strings.EqualFold(k, keyword) {
			return p, true
		}
	}
	return "", false
}

// Mechanisms are the SASL mechanisms that AUTH lists (RFC 4954 section 3), nil without AUTH. The form "AUTH=PLAIN LOGIN"
// of servers older than that is understood.
func (e Extensions) Mechanisms() []string {
	var all []string
	for _, line := range e {
		keyword, parameters := cutKeyword(line)
		if strings.EqualFold(keyword, "AUTH") {
			all = append(all, strings.Fields(parameters)...)
		}
	}
	return all
}

// cutKeyword splits a line at the first space, or "=" for the old form of AUTH.
func cutKeyword(line string) (keyword, parameters string) {
	if i := strings.IndexAny(line, " ="); i >= 0 {
		return line[:i], strings.TrimLeft(line[i+1:], " ")
	}
	return line, ""
}

func IsKeyword(s string) bool {
	for i := range len(s) {
		if c := s[i]; !letterDigit(c) && (i == 0 || c != '-') {
			return false
		}
	}
	return s != ""
}

func letterDigit(c byte) bool {
	return digit(c) || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
