package directory

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"unicode"

	"pgregory.net/rapid"
)

var dedicated = netip.MustParseAddr("192.0.2.10")

func testDomains() *Domains {
	return &Domains{
		Default:     "example.com",
		Addresses:   map[netip.Addr]string{dedicated: "example.org"},
		ServerNames: map[string]string{"mail.example.info": "example.info"},
		Aliases:     map[string]string{"example.net": "example.com"},
	}
}

func TestLogin(t *testing.T) {
	for _, c := range []struct {
		login, serverName string
		local             netip.Addr
		want              Name
	}{
		{login: "ann@example.com", want: Name{Local: "ann", Domain: "example.com"}},
		{login: "Ann@EXAMPLE.com.", want: Name{Local: "ann", Domain: "example.com"}},
		{login: "ann", want: Name{Local: "ann", Domain: "example.com"}},
		{login: "ann", local: dedicated, want: Name{Local: "ann", Domain: "example.org"}},
		{login: "ann", local: netip.AddrFrom16(dedicated.As16()), want: Name{Local: "ann", Domain: "example.org"}},
		{login: "ann", local: dedicated, serverName: "Mail.Example.Info", want: Name{Local: "ann", Domain: "example.info"}},
		{login: "ann", local: dedicated, serverName: "other.example", want: Name{Local: "ann", Domain: "example.org"}},
		{login: "ann@example.net", want: Name{Local: "ann", Domain: "example.com"}},
		{login: "ann%example.net", want: Name{Local: "ann", Domain: "example.com"}},
		{login: "a%b%example.org", want: Name{Local: "a%b", Domain: "example.org"}},
		{login: "a%b@example.org", want: Name{Local: "a%b", Domain: "example.org"}},
		{login: "ann+lists@example.com", want: Name{Local: "ann+lists", Domain: "example.com"}},
		{login: `CORP\ann`, want: Name{Local: `corp\ann`, Domain: "example.com"}},
		{login: `"ann"@example.com`, want: Name{Local: "ann", Domain: "example.com"}},
		{login: "JÖRG@BÜCHER.example", want: Name{Local: "jörg", Domain: "bücher.example"}},
		{login: "\u212aate@example.com", want: Name{Local: "\u212aate", Domain: "example.com"}}, // KELVIN SIGN is not k
		{login: ")(uid=*", want: Name{Local: ")(uid=*", Domain: "example.com"}},
	} {
		got, err := testDomains().Login(c.login, c.local, c.serverName)
		if err != nil || got != c.want {
			t.Errorf("Login(%q, %v, %q) = %+v, %v; want %+v", c.login, c.local, c.serverName, got, err, c.want)
		}
	}
}

func TestRecipient(t *testing.T) {
	for address, want := range map[string]Name{
		"ann@example.com":              {Local: "ann", Domain: "example.com"},
		"Ann+Lists@example.net":        {Local: "ann", Domain: "example.com", Detail: "lists"},
		"postmaster":                   {Local: "postmaster", Domain: "example.com"},
		"+ann@example.com":             {Local: "+ann", Domain: "example.com"},
		"ann+@example.com":             {Local: "ann", Domain: "example.com"},
		`"Ann"@example.com`:            {Local: "ann", Domain: "example.com"},
		`"a b"@example.com`:            {Local: "a b", Domain: "example.com"},
		`"a\"\b@c"@example.com`:        {Local: `a"b@c`, Domain: "example.com"},
		`"ann+x y"@example.com`:        {Local: "ann", Domain: "example.com", Detail: "x y"},
		"ann@[192.0.2.10]":             {Local: "ann", Domain: "example.org"},
		"ann@[IPv6:::ffff:192.0.2.10]": {Local: "ann", Domain: "example.org"},
		"a..b.@example.com":            {Local: "a..b.", Domain: "example.com"},
	} {
		got, err := testDomains().Recipient(address, netip.Addr{})
		if err != nil || got != want {
			t.Errorf("Recipient(%q) = %+v, %v; want %+v", address, got, err, want)
		}
	}
}

func TestNamesThatCannotBeOurs(t *testing.T) {
	long := strings.Repeat("x", 64)
	both := []string{
		"", "@", "ann@", "@example.com", "%", "%example.com", "a@b@c", "a\x00b", "ann\r\n", "ann\n@example.com", "a b",
		" ann", "ann ", "ann\t@example.com", "a\x7fb", "a\xffb", "a\u00adb", "a\u200bb", "a\u0085b", "a\u2028b", `"a`, `"`, `""`,
		`"a"b@example.com`, "\"a\r\n\"@example.com", `a"b`, "ann@example..com", "ann@.example.com", "ann@example.com..", "ann@.",
		"ann@exa mple.com", "ann@example.com\x00", "ann@ex(ample", "ann@example.com>", "ann<x>@example.com", "ann@[192.0.2.11]",
		"ann@[192.0.2.10", "ann@" + strings.Repeat("d.", 130) + "e", strings.Repeat("x", 321), "a\u00a0b",
	}
	for _, s := range both {
		if name, err := testDomains().Login(s, netip.Addr{}, ""); !errors.Is(err, ErrBadName) {
			t.Errorf("Login(%q) = %+v, %v; want ErrBadName", s, name, err)
		}
	}
	for _, s := range append(both, ")(uid=*", `a\b`, "a,b@example.com", long+"x@example.com", long+"@"+strings.Repeat("d", 190)) {
		if name, err := testDomains().Recipient(s, netip.Addr{}); !errors.Is(err, ErrBadName) {
			t.Errorf("Recipient(%q) = %+v, %v; want ErrBadName", s, name, err)
		}
	}
}

func TestKeepCaseAndDelimiter(t *testing.T) {
	d := &Domains{KeepCase: true, Delimiter: "none"}
	if got, err := d.Recipient("Ann+X@Example.COM", netip.Addr{}); err != nil || got != (Name{Local: "Ann+X", Domain: "example.com"}) {
		t.Errorf("got %+v, %v", got, err)
	}
	d = &Domains{Delimiter: "-="}
	if got, err := d.Recipient("ann=x-y@a.example", netip.Addr{}); err != nil || got != (Name{Local: "ann", Domain: "a.example", Detail: "x-y"}) {
		t.Errorf("got %+v, %v", got, err)
	}
	if got := (Name{Local: "ann", Domain: "a.example", Detail: "x y"}).Address("+"); got != `"ann+x y"@a.example` {
		t.Errorf("Address = %s", got)
	}
}

// A normalised name normalises to itself, so it does not matter how often a name passes here.
func checkIdempotent(t interface{ Fatalf(string, ...any) }, d *Domains, s string) {
	name, err := d.Login(s, netip.Addr{}, "")
	if err == nil {
		again, err := d.Login(name.String(), netip.Addr{}, "")
		if err != nil || again != name || name.Detail != "" || name.length() != len(name.String()) {
			t.Fatalf("Login(%q) = %+v, of which Login makes %+v, %v", s, name, again, err)
		}
	} else if !errors.Is(err, ErrBadName) {
		t.Fatalf("Login(%q): %v is not ErrBadName", s, err)
	}
	name, err = d.Recipient(s, netip.Addr{})
	if err == nil {
		again, err := d.Recipient(name.String(), netip.Addr{})
		if err != nil || again.Local != name.Local || again.Domain != name.Domain || again.Detail != "" {
			t.Fatalf("Recipient(%q) = %+v, of which Recipient makes %+v, %v", s, name, again, err)
		}
		if strings.ContainsFunc(name.String(), unicode.IsControl) {
			t.Fatalf("Recipient(%q) lets a control character pass: %q", s, name)
		}
	} else if !errors.Is(err, ErrBadName) {
		t.Fatalf("Recipient(%q): %v is not ErrBadName", s, err)
	}
}

func TestNormalisationIsIdempotent(t *testing.T) {
	piece := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{
		"@", "%", "+", `"`, `\`, " ", ".", "ann", "ANN", "example.net", "Example.ORG", "İ", "K", "ẞ", "[192.0.2.10]", "Ⱥ", "\x00",
	}))
	rapid.Check(t, func(t *rapid.T) {
		d := testDomains()
		if rapid.Bool().Draw(t, "no default") {
			d.Default = ""
		}
		d.KeepCase = rapid.Bool().Draw(t, "keep case")
		checkIdempotent(t, d, strings.Join(rapid.SliceOfN(piece, 1, 6).Draw(t, "pieces"), ""))
	})
	for r := rune(1); r <= unicode.MaxRune; r++ {
		if l := lowerRune(r); lowerRune(l) != l {
			t.Errorf("lower case of %U is %U, whose lower case is %U", r, l, lowerRune(l))
		}
	}
}

func FuzzNormalise(f *testing.F) {
	for _, s := range []string{"ann", "Ann%example.net", `"a b+c"@x.org`, "a@[192.0.2.10]", "jörg@bücher.example.", "a\x00@b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		checkIdempotent(t, testDomains(), s)
		checkIdempotent(t, &Domains{KeepCase: true}, s)
	})
}

func TestNormalNamesCostNoAllocation(t *testing.T) {
	d := testDomains()
	if n := testing.AllocsPerRun(100, func() { d.Login("ann@example.com", dedicated, "") }); n > 0 {
		t.Errorf("a normal login name costs %v allocations", n)
	}
	if n := testing.AllocsPerRun(100, func() { d.Recipient("ann+lists@example.com", dedicated) }); n > 0 {
		t.Errorf("a normal recipient costs %v allocations", n)
	}
}

func TestDomainsValidate(t *testing.T) {
	if err := testDomains().Validate(); err != nil {
		t.Errorf("sound configuration: %v", err)
	}
	err := (&Domains{
		Default:     "Example.com",
		Addresses:   map[netip.Addr]string{netip.MustParseAddr("::ffff:192.0.2.1"): "example..org"},
		ServerNames: map[string]string{"x y": "example.org"},
		Aliases:     map[string]string{"a.example": "b.example", "b.example": "c.example"},
		Delimiter:   "ab",
	}).Validate()
	want := strings.TrimSpace(`
default: write "Example.com" in lower case without a trailing dot
addresses.::ffff:192.0.2.1: "example..org" is not a domain name: empty label in the domain
addresses.::ffff:192.0.2.1: write this address as 192.0.2.1
server_names.x y: "x y" is not a domain name: unusable character at byte 1 of the domain
aliases.a.example: b.example is an alias itself: name the domain it stands for
delimiter: "ab" is neither "none" nor made of signs such as "+"`)
	if err == nil || err.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
}

func BenchmarkLogin(b *testing.B) {
	d := testDomains()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.Login("ann@example.com", dedicated, ""); err != nil {
			b.Fatal(err)
		}
	}
}
