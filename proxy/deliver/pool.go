package deliver

import (
	"sync"
	"time"

	"mailmux/proxy/backend"
)

// pool keeps connections that wait for the next message, newest first, so that those in excess grow old.
type pool struct {
	mu     sync.Mutex
	idle   map[line][]*leg
	closed bool
}

// line is what connections are alike in.
type line struct {
	member   *backend.Member
	protocol string
}

// take returns a connection, nil without one.
func (p *pool) take(m *backend.Member, protocol string) *leg {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := line{m, protocol}
	for list := p.idle[key]; len(list) > 0; list = p.idle[key] {
		l := list[len(list)-1]
		p.put(key, list[:len(list)-1])
		// What a member has said while nobody asked would be taken for the answer to the next command.
		if l.expiry.Stop() && l.address == m.Address(protocol) && !m.Gone() && l.tcp.Silent() {
			l.reused = true
			return l
		}
		l.close()
	}
	return nil
}

// keep puts a connection back, if there is room.
func (p *pool) keep(l *leg, most int, idle time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := line{l.member, l.protocol}
	if p.closed || len(p.idle[key]) >= most {
		l.close()
		return
	}
	l.renew(time.Now().Add(idle + time.Minute))
	l.expiry = time.AfterFunc(idle, func() { p.expire(key, l) })
	p.put(key, append(p.idle[key], l))
}

// expire closes a connection that nobody wanted.
func (p *pool) expire(key line, l *leg) {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.idle[key]
	for i, other := range list {
		if other == l {
			p.put(key, append(list[:i:i], list[i+1:]...))
			l.close()
			return
		}
	}
}

// put replaces a list. The pool is locked.
func (p *pool) put(key line, list []*leg) {
	if p.idle == nil {
		p.idle = map[line][]*leg{}
	}
	if len(list) == 0 {
		delete(p.idle, key)
		return
	}
	p.idle[key] = list
}

// close closes all of them, and those to come.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, list := range p.idle {
		for _, l := range list {
			l.expiry.Stop()
			l.close()
		}
	}
	p.idle = nil
}
