package stage

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
)

// Tokens is an OAuth 2 token service: Dovecot asks it who a bearer token belongs to (RFC 7662). The valid token of an
// account is TokenOf(login).
type Tokens struct {
	server *http.Server
	ended  chan error
}

const tokenPrefix = "token-for-"

// TokenOf is the bearer token of an account. It expires when the world ends.
func TokenOf(login string) string { return tokenPrefix + login }

// StartTokens serves at the network's address for the token service.
func StartTokens(n *Network) (*Tokens, error) {
	l, err := net.Listen("tcp", n.Addr(HostTokens, PortTokens))
	if err != nil {
		return nil, fmt.Errorf("start the token service: %w", err)
	}
	t := &Tokens{server: &http.Server{Handler: http.HandlerFunc(introspect)}, ended: make(chan error, 1)}
	go func() { t.ended <- t.server.Serve(l) }()
	return t, nil
}

func introspect(w http.ResponseWriter, r *http.Request) {
	login, known := strings.CutPrefix(r.FormValue("token"), tokenPrefix)
	w.Header().Set("Content-Type", "application/json")
	answer := map[string]any{"active": known}
	if known {
		answer["email"] = login
	}
	_ = json.NewEncoder(w).Encode(answer) // a client that went away needs no answer
}

// Stop ends the service.
func (t *Tokens) Stop() error {
	err := t.server.Close()
	if end := <-t.ended; !errors.Is(end, http.ErrServerClosed) {
		return end
	}
	return err
}
