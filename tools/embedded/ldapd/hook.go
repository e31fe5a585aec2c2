package ldapd

import (
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"
)

// Op names what a client asks for.
type Op string

// The operations a Hook sees. OpConnect is a new connection before its first request.
const (
	OpConnect  Op = "connect"
	OpBind     Op = "bind"
	OpSearch   Op = "search"
	OpAdd      Op = "add"
	OpDelete   Op = "delete"
	OpModify   Op = "modify"
	OpCompare  Op = "compare"
	OpStartTLS Op = "starttls"
	OpTxnStart Op = "txnstart"
	OpTxnEnd   Op = "txnend"
	OpOther    Op = "other"
)

// Request is what a Hook is told.
type Request struct {
	Op   Op
	DN   string // of the bind, the search base, or the entry; as the client wrote it
	Conn int64  // number of the connection, from 1
}

// Fault is what a Hook wants done to a request. The zero value serves it as usual.
type Fault struct {
	// Delay holds the request back. Other requests of the connection overtake it.
	Delay time.Duration
	// Code, unless Success, is answered instead of doing the work.
	Code Code
	// Text goes with Code.
	Text string
	// Drop closes the connection instead of doing the work.
	Drop bool
	// Lose does the work and closes the connection instead of answering.
	Lose bool
}

// Hook decides about each request. It is called from many goroutines at once and must not call the Server's Close.
type Hook func(Request) Fault

// SetHook puts a hook in place, or with nil takes it away. Requests under way keep the decision made for them.
func (s *Server) SetHook(h Hook) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = h
}

// decide counts a request and asks the hook about it.
func (s *Server) decide(r Request) Fault {
	s.mu.Lock()
	s.counts[r.Op]++
	hook := s.hook
	s.mu.Unlock()
	if hook == nil {
		return Fault{}
	}
	return hook(r)
}

// Count is how many requests of a kind came since the server was made; OpConnect counts connections.
func (s *Server) Count(op Op) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[op]
}

// describe makes of a message what a hook is told.
func (c *conn) describe(m *message) Request {
	r := Request{Op: OpOther, Conn: c.number}
	switch m.op.Tag {
	case tagBindRequest:
		r.Op, r.DN = OpBind, text(child(m.op, 1))
	case tagSearchRequest:
		r.Op, r.DN = OpSearch, text(child(m.op, 0))
	case tagAddRequest:
		r.Op, r.DN = OpAdd, text(child(m.op, 0))
	case tagModifyRequest:
		r.Op, r.DN = OpModify, text(child(m.op, 0))
	case tagCompareRequest:
		r.Op, r.DN = OpCompare, text(child(m.op, 0))
	case tagDelRequest:
		r.Op, r.DN = OpDelete, text(m.op)
	case tagExtRequest:
		r.Op = extendedOp(m.op)
	}
	return r
}

// extendedOp names an extended operation.
func extendedOp(p *ber.Packet) Op {
	switch name, _ := parseExtended(p); name {
	case oidStartTLS:
		return OpStartTLS
	case oidTxnStart:
		return OpTxnStart
	case oidTxnEnd:
		return OpTxnEnd
	}
	return OpOther
}
