package directory

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mailmux/directory/slapdtest"
)

func writeLDIF(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "accounts.ldif")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// A file answers as a server with the same entries does.
func TestFileAnswersLikeSlapd(t *testing.T) {
	s := slapdtest.Start(t, slapdtest.Options{LDIF: people})
	server := open(t, slapdConfig(t, s.URL))
	file := open(t, Config{Servers: []string{"ldif:" + writeLDIF(t, slapdtest.Skeleton+people)}, Base: slapdtest.Base})
	for _, local := range []string{"ann", "annie", "ANNIE", "robert", "a.zoe", "first", "twin", "homeless", "nobody", "*", "ann)(uid=*", "a*", ""} {
		want, wantErr := server.Lookup(t.Context(), at(local))
		got, err := file.Lookup(t.Context(), at(local))
		want.DN, got.DN = foldDN(want.DN), foldDN(got.DN) // there are several ways to write one
		if got != want || (err == nil) != (wantErr == nil) || isAnswer(err) != isAnswer(wantErr) {
			t.Errorf("%q: file %+v, %v; server %+v, %v", local, got, err, want, wantErr)
		}
	}
	for _, filter := range []string{
		"(&(mail={address})(!(mailUserStatus=*)))", "(|(uid={local})(uid=zoe))", "(&(uid=*)(mail={address}))", "(&(mail=a*@e*le.com)(mail={address}))",
		"(&(mail={address})(cn~=bob))", "(&(mail=*@example.com)(|(uid={local})(uid={local}2)))",
	} {
		c, f := slapdConfig(t, s.URL), Config{Servers: file.cfg.Servers, Base: slapdtest.Base, Filter: filter}
		c.Filter = filter
		server, file := open(t, c), open(t, f)
		for _, local := range []string{"ann", "bob", "twin", "zoe"} {
			want, wantErr := server.Lookup(t.Context(), at(local))
			got, err := file.Lookup(t.Context(), at(local))
			if got != want || (err == nil) != (wantErr == nil) || isAnswer(err) != isAnswer(wantErr) {
				t.Errorf("%s %q: file %+v, %v; server %+v, %v", filter, local, got, err, want, wantErr)
			}
		}
	}
}

// slapd knows no order of names; the file does, for attributes such as numbers of equal length.
func TestFileKnowsOrder(t *testing.T) {
	for filter, want := range map[string]error{
		"(&(mail={address})(cn>=ann))": nil, "(&(mail={address})(cn>=B))": ErrNoUser, "(&(mail={address})(cn<=B))": nil, "(&(mail={address})(cn<=Ab))": ErrNoUser,
	} {
		d := open(t, Config{Servers: []string{"ldif:" + writeLDIF(t, people)}, Filter: filter})
		if _, err := d.Lookup(t.Context(), at("ann")); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", filter, err, want)
		}
	}
}

func TestFileIsReadAgain(t *testing.T) {
	path := writeLDIF(t, people)
	d := open(t, Config{Servers: []string{"ldif:" + path}})
	ctx := t.Context()
	if a, err := d.Lookup(ctx, at("ann")); err != nil || a.Host != "back1.example.com" {
		t.Fatalf("%+v, %v", a, err)
	}
	replace := func(text string) {
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	replace(strings.Replace(people, "Back1.Example.com", "back7.example.com", 1))
	if err := d.Reload(); err != nil {
		t.Fatal(err)
	}
	if a, err := d.Lookup(ctx, at("ann")); err != nil || a.Host != "back7.example.com" || a.Cached {
		t.Errorf("after Reload: %+v, %v", a, err)
	}
	replace("dn: no dn\n")
	if err := d.Reload(); err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("a broken file: %v", err)
	}
	if a, err := d.Refresh(ctx, at("ann")); err != nil || a.Host != "back7.example.com" {
		t.Errorf("after a broken file: %+v, %v", a, err)
	}
	if errs := d.Check(ctx); len(errs) != 1 {
		t.Errorf("Check: %v", errs)
	}
	replace(people)
	until(t, "the file is noticed", func() bool { a, err := d.Refresh(ctx, at("ann")); return err == nil && a.Host == "back1.example.com" })
}

func TestFilePasswords(t *testing.T) {
	d := open(t, Config{Servers: []string{"ldif:" + writeLDIF(t, `dn: uid=a,dc=x
objectClass: mailAccount
mail: a@example.com
hostServer: h
userPassword: sesame
userPassword: {CLEARTEXT}clear
userPassword: {SSHA}b3YhbTxzBuFdbvQV+6eMN2/05vFzYWx0
userPassword: {SSHA512}HuAwTE3UbAdC8suL1WQ/Nmx0aO98U3dZYQTUBPikYMAyVAhYaoSlvcTpQSVrGpHIbPotCsIjOdMKSb1QqegM4XNhbHQ=
userPassword: {CRYPT}$2a$04$iO2A42JFjnI2fNTIUxyd0OFFb.mBWn1C8xI.fExUIinukSkt7Nrpm

dn: uid=b,dc=x
objectClass: mailAccount
mail: b@example.com
hostServer: h
userPassword: {ARGON2}x
`)}})
	ctx := t.Context()
	a, err := d.Lookup(ctx, at("a"))
	if err != nil {
		t.Fatal(err)
	}
	for _, good := range []string{"sesame", "clear", "sha1", "sha512", "bcrypt"} {
		if err := d.CheckPassword(ctx, a, good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "Sesame", "{CLEARTEXT}clear", "{SSHA}b3YhbTxzBuFdbvQV+6eMN2/05vFzYWx0"} {
		if err := d.CheckPassword(ctx, a, bad); !errors.Is(err, ErrBadPassword) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := d.CheckPassword(ctx, Account{DN: "UID=B, dc=x"}, "x"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("unknown scheme: %v", err)
	}
}

func TestLDIF(t *testing.T) {
	text := "version: 1\n# a comment\n# folded\n  on\n\ndn:: dWlkPWpvZXJn\ncn: a\n  b\nmail: x@y\n# inside\nhostServer: old\nDescription:: IHg=\n\n\ndn: uid=z\r\ncn: z\r\n"
	d, err := parseLDIF([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if string(d.bytes()) != text {
		t.Errorf("unchanged text differs: %q", d.bytes())
	}
	entries := d.entries("")
	if len(entries) != 2 || entries[0].dn != "uid=joerg" || entries[0].values("CN")[0] != "a b" || entries[0].values("description")[0] != " x" {
		t.Fatalf("entries: %+v", entries)
	}
	entries[0].set("hostserver", []string{"new"})
	entries[0].set("oldHostServer", []string{"jörg"})
	entries[1].set("cn", nil)
	want := "version: 1\n# a comment\n# folded\n  on\n\ndn:: dWlkPWpvZXJn\ncn: a\n  b\nmail: x@y\n# inside\nhostserver: new\nDescription:: IHg=\noldHostServer:: asO2cmc=\n\n\ndn: uid=z\r\n"
	if got := string(d.bytes()); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	for _, bad := range []string{
		"cn: x\n", "dn: x=y\nno colon\n", "dn: x=y\nchangetype: modify\n", "dn: x=y\njpeg:< file:///x\n", "dn: x=y\ncn:: !\n", "dn:\n", "dn: x\n",
	} {
		if _, err := parseLDIF([]byte(bad)); err == nil || !strings.HasPrefix(err.Error(), "line ") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzLDIF(f *testing.F) {
	f.Add([]byte(people))
	f.Add([]byte("dn:: dWlkPWpvZXJn\ncn: a\n  b\n\n#x"))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := parseLDIF(data)
		if err != nil {
			return
		}
		if got := d.bytes(); string(got) != string(data) {
			t.Fatalf("%q is written as %q", data, got)
		}
		for _, e := range d.entries("") {
			e.set("hostServer", []string{"näw"})
		}
		again, err := parseLDIF(d.bytes())
		if err != nil {
			t.Fatalf("after a change: %v", err)
		}
		for _, e := range again.entries("") {
			if v := e.values("hostServer"); len(v) != 1 || v[0] != "näw" {
				t.Fatalf("after a change: %q", v)
			}
		}
	})
}

func TestConfigFaults(t *testing.T) {
	good := Config{Servers: []string{"ldap://127.0.0.1", "ldaps://[::1]:1636", "ldapi://%2Frun%2Fldapi"}, Base: "dc=x"}
	if err := good.Validate(); err != nil {
		t.Errorf("sound configuration: %v", err)
	}
	bad := Config{
		Servers: []string{"127.0.0.1", "http://x", "ldap://host/dc=x", "ldif:x"}, BindDN: "x", Base: "nonsense", StartTLS: true,
		Filter: "(mail={adress})", TLSCertFile: "x", Timeout: -time.Second, Connections: -1,
		Attributes:  Attributes{Host: "a b", OldHost: "A B"},
		StatusWords: StatusWords{Active: []string{"on", ""}, Hold: []string{"ON"}},
		Cache:       CacheConfig{TTL: -1, MaxEntries: -5},
	}
	want := []string{
		"servers[0]: ", "servers[1]: ", "servers[2]: ", "servers[3]: ", "base: ", "starttls: ", "tls_cert_file: ", "bind_dn: ", "bind_password_file: ",
		"filter: {adress}", "attributes.host: ", "attributes.old_host: ", "attributes.old_host: ", "status_words.active: ", "status_words.hold: ",
		"timeout: must be positive, got -1s", "cache.ttl: ", "connections: ", "cache.max_entries: ",
	}
	err := bad.Validate()
	if err == nil {
		t.Fatal("no fault")
	}
	lines := strings.Split(err.Error(), "\n")
	for i, line := range lines {
		if i >= len(want) || !strings.HasPrefix(line, want[i]) {
			t.Errorf("fault %d: %s", i, line)
		}
	}
	if len(lines) != len(want) {
		t.Errorf("%d faults, want %d", len(lines), len(want))
	}
	for _, filter := range []string{"(mail=x)", "mail={address}", "(mail={address}", "({address}=x)(", ""} {
		c := good
		if c.Filter = filter; (c.Validate() == nil) != (filter == "") {
			t.Errorf("filter %q: %v", filter, c.Validate())
		}
	}
}

// What is remembered of a name that two entries have is not that nobody has it.
func TestExplainTellsWhatIsRemembered(t *testing.T) {
	d := open(t, Config{Servers: []string{"ldif:" + writeLDIF(t, slapdtest.Skeleton+people)}, Base: slapdtest.Base})
	for local, want := range map[string]error{"twin": ErrAmbiguous, "nobody": ErrNoUser} {
		if _, err := d.Lookup(t.Context(), at(local)); !errors.Is(err, want) {
			t.Fatalf("%s: %v", local, err)
		}
		if x, err := d.Explain(t.Context(), at(local)); !errors.Is(err, want) || !x.Fresh || !strings.HasPrefix(x.Refused, want.Error()) {
			t.Errorf("%s: %v, remembered %q", local, err, x.Refused)
		}
	}
}
