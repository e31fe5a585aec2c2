package integration

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mailmux/integration/stage"
	"mailmux/integration/talk"
)

// hostfailover runs the operator's command with the daemon's own configuration file.
func (d *daemon) hostfailover(t testing.TB, args ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, builtProgram(t, "hostfailover"), args...)
	cmd.Dir = t.TempDir() // the journal goes to the working directory
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return out.String(), exit.ExitCode()
	}
	if err != nil {
		t.Fatalf("hostfailover %s: %v\n%s", strings.Join(args, " "), err, out.String())
	}
	return out.String(), 0
}

// The whole purpose: a backend dies, its storage is connected to the other one, hostfailover moves its accounts, and
// their next logins go there; later they are moved back.
func TestFailover(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	// hostfailover writes: it binds as one who may.
	d := ownDaemon(t, w, func(s *setup) {
		s.Directory = "  cache: {ttl: 200ms}"
	})
	as := []string{"-config", d.Config, "-bind-dn", stage.RootDN, "-bind-password-file", rootSecret(t)}
	run := func(code int, args ...string) string {
		t.Helper()
		out, got := d.hostfailover(t, append(args[:1:1], append(as, args[1:]...)...)...)
		if got != code {
			t.Fatalf("hostfailover %s ends with %d, want %d:\n%s", strings.Join(args, " "), got, code, out)
		}
		return out
	}
	bob, ann := w.Account("bob@example.com"), w.Account("ann@example.com")
	goesTo := func(a stage.Account, want string) {
		t.Helper()
		for _, p := range talk.Protocols() {
			eventually(t, a.Login+" on "+want, func() error {
				c := d.dial(t, p, talk.StartTLS)
				defer c.Close()
				r, err := c.Login("PLAIN-IR", a.Login, a.Password)
				if err == nil && !r.OK {
					err = &refusal{r.Final}
				}
				if err != nil {
					return err
				}
				at, err := c.Where()
				if err == nil && at != want {
					err = &refusal{"the session is on " + at}
				}
				return err
			})
		}
	}
	goesTo(bob, stage.Back2)
	w.Back2.Kill()

	out := run(0, "status")
	if !strings.Contains(out, stage.Back2) {
		t.Errorf("status does not name %s:\n%s", stage.Back2, out)
	}
	run(0, "move", "-from", stage.Back2, "-to", stage.Back1, "-yes")
	if got := hostOf(t, w, bob.Login); got != stage.Back2 {
		t.Fatalf("a dry run moved bob to %s", got)
	}
	run(0, "move", "-from", stage.Back2, "-to", stage.Back1, "-apply", "-yes")
	if got := hostOf(t, w, bob.Login); got != stage.Back1 {
		t.Fatalf("bob is on %s", got)
	}
	goesTo(bob, stage.Back1)
	goesTo(ann, stage.Back1)

	if err := w.Back2.Restart(); err != nil {
		t.Fatal(err)
	}
	run(0, "restore", "-host", stage.Back2, "-apply", "-yes")
	goesTo(bob, stage.Back2)
	goesTo(ann, stage.Back1)
	left, err := w.Slapd.Search(t.Context(), "(oldHostServer=*)", "uid")
	if err != nil {
		t.Fatal(err)
	}
	if left != "" {
		t.Errorf("oldHostServer stays behind a restore:\n%s", left)
	}
	run(4, "move", "-from", stage.Back1, "-to", "nowhere.example.com", "-apply", "-yes")
	run(4, "move", "-from", stage.Back1, "-to", stage.Back1, "-apply", "-yes")
}

// hostOf reads an account's home host from the directory.
func hostOf(t testing.TB, w *stage.World, login string) string {
	t.Helper()
	out, err := w.Slapd.Search(t.Context(), "(uid="+login+")", "hostServer")
	if err != nil {
		t.Fatal(err)
	}
	_, host, _ := strings.Cut(out, "hostServer: ")
	host, _, _ = strings.Cut(host, "\n")
	return host
}

// rootSecret is a file with the password of the directory's root.
func rootSecret(t testing.TB) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "root.secret")
	if err := os.WriteFile(file, []byte(stage.RootPassword+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// live are logins that go on while a failover runs: many accounts, over two frontends, in turn.
type live struct {
	fronts []*daemon
	n      int // accounts

	done  chan struct{}
	wg    sync.WaitGroup
	count atomic.Int64

	mu     sync.Mutex
	logins []liveLogin
	errs   []error
}

type liveLogin struct {
	began, ended time.Time
	host         string
}

func liveName(i int) string { return fmt.Sprintf("live%04d@example.com", i) }

// once logs one account in and asks where it is.
func (l *live) once(i int) (liveLogin, error) {
	one := liveLogin{began: time.Now()}
	c, err := l.dial(i)
	if err != nil {
		return one, err
	}
	defer c.Close()
	one.host, err = c.Where()
	one.ended = time.Now()
	return one, err
}

// dial opens a session of an account, over one of the frontends.
func (l *live) dial(i int) (*talk.Conn, error) {
	d := l.fronts[i/l.n%len(l.fronts)]
	c, err := talk.Dial(talk.IMAP, d.addr(talk.IMAP, talk.Plain), talk.Options{})
	if err != nil {
		return nil, err
	}
	r, err := c.Login("PLAIN-IR", liveName(i%l.n), "sesame")
	if err == nil && !r.OK {
		err = &refusal{r.Final}
	}
	if err != nil {
		c.Close()
	}
	return c, err
}

// start has workers log in until stop.
func (l *live) start(workers int) {
	l.done = make(chan struct{})
	for w := range workers {
		l.wg.Go(func() {
			for i := w; ; i += workers {
				select {
				case <-l.done:
					return
				default:
				}
				one, err := l.once(i)
				l.mu.Lock()
				if err == nil {
					l.logins = append(l.logins, one)
				} else {
					l.errs = append(l.errs, fmt.Errorf("begun at %s: %w", one.began.Format(time.TimeOnly+".000"), err))
				}
				l.mu.Unlock()
				l.count.Add(1)
			}
		})
	}
}

// reach waits for so many more logins.
func (l *live) reach(t *testing.T, more int64) {
	goal := l.count.Load() + more
	eventually(t, "logins go on", func() error {
		if n := l.count.Load(); n < goal {
			return fmt.Errorf("%d of %d", n, goal)
		}
		return nil
	})
}

// namedMember is a backend that takes every login, and says who it is.
func namedMember(name string) func(net.Conn) {
	return func(conn net.Conn) {
		fmt.Fprint(conn, "* OK [CAPABILITY IMAP4rev1 SASL-IR LITERAL+ ID AUTH=PLAIN] ready.\r\n")
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			tag, command, _ := strings.Cut(lines.Text(), " ")
			untagged := ""
			if strings.HasPrefix(strings.ToUpper(command), "ID ") {
				untagged = fmt.Sprintf("* ID (\"name\" %q)\r\n", name)
			}
			if _, err := fmt.Fprintf(conn, "%s%s OK [CAPABILITY IMAP4rev1 IDLE ID] done\r\n", untagged, tag); err != nil {
				return
			}
		}
	}
}

// followed is how late after the last change a login may still go to the old host, or a session stay there. It takes
// some milliseconds; a busy machine takes longer, but the life of the cache is 10 minutes.
const followed = 5 * time.Second

// Accounts log in all the time while hostfailover moves them, over frontends whose caches know them. After the last
// change the frontends are told, and from then on every login goes to the new host; the sessions on the old one end.
func TestLoginsFollowAFailover(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	for i, name := range []string{"old", "new"} {
		scripted(t, w.Net.Addr(61+i, stage.PortIMAP), namedMember(name))
	}
	configure := func(s *setup) {
		s.Directory = "  cache: {ttl: 10m}"
		s.Hosts = fmt.Sprintf("  old.example.com: {members: [%s], check: {mode: off}}\n  new.example.com: {members: [%s], check: {mode: off}}", w.Net.IP(61), w.Net.IP(62))
	}
	l := &live{n: 1000, fronts: []*daemon{ownDaemon(t, w, configure), ownDaemon(t, w, configure)}}
	var ldif strings.Builder
	for i := range l.n {
		fmt.Fprintf(&ldif, "dn: %s\nchangetype: add\nobjectClass: inetOrgPerson\nobjectClass: mailAccount\nuid: %s\ncn: x\nsn: x\nhostServer: old.example.com\n\n", stage.AccountDN(liveName(i)), liveName(i))
	}
	if err := w.Slapd.Modify(t.Context(), ldif.String()); err != nil {
		t.Fatal(err)
	}
	ends := l.stay(t, 100)
	l.start(8)
	l.reach(t, int64(2*l.n)) // both caches know every account
	d := l.fronts[0]
	out, code := d.hostfailover(t, "move", "-config", d.Config, "-bind-dn", stage.RootDN, "-bind-password-file", rootSecret(t),
		"-from", "old.example.com", "-to", "new.example.com", "-apply", "-yes", "-json",
		"-notify", d.Admin, "-notify", l.fronts[1].Admin, "-kick")
	if code != 0 {
		t.Fatalf("exit %d\n%s", code, out)
	}
	finished := time.Now()
	l.reach(t, int64(2*l.n))
	close(l.done)
	l.wg.Wait()
	l.judge(t, lastChange(t, out), finished, ends)
	for _, d := range l.fronts {
		if who, err := d.Get(t.Context(), "/who?host=old.example.com"); err != nil || strings.TrimSpace(who) != "[]" {
			t.Errorf("sessions stay on the old host: %s, %v", who, err)
		}
	}
}

// stay opens sessions that do nothing, and gives the times at which they end.
func (l *live) stay(t *testing.T, n int) <-chan time.Time {
	ends := make(chan time.Time, n)
	for i := range n {
		c, err := l.dial(i * 20)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		go func() {
			_, _ = io.Copy(io.Discard, c.Net) // until it ends, however
			ends <- time.Now()
		}()
	}
	return ends
}

// judge looks at every login, and prints the distribution.
func (l *live) judge(t *testing.T, last, finished time.Time, ends <-chan time.Time) {
	var late, gone []time.Duration
	before, after := 0, 0
	for _, one := range l.logins {
		switch {
		case one.ended.Before(last):
			before++
		case one.host == "old":
			late = append(late, one.ended.Sub(last))
		default:
			after++
		}
		if one.host == "old" && one.began.After(finished) {
			t.Errorf("a login begun %s after hostfailover ended went to the old host", one.began.Sub(finished))
		}
	}
	for range cap(ends) {
		select {
		case at := <-ends:
			gone = append(gone, at.Sub(last))
		case <-time.After(followed):
			t.Fatalf("%d of %d sessions on the old host have ended", len(gone), cap(ends))
		}
	}
	t.Logf("%d logins before the last change; after it %d to the new host and %d to the old one, the last of them after %s: %s",
		before, after, len(late), quantile(late, 1), spread(late))
	t.Logf("%d idle sessions on the old host ended after the last change: %s", len(gone), spread(gone))
	if before < l.n || after < l.n {
		t.Errorf("too few logins: %d before, %d after", before, after)
	}
	if quantile(late, 1) > followed || quantile(gone, 1) > followed || quantile(gone, 0) < -followed {
		t.Errorf("the frontends do not follow")
	}
	// A session that was closed while it logged in is told so; it is tried again by its mail program.
	if len(l.errs) > len(l.fronts)*8 {
		t.Errorf("%d logins failed: %v", len(l.errs), l.errs[:5])
	}
	for _, err := range l.errs {
		t.Logf("failed login: %v", err)
	}
}

func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	d = slices.Sorted(slices.Values(d))
	return d[int(q*float64(len(d)-1))].Round(100 * time.Microsecond)
}

func spread(d []time.Duration) string {
	return fmt.Sprintf("first %s, median %s, 90 %% %s, last %s", quantile(d, 0), quantile(d, 0.5), quantile(d, 0.9), quantile(d, 1))
}

// lastChange reads the time of the last change from what hostfailover -json wrote.
func lastChange(t *testing.T, out string) time.Time {
	t.Helper()
	for line := range strings.SplitSeq(out, "\n") {
		var event struct {
			Event      string
			LastChange time.Time `json:"last_change"`
			Changed    int
		}
		if json.Unmarshal([]byte(line), &event) == nil && event.Event == "summary" && event.Changed > 0 {
			return event.LastChange
		}
	}
	t.Fatalf("no summary:\n%s", out)
	return time.Time{}
}
