package incoming

import (
	"context"

	"mailmux/proxy/xclient"
)

// xclient keeps what a trusted peer says of its client. The session begins anew. A frontend in front keeps its connections for
// the messages of others: behind a message another client is meant, and nothing of the last one holds.
func (s *Session) xclient(_ context.Context, args []byte) error {
	if !s.ForwardsIdentity() {
		return errUntrusted
	}
	claim := s.claim
	if s.applied {
		claim = xclient.Claim{}
	}
	if err := claim.Add(string(args)); err != nil {
		return errAttributes
	}
	if s.applied {
		s.Forget()
		s.applied = false
	}
	s.claim = claim
	s.state, s.helo = connected, ""
	s.greet()
	return nil
}

// applyClaim hands the claim to the engine at the first message behind it.
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
