package pop3

import (
	"slices"
	"strings"
)

// safe are the capabilities that are shown before the login where every member has them (RFC 2449 section 6). Until
// members were seen, the first ones are: every server of today has them.
var safe = []string{"TOP", "UIDL", "PIPELINING", "UTF8"}

// unseen is how many of safe are shown until members were seen.
const unseen = 3

// own are the capabilities that are ours: the codes in what we say before the login (RFC 2449 section 6.4, RFC 3206).
var own = []string{"RESP-CODES", "AUTH-RESP-CODE"}

// offered are the capabilities to be shown before the login, without STLS, USER and SASL: what every member can do by what
// the members showed so far.
func (s *session) offered() []string { return s.handler.common.Of(s.Learnt(), common) }

// common is what can be offered when members showed these lists.
func common(lists [][]string) []string {
	offered := slices.Clone(own)
	if len(lists) == 0 {
		return append(offered, safe[:unseen]...)
	}
	for _, name := range safe {
		if !slices.ContainsFunc(lists, func(list []string) bool { return !shows(list, name) }) {
			offered = append(offered, name)
		}
	}
	return offered
}

// shows says whether a list has a capability, with or without parameters.
func shows(list []string, name string) bool {
	return slices.ContainsFunc(list, func(line string) bool {
		tag, _, _ := strings.Cut(line, " ")
		return strings.EqualFold(tag, name)
	})
}
