package mailstore

import (
	"github.com/emersion/go-sasl"
)

// mechanisms are the SASL mechanisms of every service.
func mechanisms() []string { return []string{sasl.Plain, sasl.Login} }

// newSASL makes the server side of a mechanism, or nil for one that is not offered. check is told the authorization
// identity, the user and the password, once.
func newSASL(mechanism string, check func(authzid, user, password string) error) sasl.Server {
	switch mechanism {
	case sasl.Plain:
		return sasl.NewPlainServer(check)
	case sasl.Login:
		return &loginServer{check: check}
	}
	return nil
}

// loginServer is the LOGIN mechanism, which go-sasl has for clients only.
type loginServer struct {
	check func(authzid, user, password string) error
	user  *string
	done  bool
}

// Next implements sasl.Server.
func (s *loginServer) Next(response []byte) (challenge []byte, done bool, err error) {
	switch {
	case s.done:
		return nil, false, sasl.ErrUnexpectedClientResponse
	case s.user == nil && response == nil:
		return []byte("Username:"), false, nil
	case s.user == nil:
		user := string(response)
		s.user = &user
		return []byte("Password:"), false, nil
	}
	s.done = true
	return nil, true, s.check("", *s.user, string(response))
}
