package admin

import (
	"net/netip"
	"strings"
	"time"

	"mailmux/proxy"
)

// Session is one session, as who shows it.
type Session struct {
	ID        string    `json:"id"`
	Service   string    `json:"service"`
	Client    string    `json:"client"`
	TLS       string    `json:"tls,omitempty"` // the version, absent in the clear
	Mechanism string    `json:"mechanism,omitempty"`
	Account   string    `json:"account,omitempty"` // normalised; absent before a login
	Login     string    `json:"login,omitempty"`   // the canonical login name
	Host      string    `json:"host,omitempty"`
	Member    string    `json:"member,omitempty"`
	Began     time.Time `json:"began"`
	State     string    `json:"state"` // login or relay
	Up        int64     `json:"bytes_up"`
	Down      int64     `json:"bytes_down"`
}

func sessionOf(i *proxy.Info) Session {
	s := Session{
		ID: i.ID, Service: i.Service, Client: i.Client.String(), TLS: i.TLS, Mechanism: i.Mechanism, Account: i.Account,
		Login: i.Login, Host: i.Host, Member: i.Member, Began: i.Began, State: "login", Up: i.Up, Down: i.Down,
	}
	if i.LoggedIn {
		s.State = "relay"
	}
	return s
}

// Filter chooses sessions. What is empty matches all; what is set has to match, names without regard to case.
type Filter struct {
	ID      string       `json:"id,omitempty"`
	Account string       `json:"account,omitempty"` // normalised, or the canonical login name
	Service string       `json:"service,omitempty"`
	Host    string       `json:"host,omitempty"`
	Member  string       `json:"member,omitempty"` // its name, or host/member
	Client  netip.Prefix `json:"client,omitzero"`
}

// Empty says whether the filter matches every session.
func (f Filter) Empty() bool { return f == Filter{} }

// Match says whether a session is meant.
func (f Filter) Match(i *proxy.Info) bool {
	is := func(want, got string) bool { return want == "" || strings.EqualFold(want, got) }
	return is(f.ID, i.ID) && is(f.Service, i.Service) && is(f.Host, i.Host) &&
		(is(f.Member, i.Member) || is(f.Member, i.Host+"/"+i.Member)) &&
		(is(f.Account, i.Account) || is(f.Account, i.Login)) &&
		(!f.Client.IsValid() || f.Client.Contains(i.Client.Addr().Unmap().WithZone("")))
}

// Sessions lists the sessions that a filter means.
func (f Filter) Sessions(e Engine) []Session {
	infos := e.Who(f.Match)
	list := make([]Session, len(infos))
	for i := range infos {
		list[i] = sessionOf(&infos[i])
	}
	return list
}
