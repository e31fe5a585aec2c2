package auth

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// answers is a client that has its responses ready.
type answers struct {
	responses []string
	asked     []string
}

func (a *answers) Challenge(c []byte) ([]byte, error) {
	a.asked = append(a.asked, string(c))
	if len(a.responses) == 0 {
		return nil, ErrCancelled
	}
	r := a.responses[0]
	a.responses = a.responses[1:]
	return []byte(r), nil
}

func TestBegin(t *testing.T) {
	const scram = "n,,n=ann,r=fyko+d2lbbFgONRv9qkxdawL"
	for _, c := range []struct {
		mechanism      string
		initial        string // "-" for none
		responses      string // separated by |
		user, zid, pwd string
		err            error
	}{
		{"plain", "\x00ann\x00sesame", "", "ann", "", "sesame", nil},
		{"PLAIN", "-", "\x00ann\x00sesame", "ann", "", "sesame", nil},
		{"PLAIN", "ann\x00ann\x00sesame", "", "ann", "", "sesame", nil},
		{"PLAIN", "bob\x00ann\x00sesame", "", "ann", "bob", "sesame", nil},
		{"PLAIN", "\x00ann\x00", "", "ann", "", "", nil},
		{"PLAIN", "", "", "", "", "", ErrMalformed},
		{"PLAIN", "ann sesame", "", "", "", "", ErrMalformed},
		{"PLAIN", "\x00ann\x00ses\x00ame", "", "", "", "", ErrMalformed},
		{"PLAIN", "\x00\x00sesame", "", "", "", "", ErrCredentials},
		{"PLAIN", "\x00ann\r\nQUIT\x00sesame", "", "", "", "", ErrCredentials},
		{"PLAIN", "\x00ann\x00ses\r\name", "", "", "", "", ErrCredentials},
		{"PLAIN", "b\nb\x00ann\x00sesame", "", "", "", "", ErrCredentials},
		{"PLAIN", "\x00a\xff\x00sesame", "", "", "", "", ErrCredentials},
		{"PLAIN", "\x00j\u00f6rg\x00p\u00e4ss", "", "j\u00f6rg", "", "p\u00e4ss", nil},
		{"PLAIN", "\x00ann\x00" + strings.Repeat("x", 1025), "", "", "", "", ErrCredentials},
		{"LOGIN", "-", "ann|sesame", "ann", "", "sesame", nil},
		{"LOGIN", "ann", "sesame", "ann", "", "sesame", nil},
		{"LOGIN", "-", "ann", "", "", "", ErrCancelled},
		{"OAUTHBEARER", "n,a=ann@example.com,\x01host=h\x01auth=Bearer tok\x01\x01", "", "ann@example.com", "", "", nil},
		{"OAUTHBEARER", "n,,\x01auth=Bearer tok\x01\x01", "", "", "", "", ErrCredentials},
		{"OAUTHBEARER", "n,a=ann,\x01host=h\x01\x01", "", "", "", "", ErrMalformed},
		{"OAUTHBEARER", "p=tls-unique,a=ann,\x01auth=Bearer tok\x01\x01", "", "", "", "", ErrChannelBinding},
		{"XOAUTH2", "user=ann\x01auth=Bearer tok\x01\x01", "", "ann", "", "", nil},
		{"XOAUTH2", "user=ann\x01user=bob\x01auth=Bearer tok\x01\x01", "", "", "", "", ErrMalformed},
		{"XOAUTH2", "user=ann\x01\x01", "", "", "", "", ErrMalformed},
		{"SCRAM-SHA-256", scram, "", "ann", "", "", nil},
		{"SCRAM-SHA-1", "y,,n=a=2Cn=3Dn,r=x", "", "a,n=n", "", "", nil},
		{"SCRAM-SHA-256", "n,a=bob,n=ann,r=x", "", "ann", "bob", "", nil},
		{"SCRAM-SHA-256", "p=tls-exporter,,n=ann,r=x", "", "", "", "", ErrChannelBinding},
		{"SCRAM-SHA-256", "n,,m=ext,n=ann,r=x", "", "", "", "", ErrMalformed},
		{"SCRAM-SHA-256", "n,,n=a=2bnn,r=x", "", "", "", "", ErrMalformed},
		{"SCRAM-SHA-256", "n,,n=ann", "", "", "", "", ErrMalformed},
		{"SCRAM-SHA-256", "-", "", "", "", "", ErrCancelled},
		{"EXTERNAL", "", "", "eve", "", "", nil},
		{"EXTERNAL", "EVE", "", "eve", "", "", nil},
		{"EXTERNAL", "ann", "", "", "", "", ErrCredentials},
		{"CRAM-MD5", "", "", "", "", "", ErrUnknownMechanism},
	} {
		client := &answers{}
		if c.responses != "" {
			client.responses = strings.Split(c.responses, "|")
		}
		initial := []byte(c.initial)
		if c.initial == "-" {
			initial = nil
		}
		got, err := Begin(Offer{Mechanisms: Known(), Certificate: "eve"}, c.mechanism, initial, client)
		if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
			t.Errorf("%s %q: %v, want %v", c.mechanism, c.initial, err, c.err)
			continue
		}
		if err == nil && (got.User != c.user || got.Authzid != c.zid || got.Password != c.pwd) {
			t.Errorf("%s %q: %q %q %q", c.mechanism, c.initial, got.User, got.Authzid, got.Password)
		}
	}
}

func TestExternalWithoutCertificate(t *testing.T) {
	if _, err := Begin(Offer{Mechanisms: Known()}, External, []byte{}, &answers{}); !errors.Is(err, ErrUnknownMechanism) {
		t.Error(err)
	}
}

func TestExchange(t *testing.T) {
	ann := func(zid string) *Credentials {
		return &Credentials{Mechanism: Plain, User: "Ann", Authzid: zid, Password: "sesame"}
	}
	master := &Master{User: "boss", Password: "key"}
	star := &Master{User: "boss", Password: "key", Separator: "*"}
	for _, c := range []struct {
		creds     *Credentials
		master    *Master
		offered   []string
		mechanism string
		initial   string
	}{
		{ann(""), nil, nil, Plain, "\x00ann@example.com\x00sesame"},
		{ann("bob"), nil, nil, Plain, "ann@example.com\x00Ann\x00sesame"}, // the account is bob's canonical name
		{ann(""), nil, []string{"LOGIN"}, Login, "ann@example.com"},
		{ann(""), nil, []string{"login", "plain"}, Plain, "\x00ann@example.com\x00sesame"},
		{ann(""), master, nil, Plain, "ann@example.com\x00boss\x00key"},
		{ann(""), star, nil, Plain, "\x00ann@example.com*boss\x00key"},
		{&Credentials{Mechanism: External, User: "ann"}, master, nil, Plain, "ann@example.com\x00boss\x00key"},
		{&Credentials{Mechanism: XOAuth2, User: "ann", initial: []byte("user=ann")}, nil, nil, XOAuth2, "user=ann"},
	} {
		mechanism, initial, err := c.creds.Exchange("ann@example.com", c.master, c.offered).Start()
		if mechanism != c.mechanism || string(initial) != c.initial || err != nil {
			t.Errorf("%+v: %s %q %v", c.creds, mechanism, initial, err)
		}
	}
}

// What a backend may say back is known in every form in which it was told.
func TestSecrets(t *testing.T) {
	ann := &Credentials{Mechanism: Plain, User: "Ann", Password: `ses"ame`}
	relayed := func(mechanism, initial string) *Credentials {
		return &Credentials{Mechanism: mechanism, initial: []byte(initial)}
	}
	const bearer = "n,a=ann,\x01host=h\x01auth=Bearer tok\x01\x01"
	for _, c := range []struct {
		creds  *Credentials
		master *Master
		want   []string
	}{
		{ann, nil, []string{`ses"ame`, encode(`ses"ame`), encode("\x00ann@example.com\x00" + `ses"ame`), `ses\"ame`}},
		{ann, &Master{User: "boss", Password: "key"}, []string{"key", encode("key"), encode("ann@example.com\x00boss\x00key")}},
		{&Credentials{User: "ann"}, nil, nil},
		{relayed(OAuthBearer, bearer), nil, []string{"tok", encode(bearer)}},
		{relayed(XOAuth2, "user=ann\x01auth=Bearer \x01\x01"), nil, nil},
		{relayed(ScramSHA256, "n,,n=ann,r=fyko"), nil, nil},
	} {
		if got := c.creds.Secrets("ann@example.com", c.master); !slices.Equal(got, c.want) {
			t.Errorf("%+v: %q, want %q", c.creds, got, c.want)
		}
	}
}

// A relayed exchange passes the backend's challenges to the client and its answers back, empty ones included.
func TestRelay(t *testing.T) {
	client := &answers{responses: []string{""}}
	c, err := Begin(Offer{Mechanisms: Known()}, OAuthBearer, []byte("n,a=ann,\x01auth=Bearer tok\x01\x01"), client)
	if err != nil {
		t.Fatal(err)
	}
	x := c.Exchange("ann@example.com", nil, nil)
	if _, initial, _ := x.Start(); string(initial) != "n,a=ann,\x01auth=Bearer tok\x01\x01" {
		t.Errorf("%q", initial)
	}
	if c.Relayed() {
		t.Error("relayed before a challenge")
	}
	answer, err := x.Next([]byte(`{"status":"invalid_token"}`))
	if answer == nil || len(answer) != 0 || err != nil || client.asked[0] != `{"status":"invalid_token"}` || !c.Relayed() {
		t.Errorf("%q %v %q", answer, err, client.asked)
	}
}

func FuzzBegin(f *testing.F) {
	for _, m := range Known() {
		f.Add(m, "n,a=ann,\x01auth=Bearer x\x01\x01", "second")
		f.Add(m, "\x00ann\x00sesame", "")
		f.Add(m, "n,,n=ann,r=x", "c=biws")
	}
	f.Fuzz(func(t *testing.T, mechanism, initial, second string) {
		c, err := Begin(Offer{Mechanisms: Known(), Certificate: "eve"}, mechanism, []byte(initial), &answers{responses: []string{second}})
		if err != nil {
			return
		}
		for _, s := range []string{c.User, c.Authzid, c.Password} {
			if strings.ContainsAny(s, "\x00\r\n") {
				t.Errorf("%q passed", s)
			}
		}
		if c.User == "" || c.Account() == "" {
			t.Error("nobody")
		}
		if c.Told() {
			_, ir, _ := c.Exchange("ann", nil, nil).Start()
			if strings.ContainsAny(string(ir), "\r\n") {
				t.Errorf("%q", ir)
			}
		}
	})
}

// However credentials are printed, their secrets are not.
func TestSecretsAreNotPrinted(t *testing.T) {
	relayed := &Credentials{Mechanism: OAuthBearer, User: "ann", initial: []byte("sesame")}
	master := Master{User: "admin", Password: "sesame"}
	for _, v := range []any{&Credentials{User: "ann", Password: "sesame"}, relayed, Told{User: "ann", Password: "sesame"}, master, &master} {
		for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
			if got := fmt.Sprintf(format, v); strings.Contains(got, "sesame") || strings.Contains(got, "115 101") || strings.Contains(got, "0x73, 0x65") {
				t.Errorf("%s of %T: %s", format, v, got)
			}
		}
	}
}
