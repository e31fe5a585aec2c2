package deliver

import (
	"net/netip"
	"strconv"

	"mailmux/proxy"
	"mailmux/proxy/smtpwire"
)

// lmtpTTL is where the time to live of LMTP begins (Dovecot's lmtp-proxy.h).
const lmtpTTL = 5

// introduction is the XCLIENT commands that tell a member who the client is. Dovecot's LMTP wants IPv6 addresses without the
// prefix that SMTP has.
func introduction(advertised, protocol string, id proxy.Identity) []string {
	format, proto := smtpwire.FormatAddress, "ESMTP"
	if protocol == "lmtp" {
		format, proto = plainAddress, "LMTP"
		id.TTL = min(id.TTL, lmtpTTL)
	}
	transport := "insecure"
	if id.TLS {
		transport = "TLS"
	}
	name := ""
	if id.Client.Addr().IsValid() {
		name = smtpwire.Unavailable // else Postfix would log our own name beside the client's address
	}
	return smtpwire.XClient(advertised, []smtpwire.Attribute{
		{Name: "HELO", Value: id.Helo},
		{Name: "PROTO", Value: proto},
		{Name: "TTL", Value: strconv.Itoa(id.TTL)},
		{Name: "PORT", Value: port(id.Client)},
		{Name: "ADDR", Value: format(id.Client.Addr())},
		{Name: "NAME", Value: name},
		{Name: "DESTPORT", Value: port(id.Local)},
		{Name: "DESTADDR", Value: format(id.Local.Addr())},
		{Name: "SESSION", Value: id.Session},
		{Name: "CLIENT-TRANSPORT", Value: transport},
		{Name: "DESTNAME", Value: id.Name},
	})
}

func plainAddress(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.Unmap().WithZone("").String()
}

func port(a netip.AddrPort) string {
	if !a.Addr().IsValid() || a.Port() == 0 {
		return ""
	}
	return strconv.Itoa(int(a.Port()))
}
