package directory

import (
	"strings"
	"testing"
	"time"
)

// A standby that nobody asked yet is asked whether it is there: one that is dead must not be shown as up until the day
// that it is needed.
func TestUnaskedServerIsAsked(t *testing.T) {
	a, err := parseServer("ldap://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	d, err := newDialer(Config{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(a, d, Config{Connections: 1})
	defer s.close()
	s.askIfQuiet(t.Context())
	if err := s.isDown(); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a server that is not there: %v", err)
	}
}
