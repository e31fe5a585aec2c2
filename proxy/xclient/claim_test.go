package xclient

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"mailmux/proxy"
)

func TestIntroduction(t *testing.T) {
	id := proxy.Identity{
		Client:  netip.MustParseAddrPort("[2001:db8::5]:51234"),
		Local:   netip.MustParseAddrPort("192.0.2.10:587"),
		Session: "abc", TTL: 6, TLS: true, Name: "mail.example.com", Helo: "pc.example.net", Login: "ann@example.com",
	}
	const all = "NAME ADDR PORT PROTO HELO LOGIN SESSION TTL CLIENT-TRANSPORT DESTADDR DESTPORT DESTNAME"
	got := Introduction(all, false, id)
	want := []string{"XCLIENT HELO=pc.example.net PROTO=ESMTP TTL=6 PORT=51234 ADDR=IPV6:2001:db8::5 NAME=[UNAVAILABLE] " +
		"DESTPORT=587 DESTADDR=192.0.2.10 SESSION=abc CLIENT-TRANSPORT=TLS DESTNAME=mail.example.com"}
	if !slices.Equal(got, want) {
		t.Errorf("%q\nwant %q", got, want)
	}
	if got := Introduction("LOGIN FORWARD", false, id); got != nil {
		t.Errorf("LOGIN is a login for Postfix: %q", got)
	}
	if got := Introduction(all, false, proxy.Identity{TTL: 3, Helo: "a\r\nMAIL"}); !slices.Equal(got, []string{"XCLIENT PROTO=ESMTP TTL=3 CLIENT-TRANSPORT=insecure"}) {
		t.Errorf("nothing known: %q", got)
	}
	id.Local = netip.MustParseAddrPort("[2001:db8::10]:24")
	got = Introduction(all, true, id)
	want = []string{"XCLIENT HELO=pc.example.net PROTO=LMTP TTL=5 PORT=51234 ADDR=2001:db8::5 NAME=[UNAVAILABLE] " +
		"DESTPORT=24 DESTADDR=2001:db8::10 SESSION=abc CLIENT-TRANSPORT=TLS DESTNAME=mail.example.com"}
	if !slices.Equal(got, want) {
		t.Errorf("LMTP: %q\nwant %q", got, want)
	}
	id.Helo, id.Name = strings.Repeat("h", 255), strings.Repeat("n", 255)
	got = Introduction(all, false, id)
	if len(got) != 2 || len(got[0]) > 510 || !strings.HasSuffix(got[1], " DESTNAME="+id.Name) {
		t.Errorf("long names: %q", got)
	}
}

// FuzzClaim: whatever a peer says of its client, nothing that could end a line gets behind the parsers.
func FuzzClaim(f *testing.F) {
	for _, seed := range []string{"ADDR=IPV6:::1 HELO=a+0D", "TTL=9 PORT=1", "SESSION=a+0A DESTNAME=x"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, args []byte) {
		var c Claim
		if c.Add(string(args)) != nil {
			if c != (Claim{}) {
				t.Errorf("a faulty claim left %+v", c)
			}
			return
		}
		id := c.Identity()
		if strings.ContainsAny(id.Session+id.Name+id.Helo, "\x00\r\n \t") || id.TTL < 0 || id.TTL > 255 {
			t.Errorf("claim %+v", id)
		}
	})
}
