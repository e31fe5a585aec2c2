package proxy

import (
	"net/netip"
	"strings"
	"testing"
)

func TestAttributes(t *testing.T) {
	for _, tc := range []struct {
		id   Identity
		want string
	}{
		{Identity{}, "CLIENT-TRANSPORT=insecure"},
		{
			Identity{Client: netip.MustParseAddrPort("203.0.113.5:51234"), Session: "S1", TTL: 6},
			"ADDR=203.0.113.5 PORT=51234 SESSION=S1 TTL=6 CLIENT-TRANSPORT=insecure",
		},
		{
			Identity{Client: netip.MustParseAddrPort("[2001:db8::1]:1"), Local: netip.MustParseAddrPort("[::ffff:192.0.2.1]:995"),
				TLS: true, Name: "pop.example.com"},
			"ADDR=2001:db8::1 PORT=1 DESTADDR=192.0.2.1 DESTPORT=995 CLIENT-TRANSPORT=TLS DESTNAME=pop.example.com",
		},
		// The client chooses the name it asks for in TLS, and must not end the line with it.
		{Identity{Name: "x\r\nUSER boss", Session: "a b"}, "CLIENT-TRANSPORT=insecure"},
		{Identity{Name: strings.Repeat("x", 256)}, "CLIENT-TRANSPORT=insecure"},
	} {
		if got := tc.id.Attributes(); got != tc.want {
			t.Errorf("Attributes(%+v)\n got %q\nwant %q", tc.id, got, tc.want)
		}
	}
}

func TestParseAttributes(t *testing.T) {
	got, err := ParseAttributes("addr=203.0.113.5 PORT=51234  SESSION=S1 TTL=0 FORWARD=Y2w9 CLIENT-TRANSPORT=tls NEW=1")
	want := Identity{Client: netip.MustParseAddrPort("203.0.113.5:51234"), Session: "S1", TTL: 1, TLS: true}
	if err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	for _, bad := range []string{"ADDR", "ADDR=", "ADDR=x", "ADDR=[UNAVAILABLE]", "PORT=65536", "TTL=-1", "TTL=256", "SESSION=",
		"DESTNAME=\x01", "DESTPORT=a", "DESTADDR=1.2.3"} {
		if id, err := ParseAttributes(bad); err == nil {
			t.Errorf("ParseAttributes(%q) = %+v, want an error", bad, id)
		}
	}
}

func FuzzParseAttributes(f *testing.F) {
	f.Add("ADDR=203.0.113.5 PORT=51234 DESTADDR=2001:db8::1 DESTPORT=110 SESSION=S1 TTL=6 CLIENT-TRANSPORT=TLS DESTNAME=a.b")
	f.Add("ADDR=fe80::1%eth0 PORT=1")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseAttributes(s)
		if err != nil {
			return
		}
		line := id.Attributes()
		if strings.ContainsAny(line, "\r\n\x00") || len(line) > 1000 {
			t.Fatalf("%q became the line %q", s, line)
		}
		again, err := ParseAttributes(line)
		if err != nil || again != id {
			t.Fatalf("%q: %+v became %q, and that %+v, %v", s, id, line, again, err)
		}
	})
}
