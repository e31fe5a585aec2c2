package backend

import (
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/pires/go-proxyproto"
)

// The parts of the TLS TLV in a PROXY header v2 (proxy-protocol.txt section 2.2.6).
const (
	clientSSL      = 0x01
	clientCertConn = 0x02
	clientCertSess = 0x04

	notVerified = 1
)

// headerTimeout bounds the write of a PROXY header. It fits into the buffer of a fresh socket, so it never waits.
const headerTimeout = 5 * time.Second

// writeHeader writes the PROXY header that the member expects, none if it expects none.
func writeHeader(conn net.Conn, e *effective, d DialInfo) error {
	if e.proxy == 0 {
		return nil
	}
	header, err := proxyHeader(e.proxy, d)
	if err != nil {
		return fmt.Errorf("PROXY header: %w", err)
	}
	if err := conn.SetWriteDeadline(time.Now().Add(headerTimeout)); err != nil {
		return err
	}
	if _, err := conn.Write(header); err != nil {
		return fmt.Errorf("PROXY header: %w", err)
	}
	return conn.SetWriteDeadline(time.Time{})
}

// proxyHeader is the header of the client's connection, or of one of our own (LOCAL; UNKNOWN in v1) if there is no
// client.
func proxyHeader(version byte, d DialInfo) ([]byte, error) {
	if !d.Client.IsValid() || !d.Local.IsValid() {
		if version == 1 {
			return []byte("PROXY UNKNOWN\r\n"), nil
		}
		return (&proxyproto.Header{Version: 2, Command: proxyproto.LOCAL, TransportProtocol: proxyproto.UNSPEC}).Format()
	}
	h := proxyproto.HeaderProxyFromAddrs(version, tcpAddr(d.Client), tcpAddr(d.Local))
	if version == 2 {
		if err := h.SetTLVs(tlvs(d)); err != nil {
			return nil, err
		}
	}
	return h.Format()
}

func tcpAddr(a netip.AddrPort) net.Addr {
	return &net.TCPAddr{IP: a.Addr().Unmap().WithZone("").AsSlice(), Port: int(a.Port())}
}

// tlvs tells of the client's TLS and of the session.
func tlvs(d DialInfo) []proxyproto.TLV {
	var out []proxyproto.TLV
	if d.TLS != nil && d.TLS.NegotiatedProtocol != "" {
		out = append(out, proxyproto.TLV{Type: proxyproto.PP2_TYPE_ALPN, Value: []byte(d.TLS.NegotiatedProtocol)})
	}
	if d.ServerName != "" && len(d.ServerName) < 256 {
		out = append(out, proxyproto.TLV{Type: proxyproto.PP2_TYPE_AUTHORITY, Value: []byte(d.ServerName)})
	}
	const longest = 128 // of a unique id, by the specification
	if d.SessionID != "" && len(d.SessionID) <= longest {
		out = append(out, proxyproto.TLV{Type: proxyproto.PP2_TYPE_UNIQUE_ID, Value: []byte(d.SessionID)})
	}
	switch {
	case d.TLS != nil:
		out = append(out, proxyproto.TLV{Type: proxyproto.PP2_TYPE_SSL, Value: sslValue(d.TLS)})
	case d.Secured: // that is all that is known
		out = append(out, proxyproto.TLV{Type: proxyproto.PP2_TYPE_SSL, Value: binary.BigEndian.AppendUint32([]byte{clientSSL}, notVerified)})
	}
	return out
}

// sslValue is the value of the TLS TLV: what the client did, whether its certificate was verified, then TLVs of its own.
func sslValue(state *tls.ConnectionState) []byte {
	client, verify := byte(clientSSL), uint32(notVerified)
	if len(state.PeerCertificates) > 0 {
		client |= clientCertSess
		if !state.DidResume {
			client |= clientCertConn
		}
	}
	if len(state.VerifiedChains) > 0 {
		verify = 0
	}
	out := binary.BigEndian.AppendUint32([]byte{client}, verify)
	sub := func(kind proxyproto.PP2Type, value string) {
		out = append(out, byte(kind))
		out = binary.BigEndian.AppendUint16(out, uint16(len(value)))
		out = append(out, value...)
	}
	sub(proxyproto.PP2_SUBTYPE_SSL_VERSION, versionName(state.Version))
	sub(proxyproto.PP2_SUBTYPE_SSL_CIPHER, tls.CipherSuiteName(state.CipherSuite))
	if len(state.PeerCertificates) > 0 {
		const longest = 256
		if name := state.PeerCertificates[0].Subject.CommonName; name != "" && len(name) <= longest {
			sub(proxyproto.PP2_SUBTYPE_SSL_CN, name)
		}
	}
	return out
}

// versionName is the version in the words that HAProxy uses.
func versionName(version uint16) string {
	switch version {
	case tls.VersionTLS12:
		return "TLSv1.2"
	case tls.VersionTLS13:
		return "TLSv1.3"
	}
	return tls.VersionName(version)
}
