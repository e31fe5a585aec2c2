//go:build noetcdserver

package claims

import "errors"

// server is what a program has that was built without etcd's server, which is the greater part of a build: none. It can
// do everything but claims.embedded.
type server struct{ url string }

func startServer(string) (*server, error) {
	return nil, errors.New("claims.embedded: this mailmux was built without etcd (-tags noetcdserver); name those of claims.endpoints")
}

func (s *server) close() {}
