package prototest

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"

	"mailmux/proxy"
	"mailmux/proxy/auth"
)

// parrot is a protocol of three words: "login USER" goes to the backend as it came, "bye" ends the session, and all else
// is said again.
type parrot struct{}

func (parrot) Serve(ctx context.Context, s *proxy.Session) error {
	s.Client.Line("hello ", s.ID())
	for {
		line, err := s.Client.ReadLine()
		if err != nil {
			return err
		}
		words := string(line)
		user, login := strings.CutPrefix(words, "login ")
		switch {
		case words == "bye":
			return proxy.ErrLoggedOut
		case login:
			creds, err := auth.Password(user, "sesame")
			if err != nil {
				return err
			}
			if err := s.Login(ctx, creds, func(b *proxy.Backend) error {
				b.Conn.Line(words)
				_, err := b.Conn.ReadLine()
				return err
			}); err != nil {
				return err
			}
			s.Client.Line("in")
			return s.HandOver()
		}
		s.Client.Line(words)
	}
}

func (parrot) Bye(*proxy.Session, proxy.Cause) string { return "gone\r\n" }

func playParrot(t *testing.T, files *Files, source string) (err error) {
	t.Helper()
	script, parseErr := Parse("# " + t.Name() + "\n" + source)
	if parseErr != nil {
		t.Fatal(parseErr)
	}
	synctest.Test(t, func(t *testing.T) {
		p := newPlayer(t, parrot{}, "imap", files, script, func(*World) {})
		if err = p.play(); err == nil {
			err = p.silence()
		}
		p.stop()
	})
	return err
}

func TestPlayer(t *testing.T) {
	files := NewFiles(t)
	for _, source := range []string{
		"S: hello {id}\nC: my {id}\nS: my {id}\nC> raw\nC: \nS> raw\\r\\n\nC: bye\nend client\nevent outcome=gone",
		"S: hello {*}\nC: login ann\ndial 10.0.0.1\nP: login ann\nclose backend\ndial 10.0.0.1\nP: login ann\nB: ok\nS: in",
		"S: hello {*}\nC: login ann\nP: login ann\nB: ok\nB: and more\nS: in\nS: and more\nC: up\nP: up\nshut client\nB: down\nS: down\nclose backend\nend client\nevent outcome=ok account=ann@example.com",
		"S: hello {*}\nC: login nobody\nend client\nevent outcome=auth_failed",
		"S: hello {*}\nwait 61s\nS: gone\nend client\nevent outcome=timeout",
		"S: hello {*}\nshutdown\nS: gone\nend client\nevent outcome=shutdown",
		"S: hello {*}\nreset client\nevent outcome=gone",
		"S: hello {*}\nrefuse\nC: login ann\nend client\nevent outcome=unreachable",
		"# set listener.tls=implicit\nTLS client\nS: hello {*}\nC: a\nS: a",
		"# set backend.tls=implicit\nS: hello {*}\nC: login ann\nTLS backend\nP: login ann\nB: ok\nS: in",
		"# set directory=down\nS: hello {*}\nC: login ann\nend client\nevent outcome=temporary",
		"# set account.status=hold\nS: hello {*}\nC: login ann\nend client\nevent outcome=held",
	} {
		if err := playParrot(t, files, source); err != nil {
			t.Errorf("%s\n%v", source, err)
		}
	}
}

// A player that found no faults would make all scripts useless.
func TestPlayerFindsFaults(t *testing.T) {
	files := NewFiles(t)
	for source, want := range map[string]string{
		"S: hullo {*}":                                                             `got "hello `,
		"S: hello {*}\nS: more":                                                    `got "gone"`,
		"S: hello {*}\nC: one\nC: two\nS: one":                                     `more than the script: S: "two`,
		"S: hello {*}\nC: one\nS> on\nS> x":                                        `got "e"`,
		"C: login ann":                                                             "more than the script",
		"S: hello {*}\nC: login ann":                                               "which is not in the script",
		"S: hello {*}\nP: login ann":                                               "dials no member",
		"S: hello {*}\nC: login ann\ndial x":                                       "mailmux dials 10.0.0.1",
		"S: hello {*}\nC: login ann\nP: bye":                                       `got "login ann"`,
		"S: hello {*}\nend client":                                                 `mailmux said "gone`,
		"S: hello {*}\nC: x\nC: bye\nend client":                                   `said "x`,
		"S: hello {*}\nC: {unheard}":                                               "not heard",
		"S: hello {*}\nevent outcome=ok":                                           "has not ended",
		"S: hello {*}\nC: bye\nend client\nevent outcome=ok":                       `outcome="gone"`,
		"S: hello {*}\nC: login ann\nP: login ann\nB: ok\nS: in\nC: x\nP: y":       `got "x"`,
		"S: hello {*}\nC: login ann\nP: login ann\nB: ok\nS: in\nend client":       "does not close",
		"# set listener.tls=implicit\nS: hello {*}":                                "got",
		"S: hello {*}\nTLS client":                                                 "TLS with mailmux",
		"S: hello {*}\nC: login ann\nP: login ann\nB: ok\nC: y\nB: x\nS: in\nS: x": "more than the script: P",
	} {
		if err := playParrot(t, files, source); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\ngot  %v\nwant %s", source, err, want)
		}
	}
}
