package submission

import (
	"testing"

	"mailmux/proxy/smtpwire"
)

// BenchmarkParse parses what a client says up to its login, in two lines.
func BenchmarkParse(b *testing.B) {
	ehlo, login := []byte("EHLO client.example.com"), []byte("AUTH PLAIN AGFubkBleGFtcGxlLmNvbQBzZXNhbWU=")
	b.ReportAllocs()
	for b.Loop() {
		verb, args := split(ehlo)
		if _, ok := lookup(verb); !ok {
			b.Fatal("EHLO is not known")
		}
		if _, ok := smtpwire.ParseHelo(args); !ok {
			b.Fatal("no name")
		}
		verb, args = split(login)
		if _, ok := lookup(verb); !ok {
			b.Fatal("AUTH is not known")
		}
		if _, _, err := parseAuth(args); err != nil {
			b.Fatal(err)
		}
	}
}
