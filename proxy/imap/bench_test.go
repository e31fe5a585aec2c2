package imap

import (
	"bytes"
	"io"
	"testing"

	"mailmux/proxy/prototest"
)

// A whole login on connections in memory: greeting, LOGIN, lookup, ID and LOGIN to the backend, hand-over, end. The
// allocations are those of the engine and of the connections, too.
func BenchmarkLogin(b *testing.B) {
	w := prototest.NewWorld(b, New(), "imap", prototest.NewFiles(b), prototest.Setting{Key: "limits.exempt", Value: "192.0.2.0/24"},
		prototest.Setting{Key: "trace", Value: "off"})
	defer w.Server.Close()
	buf := make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		c := w.Connect()
		hear(b, c, buf, "ready.\r\n")
		io.WriteString(c, "a LOGIN ann@example.com sesame\r\n")
		d := <-w.Dials
		io.WriteString(d.Conn, "* OK [CAPABILITY IMAP4rev1 SASL-IR LOGIN-REFERRALS ID ENABLE IDLE LITERAL+ AUTH=PLAIN] ready.\r\n")
		hear(b, d.Conn, buf, "\"sesame\"\r\n")
		io.WriteString(d.Conn, "* ID (\"name\" \"Dovecot\")\r\nI OK ID completed.\r\n"+
			"L OK [CAPABILITY IMAP4rev1 SASL-IR LOGIN-REFERRALS ID ENABLE IDLE SORT THREAD=REFERENCES UIDPLUS CONDSTORE QRESYNC] Logged in\r\n")
		hear(b, c, buf, "Logged in\r\n")
		c.Close()
		d.Conn.Close()
	}
}

// hear reads until what was heard ends as it should.
func hear(b *testing.B, r io.Reader, buf []byte, end string) {
	b.Helper()
	n := 0
	for !bytes.HasSuffix(buf[:n], []byte(end)) {
		more, err := r.Read(buf[n:])
		if n += more; err != nil {
			b.Fatalf("%q, %v", buf[:n], err)
		}
	}
}
