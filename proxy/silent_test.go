package proxy

import (
	"net"
	"testing"
	"time"

	"mailmux/proxy/backend"
)

// A member that accepts and says nothing costs a login the greeting timeout, and not its whole time, where the host has
// another member. After three of them nobody waits any more.
func TestSilentMemberIsLeftForAnother(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.3:0") // the kernel accepts, and nobody speaks
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	const patience = 300 * time.Millisecond
	east := backend.HostConfig{
		Members: []backend.MemberConfig{{Name: "silent", Address: silent.Addr().String()}, {Name: "well", Address: toyBackend(t, "127.0.0.2"), Priority: 1}},
		Sticky:  "none",
	}
	east.GreetingTimeout = patience
	east.Breaker.Hold = time.Minute
	east.Breaker.MaxHold = time.Minute
	table, err := backend.New(backend.Config{Hosts: map[string]backend.HostConfig{"east": east}}, backend.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	s := newSite(t, nil)
	parts := Parts{Config: s.state.Load().Config, Directory: s.dir, Hosts: table, Handlers: map[string]Handler{"imap": toy{}}}
	if err := s.Reload(parts); err != nil {
		t.Fatal(err)
	}
	s.addr = s.Addrs()["imap"][0].String() // the port was any that is free, and is another one now
	s.dir.mu.Lock()
	s.dir.hosts["ann"] = "east"
	s.dir.mu.Unlock()
	for n := range 5 {
		began := time.Now()
		c := s.dial(t)
		c.want("HELLO")
		c.login("ann", "right", "OK")
		c.want("at 127.0.0.2")
		took := time.Since(began)
		if n < 3 && (took < patience || took > 3*time.Second) {
			t.Errorf("login %d took %s, want a little more than %s", n, took, patience)
		}
		if n >= 3 && took >= patience {
			t.Errorf("login %d took %s: it waits for a member that is known to be silent", n, took)
		}
	}
}
