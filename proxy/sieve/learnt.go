package sieve

import (
	"slices"
	"strconv"
	"strings"
)

// extensions are the Sieve extensions that are shown until members were seen: every server of today has them.
const extensions = "fileinto reject envelope vacation"

// showCapabilities writes the listing (RFC 5804 section 1.7) and the OK behind it.
func (s *session) showCapabilities(text string) {
	c := s.Client
	c.Line(`"IMPLEMENTATION" "mailmux"`)
	c.Line(`"SASL" "`, strings.Join(s.Mechanisms(), " "), `"`)
	for _, line := range s.handler.common.Of(s.Learnt(), common) {
		c.Line(line)
	}
	if s.CanStartTLS() {
		c.Line(`"STARTTLS"`)
	}
	if s.ForwardsIdentity() {
		c.Line(`"XCLIENT"`)
	}
	c.Line(`"VERSION" "1.0"`)
	c.Line(`OK "`, text, `"`)
}

// common makes the lines that can be shown when members showed these lists. SIEVE has to be there, whatever they showed.
func common(lists [][]string) []string {
	if len(lists) == 0 {
		return []string{`"SIEVE" "` + extensions + `"`}
	}
	words, _ := commonWords(lists, "SIEVE")
	lines := []string{`"SIEVE" ` + quoteWords(words)}
	for _, name := range []string{"NOTIFY", "EXTLISTS"} {
		if words, ok := commonWords(lists, name); ok {
			lines = append(lines, `"`+name+`" `+quoteWords(words))
		}
	}
	if n, ok := leastNumber(lists, "MAXREDIRECTS"); ok {
		lines = append(lines, `"MAXREDIRECTS" "`+strconv.Itoa(n)+`"`)
	}
	return lines
}

// quoteWords puts as many words into a quoted string as it may hold.
func quoteWords(words []string) string {
	size := 0
	for i, w := range words {
		if size += len(w) + 1; size > maxQuoted {
			words = words[:i]
			break
		}
	}
	return quote(strings.Join(words, " "))
}

// commonWords are the words that the capability has in every list; ok is false when it is missing in one.
func commonWords(lists [][]string, name string) (words []string, ok bool) {
	for i, list := range lists {
		value, ok := valueOf(list, name)
		if !ok {
			return nil, false
		}
		here := strings.Fields(value)
		if i == 0 {
			words = here
			continue
		}
		words = slices.DeleteFunc(words, func(w string) bool { return !slices.Contains(here, w) })
	}
	return words, true
}

// leastNumber is the least value that the capability has in any list; ok is false when it is missing in one.
func leastNumber(lists [][]string, name string) (least int, ok bool) {
	for i, list := range lists {
		value, _ := valueOf(list, name)
		n, err := strconv.ParseUint(value, 10, 31)
		if err != nil {
			return 0, false
		}
		if i == 0 || int(n) < least {
			least = int(n)
		}
	}
	return least, len(lists) > 0
}

// valueOf finds a capability in a list of lines NAME value.
func valueOf(list []string, name string) (value string, ok bool) {
	for _, line := range list {
		if tag, value, _ := strings.Cut(line, " "); strings.EqualFold(tag, name) {
			return value, true
		}
	}
	return "", false
}
