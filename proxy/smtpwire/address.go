package smtpwire

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// FormatAddress is an address as XCLIENT's ADDR and DESTADDR write it in SMTP: IPv6 behind "IPV6:". It is "" for an
// invalid one.
func FormatAddress(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	switch {
	case !a.IsValid():
		return ""
	case a.Is6():
		return "IPV6:" + a.String()
	}
	return a.String()
}

// Literal is how a client without a name calls itself in EHLO: by its address (RFC 5321 section 4.1.4), or "localhost" on
// a connection that has none.
func Literal(local net.Addr) string {
	if a, ok := local.(*net.TCPAddr); ok {
		return "[" + FormatAddress(a.AddrPort().Addr()) + "]"
	}
	return "localhost"
}

// ParseAddress reads an address with or without the prefix "IPV6:", which LMTP leaves out.
func ParseAddress(s string) (netip.Addr, error) {
	const prefix = "IPV6:"
	if len(s) > len(prefix) && strings.EqualFold(s[:len(prefix)], prefix) {
		s = s[len(prefix):]
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%.60q is no IP address", s)
	}
	return a.Unmap(), nil
}
