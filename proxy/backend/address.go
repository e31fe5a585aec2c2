package backend

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// address is a member's address as written: a literal IP address or a DNS name, and a port or 0.
type address struct {
	ip   netip.Addr // the zero Addr for a name
	name string     // "" for a literal
	port uint16
}

// String is the address without its port.
func (a address) String() string {
	if a.name != "" {
		return a.name
	}
	return a.ip.String()
}

// at is "address:port".
func (a address) at(port uint16) string { return net.JoinHostPort(a.String(), strconv.Itoa(int(port))) }

// parseAddress reads "10.0.0.11", "10.0.0.11:1143", "2001:db8::1", "[2001:db8::1]:143", "store1:143".
func parseAddress(text string) (address, error) {
	host := text
	var port uint16
	ip, err := netip.ParseAddr(text)
	if err != nil {
		if i := strings.LastIndexByte(text, ':'); i >= 0 && !strings.HasSuffix(text, "]") {
			n, err := strconv.ParseUint(text[i+1:], 10, 16)
			if err != nil || n == 0 {
				return address{}, fmt.Errorf("%q: port must be a number from 1 to 65535", text)
			}
			host, port = text[:i], uint16(n)
		}
		if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
			host = host[1 : len(host)-1]
		}
		ip, err = netip.ParseAddr(host)
	}
	if err == nil {
		if ip.IsUnspecified() || ip.IsMulticast() {
			return address{}, fmt.Errorf("%q: is not the address of a server", text)
		}
		return address{ip: ip.Unmap(), port: port}, nil
	}
	if !validDNSName(host) {
		return address{}, fmt.Errorf("%q: is neither an IP address nor a DNS name", text)
	}
	return address{name: strings.TrimSuffix(host, "."), port: port}, nil
}

// validDNSName tells names from mistyped addresses: letters, digits, hyphens and underscores in labels of up to 63, and
// not digits alone in the last one (10.0.0.256 is no name).
func validDNSName(name string) bool {
	name = strings.TrimSuffix(name, ".")
	if name == "" || len(name) > 253 {
		return false
	}
	labels := strings.Split(name, ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 || strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-") {
			return false
		}
		for _, c := range []byte(label) {
			if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
				return false
			}
		}
	}
	_, err := strconv.ParseUint(labels[len(labels)-1], 10, 64)
	return err != nil
}
