package submission

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"mailmux/proxy"
	"mailmux/proxy/wire"
)

// patient answers every challenge.
type patient struct{ initial []byte }

func (p patient) Start() (string, []byte, error)        { return "PLAIN", p.initial, nil }
func (p patient) Next(challenge []byte) ([]byte, error) { return challenge, nil }

// play says AUTH to a member that has its answers ready, and returns what it was told.
func play(exchange patient, answers string) (told string, err error) {
	ours, member := net.Pipe()
	heard := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(member)
		heard <- string(b)
	}()
	go io.WriteString(member, answers)
	conn := wire.NewConn(ours, 4096)
	l, err := sayAuth(conn, []string{"plain"}, exchange)
	if err == nil {
		_, err = l.converse()
	}
	conn.Flush()
	ours.Close()
	return <-heard, err
}

func TestMemberThatAsksWithoutEnd(t *testing.T) {
	told, err := play(patient{[]byte("x")}, strings.Repeat("334 YQ==\r\n", 1000))
	if !errors.Is(err, proxy.ErrProtocol) || strings.Count(told, "YQ==\r\n") != maxChallenges {
		t.Errorf("%v after %q", err, told)
	}
}

func TestInitialResponse(t *testing.T) {
	longest := (maxCommand - len("AUTH PLAIN ")) / 4 * 3
	for _, tt := range []struct {
		initial []byte
		answers string
		first   string
		second  string
	}{
		{nil, "334 \r\n235 ok\r\n", "AUTH PLAIN", ""},
		{[]byte{}, "235 ok\r\n", "AUTH PLAIN =", ""},
		{[]byte("a"), "235 ok\r\n", "AUTH PLAIN YQ==", ""},
		{make([]byte, longest), "235 ok\r\n", "AUTH PLAIN " + strings.Repeat("AAAA", longest/3), ""},
		{make([]byte, longest+1), "334 \r\n235 ok\r\n", "AUTH PLAIN", strings.Repeat("AAAA", longest/3) + "AA=="},
	} {
		told, err := play(patient{tt.initial}, tt.answers)
		first, second, _ := strings.Cut(strings.TrimSuffix(told, "\r\n"), "\r\n")
		if err != nil || first != tt.first || second != tt.second || len(first) > maxCommand {
			t.Errorf("%d bytes: %q, %v", len(tt.initial), told, err)
		}
	}
}

func TestMechanismNotOffered(t *testing.T) {
	conn := wire.NewConn(nil, 4096)
	for _, mechanisms := range [][]string{nil, {"SCRAM-SHA-256"}} {
		if _, err := sayAuth(conn, mechanisms, patient{}); !errors.Is(err, proxy.ErrProtocol) {
			t.Errorf("%q: %v", mechanisms, err)
		}
	}
}
