package submission

import (
	"slices"
	"strconv"
	"strings"

	"mailmux/proxy/smtpwire"
	"mailmux/proxy/xclient"
)

// safeOffer is offered until a member has shown its own list. Every server of the last twenty years has them.
var safeOffer = []string{"8BITMIME", "ENHANCEDSTATUSCODES", "PIPELINING"}

// maxOffered is the longest line of a member's list that is offered.
const maxOffered = 200

// ownExtension says whether an extension is the business of one leg and not of the client's conversation with its
// member: those we speak ourselves, and private ones (X…), which two sides have to have agreed upon.
func ownExtension(line string) bool {
	keyword, _, _ := strings.Cut(line, " ")
	keyword, _, _ = strings.Cut(keyword, "=")
	return strings.EqualFold(keyword, "STARTTLS") || strings.EqualFold(keyword, "AUTH") ||
		strings.HasPrefix(keyword, "X") || strings.HasPrefix(keyword, "x")
}

// offerable filters a member's list of extensions, in place, down to what clients may be offered before their login.
func offerable(list smtpwire.Extensions) smtpwire.Extensions {
	return slices.DeleteFunc(list, func(line string) bool {
		return ownExtension(line) || len(line) > maxOffered
	})
}

// showOffer answers EHLO.
func (s *session) showOffer() {
	lines := make([]string, 0, 24)
	for _, line := range s.handler.common.Of(s.Learnt(), common) {
		if line == "REQUIRETLS" && !s.Secure() { // RFC 8689 section 2: only inside TLS
			continue
		}
		lines = append(lines, line)
	}
	if s.CanStartTLS() {
		lines = append(lines, "STARTTLS")
	}
	if mechanisms := s.Mechanisms(); len(mechanisms) > 0 {
		lines = append(lines, "AUTH "+strings.Join(mechanisms, " "))
	}
	if s.ForwardsIdentity() {
		lines = append(lines, xclient.Offer)
	}
	s.Client.Line("250-", s.Hostname())
	for _, line := range lines {
		s.Client.Line("250-", line)
	}
	s.Client.Line("250 HELP")
}

// common is the extensions that are in all lists with the same parameters, and SIZE with the smallest; without lists it is
// safeOffer.
func common(lists [][]string) []string {
	if len(lists) == 0 {
		return safeOffer
	}
	var all []string
	for _, line := range lists[0] {
		keyword, _, _ := strings.Cut(line, " ")
		if ownExtension(line) || len(line) > maxOffered || strings.EqualFold(keyword, "HELP") {
			continue
		}
		if strings.EqualFold(keyword, "SIZE") {
			if line = smallest(lists); line != "" {
				all = append(all, line)
			}
			continue
		}
		if inAll(lists, line) {
			all = append(all, strings.ToUpper(keyword)+line[len(keyword):])
		}
	}
	return all
}

func inAll(lists [][]string, line string) bool {
	for _, list := range lists {
		if !slices.ContainsFunc(list, func(other string) bool { return strings.EqualFold(other, line) }) {
			return false
		}
	}
	return true
}

// smallest is the line SIZE for all lists (RFC 1870 section 3): without a number where no member has a fixed limit, and ""
// when one does not know the extension.
func smallest(lists [][]string) string {
	least := uint64(0) // no fixed limit
	for _, list := range lists {
		parameters, ok := smtpwire.Extensions(list).Find("SIZE")
		if !ok {
			return ""
		}
		size, err := strconv.ParseUint(parameters, 10, 64)
		if err == nil && size > 0 && (least == 0 || size < least) {
			least = size
		}
	}
	if least == 0 {
		return "SIZE"
	}
	return "SIZE " + strconv.FormatUint(least, 10)
}
