package incoming

import "context"

// xclient keeps what a trusted peer says of its client. The session begins anew.
func (s *Session) xclient(_ context.Context, args []byte) error {
	if !s.ForwardsIdentity() {
		return errUntrusted
	}
	if err := s.claim.Add(string(args)); err != nil {
		return errAttributes
	}
	s.state, s.helo = connected, ""
	s.greet()
	return nil
}

// applyClaim hands the claim to the engine at the first message. It believes the first one.
func (s *Session) applyClaim() {
	if !s.claim.Made() || s.applied {
		return
	}
	s.applied = true
	if id := s.claim.Identity(); s.Believe(id) && id.Helo != "" {
		s.helo = id.Helo
		s.SetHelo(id.Helo)
	}
}
