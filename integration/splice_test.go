package integration

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"mailmux/integration/stage"
	"mailmux/integration/talk"
)

const bulk = 64 << 20

// A bulk transfer between two plain legs goes through splice(2), so that its bytes never come up into the process; the
// system calls are counted by strace. Every byte arrives.
func TestSplice(t *testing.T) {
	t.Parallel()
	w := world(t)
	strace := needProgram(t, "strace", "strace")
	sum := sha256.New()
	sent := make(chan [32]byte, 1)
	ip := w.Net.IP(stage.HostClient + 62)
	scripted(t, ip+":10143", func(conn net.Conn) { bulkMember(conn, sent) })
	d := ownDaemon(t, w, func(s *setup) {
		s.Hosts = "  bulk.example.com: {members: [" + ip + "], check: {mode: off}}"
		s.Servers = "ldif:" + writeLDIF(t, s.Dir, stage.Account{Login: "bulk@example.com", Host: "bulk.example.com", Password: "x"})
	})
	c := d.dial(t, talk.IMAP, talk.Plain)
	if r, err := c.Login(talk.Command, "bulk@example.com", "x"); err != nil || !r.OK {
		t.Fatalf("%+v, %v", r, err)
	}
	report := filepath.Join(d.Dir, "strace.out")
	trace, err := stage.Start("strace", filepath.Join(d.Dir, "strace.log"), strace, "-f", "-c", "-e", "trace=splice,read,write,recvfrom,sendto,recvmsg,sendmsg",
		"-o", report, "-p", strconv.Itoa(d.PID()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(trace.Stop)
	attached(t, d, trace)
	if err := c.Send("b FETCH\r\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := c.ReadLine(); err != nil || line != fmt.Sprintf("* 1 FETCH {%d}", bulk) {
		t.Fatalf("%q, %v", line, err)
	}
	if _, err := io.CopyN(sum, c.Reader(), bulk); err != nil {
		t.Fatal(err)
	}
	if want := <-sent; [32]byte(sum.Sum(nil)) != want {
		t.Error("what arrives is not what was sent")
	}
	trace.Stop()
	b, err := os.ReadFile(report)
	if err != nil {
		t.Fatal(err)
	}
	calls := straceCalls(string(b))
	t.Logf("system calls for %d MiB: %v", bulk>>20, calls)
	if calls["splice"] == 0 {
		t.Fatalf("no splice(2) in:\n%s", b)
	}
	if copied := calls["read"] + calls["recvfrom"]; copied > calls["splice"] {
		t.Errorf("%d reads beside %d splices: the bytes are copied through the process", copied, calls["splice"])
	}
}

// attached waits until the tracer has stopped the daemon's threads once.
func attached(t testing.TB, d *daemon, trace *stage.Process) {
	t.Helper()
	eventually(t, "strace attached", func() error {
		select {
		case <-trace.Done():
			t.Skipf("strace cannot attach here: %s", trace.Tail(500))
		default:
		}
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.PID()))
		if err != nil {
			return err
		}
		for line := range strings.SplitSeq(string(b), "\n") {
			if pid, ok := strings.CutPrefix(line, "TracerPid:\t"); ok && pid != "0" {
				return nil
			}
		}
		return fmt.Errorf("no tracer")
	})
}

// straceCalls reads the table that strace -c prints.
func straceCalls(report string) map[string]int {
	calls := make(map[string]int)
	for line := range strings.SplitSeq(report, "\n") {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		if n, err := strconv.Atoi(f[3]); err == nil {
			calls[f[len(f)-1]] = n
		}
	}
	return calls
}

// bulkMember takes a login, and answers FETCH with a large literal.
func bulkMember(conn net.Conn, sent chan<- [32]byte) {
	if _, err := io.WriteString(conn, "* OK [CAPABILITY IMAP4rev1 SASL-IR LITERAL+ AUTH=PLAIN] bulk ready.\r\n"); err != nil {
		return
	}
	c := bufio.NewReader(conn)
	for {
		line, err := c.ReadString('\n')
		if err != nil {
			return
		}
		tag, command, _ := strings.Cut(strings.TrimSpace(line), " ")
		if command != "FETCH" {
			fmt.Fprintf(conn, "%s OK done\r\n", tag)
			continue
		}
		fmt.Fprintf(conn, "* 1 FETCH {%d}\r\n", bulk)
		sum := sha256.New()
		block := make([]byte, 64<<10)
		for i := range bulk / len(block) {
			for j := range block {
				block[j] = byte(i*7 + j*13)
			}
			sum.Write(block)
			if _, err := conn.Write(block); err != nil {
				return
			}
		}
		sent <- [32]byte(sum.Sum(nil))
		fmt.Fprintf(conn, ")\r\n%s OK done\r\n", tag)
	}
}
