package failover_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"mailmux/directory"
	"mailmux/directory/slapdtest"
	"mailmux/failover"
)

// The benchmark of make bench-failover: FAILOVER_ACCOUNTS says how many accounts, 500,000 for the figures of the README.
// It moves one half of them, by ldapmodify as far as ldapmodifyPart goes, then with single changes as far as
// singlePart goes, then all in transactions, on the same server.
const (
	ldapmodifyPart = 20_000
	singlePart     = 20_000
)

func TestFailoverSpeed(t *testing.T) {
	accounts, _ := strconv.Atoi(os.Getenv("FAILOVER_ACCOUNTS"))
	if accounts == 0 {
		t.Skip("a benchmark: set FAILOVER_ACCOUNTS, as make bench-failover does")
	}
	file := filepath.Join(t.TempDir(), "accounts.ldif")
	writeAccounts(t, file, accounts)
	began := time.Now()
	s := slapdtest.Start(t, slapdtest.Options{LDIFFile: file, Database: unlimited})
	t.Logf("slapadd of %d accounts: %.1f s", accounts, time.Since(began).Seconds())
	os.Remove(file)

	half := accounts / 2
	byTool := ldapmodifyRate(t, s, min(ldapmodifyPart, half/2))
	t.Logf("ldapmodify: %.0f/s", byTool)
	single := moveRate(t, s, failover.Never, min(singlePart, half/2))
	t.Logf("hostfailover, single changes: %.0f/s (%.2f times ldapmodify)", single, single/byTool)
	rest := half - min(ldapmodifyPart, half/2) - min(singlePart, half/2)
	txn := moveRate(t, s, failover.Auto, 0)
	t.Logf("hostfailover, transactions: %.0f/s (%.2f times ldapmodify), %d accounts", txn, txn/byTool, rest)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	t.Logf("memory: %d MB from the system, peak RSS %s", m.Sys>>20, peakRSS(t))
	if n := strings.Count(s.Search("(hostServer=one)", "1.1"), "dn:"); n != 0 {
		t.Errorf("%d accounts are still on the host", n)
	}
	restore := &failover.Restore{Host: "one"}
	began = time.Now()
	summary := doRun(t, s, restore, failover.Auto, 0)
	t.Logf("restore of %d: %.0f/s", summary.Total().Changed, float64(summary.Total().Changed)/time.Since(began).Seconds())
	if !s.Running() {
		t.Error("slapd died")
	}
}

const unlimited = "limits dn.exact=\"" + slapdtest.BindDN + "\" size.soft=unlimited size.hard=unlimited time.soft=unlimited time.hard=unlimited\ncheckpoint 1024 5\n"

func peakRSS(t *testing.T) string {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(string(status), "\n") {
		if text, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			return strings.TrimSpace(text)
		}
	}
	return "unknown"
}

func writeAccounts(t *testing.T, file string, n int) {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriterSize(f, 1<<20)
	fmt.Fprint(w, slapdtest.Skeleton)
	for i := range n {
		fmt.Fprint(w, account(i, [...]string{"one", "two"}[i%2]))
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func userDN(i int) string { return fmt.Sprintf("uid=user%06d,ou=domains,dc=example,dc=com", i) }

func account(i int, host string) string {
	return fmt.Sprintf("dn: %s\nobjectClass: inetOrgPerson\nobjectClass: mailAccount\nuid: user%06d\ncn: User %d\nsn: User\nmail: user%06d@example.com\nhostServer: %s\n\n",
		userDN(i), i, i, i, host)
}

func ldapmodifyRate(t *testing.T, s *slapdtest.Server, n int) float64 {
	t.Helper()
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "dn: %s\nchangetype: modify\ndelete: hostServer\nhostServer: one\n-\nadd: hostServer\nhostServer: two\n-\nadd: oldHostServer\noldHostServer: one\n\n", userDN(2*i))
	}
	cmd := exec.Command("ldapmodify", "-x", "-H", s.URL, "-D", slapdtest.BindDN, "-w", slapdtest.BindPassword)
	cmd.Stdin = strings.NewReader(b.String())
	began := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ldapmodify: %v\n%s", err, out[max(0, len(out)-500):])
	}
	return float64(n) / time.Since(began).Seconds()
}

func moveRate(t *testing.T, s *slapdtest.Server, mode failover.Transactions, limit int) float64 {
	t.Helper()
	began := time.Now()
	summary := doRun(t, s, &failover.Move{From: "one", To: []failover.Target{{Host: "two", Weight: 1}}}, mode, limit)
	return float64(summary.Total().Changed) / time.Since(began).Seconds()
}

func slapdConfig(t testing.TB) directory.Config {
	t.Helper()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(slapdtest.BindPassword), 0o600); err != nil {
		t.Fatal(err)
	}
	return directory.Config{BindDN: slapdtest.BindDN, BindPasswordFile: secret, Base: slapdtest.Base, Timeout: 5 * time.Second}
}

func linkTo(t testing.TB, c directory.Config, servers ...string) *failover.Link {
	t.Helper()
	c.Servers = servers
	l := &failover.Link{
		Servers: servers, Wait: 20 * time.Second, Say: func(format string, args ...any) { t.Logf(format, args...) },
		Open: func(ctx context.Context, server string) (directory.Editor, error) {
			return directory.OpenEditor(ctx, c, server)
		},
	}
	t.Cleanup(l.Close)
	return l
}

func doRun(t testing.TB, s *slapdtest.Server, plan failover.Plan, mode failover.Transactions, limit int) failover.Summary {
	t.Helper()
	link := linkTo(t, slapdConfig(t), s.URL)
	journal, err := failover.OpenJournal(filepath.Join(t.TempDir(), "journal"), failover.Header{Run: "bench", Server: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer journal.Close()
	run := &failover.Run{
		Feed:   &failover.SearchFeed{Link: link, Plan: plan},
		Writer: &failover.Applier{Link: link, Journal: journal, Transactions: mode, Connections: 4, Say: link.Say},
		Again:  true, Limit: limit,
		Report: func(n failover.Note) { t.Errorf("%+v", n) },
	}
	summary, err := run.Do(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return summary
}
