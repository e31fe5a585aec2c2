package integration

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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
