package imap

import (
	"crypto/tls"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"mailmux/proxy/backend"
	"mailmux/proxy/prototest"
)

func TestProbe(t *testing.T) {
	for _, c := range []struct {
		name  string
		says  string // the member, all at once
		probe backend.Probe
		want  []string
		sent  string
		err   string
	}{
		{name: "capabilities in the greeting", says: "* OK [CAPABILITY IMAP4rev1 ID] hi\r\n* BYE\r\n",
			want: []string{"IMAP4rev1", "ID"}, sent: "C LOGOUT\r\n"},
		{name: "capabilities asked for", says: "* OK hi\r\n* CAPABILITY IMAP4rev1 IDLE\r\nC OK done\r\n* BYE\r\n",
			want: []string{"IMAP4rev1", "IDLE"}, sent: "C CAPABILITY\r\nC LOGOUT\r\n"},
		{name: "login", says: "* OK [CAPABILITY IMAP4rev1 ID] hi\r\nL OK [CAPABILITY IMAP4rev1 QUOTA] in\r\n* BYE\r\n",
			probe: backend.Probe{User: "check", Password: `a"b`},
			want:  []string{"IMAP4rev1", "ID"}, sent: "L LOGIN \"check\" \"a\\\"b\"\r\nC LOGOUT\r\n"},
		{name: "login by SASL", says: "* OK [CAPABILITY LOGINDISABLED SASL-IR AUTH=PLAIN] hi\r\nL OK in\r\n* BYE\r\n",
			probe: backend.Probe{User: "check", Password: "x"},
			want:  []string{"LOGINDISABLED", "SASL-IR", "AUTH=PLAIN"}, sent: "L AUTHENTICATE PLAIN AGNoZWNrAHg=\r\nC LOGOUT\r\n"},
		{name: "login refused", says: "* OK [CAPABILITY IMAP4rev1] hi\r\nL NO [UNAVAILABLE] storage is away\r\n",
			probe: backend.Probe{User: "check", Password: "x"}, err: "storage is away"},
		{name: "login that would end the line", says: "* OK [CAPABILITY IMAP4rev1] hi\r\n",
			probe: backend.Probe{User: "check", Password: "x\r\ny"}, err: "illegal"},
		{name: "bye", says: "* BYE [UNAVAILABLE] full\r\n", err: "full"},
		{name: "not IMAP", says: "+OK POP3 ready\r\n", err: "POP3 ready"},
		{name: "nothing", err: "greeting"},
		{name: "no STARTTLS", says: "* OK [CAPABILITY IMAP4rev1] hi\r\n", probe: backend.Probe{Mode: backend.StartTLS}, err: "does not offer STARTTLS"},
		{name: "injected", says: "* OK hi\r\nS OK go\r\n* OK more\r\n", probe: backend.Probe{Mode: backend.StartTLS}, err: "in the clear"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ours, theirs := prototest.Pipe(&net.TCPAddr{}, &net.TCPAddr{})
			io.WriteString(theirs, c.says)
			theirs.CloseWrite()
			got, err := Prober{}.Probe(t.Context(), ours, c.probe)
			ours.Close()
			sent, _ := io.ReadAll(theirs)
			if !slices.Equal(got, c.want) || string(sent) != c.sent {
				t.Errorf("got %q, sent %q", got, sent)
			}
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("error %v, want one with %q", err, c.err)
			}
		})
	}
}

func TestProbeByStartTLS(t *testing.T) {
	serverTLS, clientTLS := prototest.TLS(t)
	ours, theirs := prototest.Pipe(&net.TCPAddr{}, &net.TCPAddr{})
	heard := make(chan string, 1)
	go func() {
		defer theirs.Close()
		io.WriteString(theirs, "* OK [CAPABILITY IMAP4rev1 STARTTLS EVIL] hi\r\n")
		var clear [len("S STARTTLS\r\n")]byte
		io.ReadFull(theirs, clear[:])
		io.WriteString(theirs, "S OK go\r\n")
		c := tls.Server(theirs, serverTLS)
		io.WriteString(c, "* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\nC OK\r\n* BYE\r\n")
		var encrypted [len("C CAPABILITY\r\nC LOGOUT\r\n")]byte
		io.ReadFull(c, encrypted[:])
		heard <- string(clear[:]) + string(encrypted[:])
	}()
	got, err := Prober{}.Probe(t.Context(), ours, backend.Probe{Mode: backend.StartTLS, TLS: clientTLS})
	ours.Close()
	if err != nil || !slices.Equal(got, []string{"IMAP4rev1", "AUTH=PLAIN"}) {
		t.Errorf("got %q, %v", got, err)
	}
	if said := <-heard; said != "S STARTTLS\r\nC CAPABILITY\r\nC LOGOUT\r\n" {
		t.Errorf("said %q", said)
	}
}
