package stage

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
)

// The servers start, answer in their own words, and are gone afterwards.
func TestWorld(t *testing.T) {
	w, err := NewWorld()
	if missing := new(MissingError); errors.As(err, &missing) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	out, err := w.Slapd.Search(context.Background(), "(uid=ann@example.com)", "hostServer")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "hostServer: back1.example.com") {
		t.Errorf("slapd does not know ann's home host:\n%s", out)
	}
	addr := w.Back2.Addr(PortIMAP)
	line, err := Greeting(context.Background(), addr)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(line, Back2) {
		t.Errorf("back2 greets with %q", line)
	}
	addrs := []string{addr, w.Slapd.Addr, w.Back1.Addr(PortPOP3), w.Net.Addr(HostPostfix, PortSMTP), w.Net.Addr(HostTokens, PortTokens)}
	w.Close()
	for _, addr := range addrs {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			t.Errorf("somebody still listens at %s after Close", addr)
		}
	}
}
