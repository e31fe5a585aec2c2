package deliver

import (
	"fmt"
	"strings"

	"github.com/emersion/go-sasl"
)

// login is how this frontend logs in to a smarthost.
type login struct{ user, password string }

// authenticate logs in, once for each connection.
func (l *leg) authenticate(as *login) error {
	if as == nil || l.loggedIn {
		return nil
	}
	_, words := l.client.Extension("AUTH")
	var client sasl.Client
	switch {
	case hasWord(words, sasl.Plain):
		client = sasl.NewPlainClient("", as.user, as.password)
	case hasWord(words, sasl.Login):
		client = sasl.NewLoginClient(as.user, as.password)
	default:
		return fmt.Errorf("log in: the smarthost offers neither AUTH PLAIN nor LOGIN, but %q", words)
	}
	if err := l.client.Auth(client); err != nil {
		return fmt.Errorf("log in as %s: %w", as.user, err)
	}
	l.loggedIn = true
	return nil
}

func hasWord(words, word string) bool {
	for _, w := range strings.Fields(words) {
		if strings.EqualFold(w, word) {
			return true
		}
	}
	return false
}
