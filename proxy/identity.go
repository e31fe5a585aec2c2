package proxy

import (
	"net/netip"
)

// Hops are how many frontends a session may pass: what the time to live starts at (Dovecot's login proxies start there,
// too), and one that has come down to 1 is refused as a loop.
const (
	firstTTL = 7
	lastTTL  = 1
)

// Identity is who a client is, as one hop tells the next: IMAP's ID, XCLIENT in POP3, SMTP, LMTP and ManageSieve.
type Identity struct {
	Client  netip.AddrPort // where the client connects from; invalid if unknown
	Local   netip.AddrPort // where it connected to
	Session string         // the id of its session at the first hop
	TTL     int            // hops left; 0 if the other side did not say
	TLS     bool           // the client's leg is encrypted
	Name    string         // the TLS server name (SNI) the client asked for, "" if none
	Helo    string         // SMTP: what the client called itself
	Login   string         // SMTP: the account
}

// Identity is what the session's backend is to be told. Its TTL is what the next hop gets.
func (s *Session) Identity() Identity {
	id := s.identity
	if id.TTL == 0 {
		id.TTL = firstTTL
	}
	id.TTL--
	return id
}

// Believe takes over what the peer says about its client, if the peer is one that the listener believes (identity_from,
// judged by the TCP peer, PROXY header or not). Others are ignored, silently: their words are not an error (design:
// identity). Only the first word counts, until Forget. It reports whether it was believed.
func (s *Session) Believe(id Identity) bool {
	if s.believed || !networks(s.listener.IdentityFrom).contains(s.peer.Addr()) {
		return false
	}
	s.believed = true
	if id.Client.Addr().IsValid() {
		s.identity.Client = id.Client
	}
	if id.Local.Addr().IsValid() {
		s.identity.Local = id.Local
	}
	if id.Session != "" {
		s.identity.Session = id.Session
	}
	if id.TTL > 0 {
		s.identity.TTL = id.TTL
	}
	if id.Name != "" {
		s.identity.Name = id.Name
	}
	s.identity.TLS = s.identity.TLS || id.TLS
	return true
}

// Forget takes back what was believed: it does not hold any more, or the peer is about to speak of another client, whose
// message comes over the same connection.
func (s *Session) Forget() {
	s.believed, s.identity = false, s.own
	if state := s.tlsState(); state != nil {
		s.identity.TLS, s.identity.Name = true, state.ServerName
	}
}

// looped says whether the session has passed too many frontends.
func (s *Session) looped() bool {
	return s.identity.TTL != 0 && s.identity.TTL <= lastTTL
}

// ForwardsIdentity says whether a peer may state an identity here, so that a greeting can offer it (POP3's [XCLIENT],
// XCLIENT in EHLO and in ManageSieve's capabilities).
func (s *Session) ForwardsIdentity() bool {
	return networks(s.listener.IdentityFrom).contains(s.peer.Addr())
}
