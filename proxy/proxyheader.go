package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"

	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"

	"mailmux/proxy/splice"
)

// errProxyHeader ends a session whose peer is listed in proxy_protocol and sends no header, or a bad one.
var errProxyHeader = errors.New("no valid PROXY header from a peer listed in proxy_protocol")

// readProxyHeader takes the PROXY header from a listed peer (HAProxy's proxy-protocol.txt, version 1 and 2). It is
// required from those, and is garbage from all others.
func (s *Session) readProxyHeader() error {
	if !networks(s.listener.ProxyProtocol).contains(s.peer.Addr()) {
		return nil
	}
	r := bufio.NewReaderSize(s.nc, 4096) // the longest header that we take
	awaitLine(r)
	header, err := proxyproto.Read(r)
	if err != nil {
		return fmt.Errorf("%w: %w", errProxyHeader, err)
	}
	s.unread(r)
	if header.Command.IsLocal() {
		return nil // the balancer's own health check
	}
	if src := addrPort(header.SourceAddr); src.IsValid() {
		s.identity.Client = src
	}
	if dst := addrPort(header.DestinationAddr); dst.IsValid() {
		s.local = dst
	}
	tlvs, err := header.TLVs()
	if err != nil {
		return fmt.Errorf("%w: %w", errProxyHeader, err)
	}
	if ssl, ok := tlvparse.FindSSL(tlvs); ok && ssl.ClientSSL() {
		s.proxyTLS = true
		s.identity.TLS = true
		s.record.tls = "proxy"
		if version, ok := ssl.SSLVersion(); ok {
			s.record.tls = "proxy " + clean(version)
		}
		if cn, ok := ssl.ClientCN(); ok && ssl.Verified() && ssl.ClientCertConn() {
			s.certUser = cn
		}
	}
	for _, t := range tlvs {
		if t.Type == proxyproto.PP2_TYPE_AUTHORITY {
			s.identity.Name = clean(string(t.Value))
		}
	}
	return nil
}

// maxProxyLine is the longest header of version 1, with its line end.
const maxProxyLine = 107

// awaitLine waits until a header of version 1 has come in full: proxyproto takes it in one piece only, and the protocol's
// advice is to be tolerant of several. Whatever is wrong with it shows again when it is read.
func awaitLine(r *bufio.Reader) {
	const first = "PROXY"
	for n := 1; n <= maxProxyLine; n = r.Buffered() + 1 {
		if _, err := r.Peek(n); err != nil {
			return
		}
		head, _ := r.Peek(r.Buffered())
		begins := min(len(head), len(first))
		if string(head[:begins]) != first[:begins] || bytes.IndexByte(head, '\n') >= 0 {
			return
		}
	}
}

// unread gives back what was read behind the header: the client's first bytes.
func (s *Session) unread(r *bufio.Reader) {
	rest, _ := r.Peek(r.Buffered())
	if len(rest) == 0 {
		return
	}
	rest = bytes.Clone(rest)
	if sock, ok := s.nc.(*splice.Sock); ok {
		sock.Unread(rest)
		return
	}
	s.nc = &prefixed{s.nc, rest}
}

// prefixed is a connection in tests, with bytes put back.
type prefixed struct {
	net.Conn
	ahead []byte
}

func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.ahead) > 0 {
		n := copy(b, p.ahead)
		p.ahead = p.ahead[n:]
		return n, nil
	}
	return p.Conn.Read(b)
}

// clean keeps a hostile string short and printable.
func clean(s string) string {
	b := []byte(s[:min(len(s), 255)])
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	return string(b)
}
