package integration

import (
	"testing"

	"mailmux/integration/stage"
	"mailmux/integration/talk"
)

// One backend dies: its accounts get a temporary error, those of the others notice nothing, sessions included; when it
// is back its accounts log in without a restart.
func TestBackendOutage(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	d := ownDaemon(t, w, nil)
	ann, bob := w.Account("ann@example.com"), w.Account("bob@example.com")
	open := d.dial(t, talk.IMAP, talk.StartTLS)
	login(t, open, "PLAIN-IR", ann, stage.Back1)
	lost := d.dial(t, talk.IMAP, talk.StartTLS)
	login(t, lost, "PLAIN-IR", bob, stage.Back2)
	w.Back2.Kill()
	if rest, err := lost.Rest(); err != nil && len(rest) > 200 {
		t.Errorf("the session on the dead backend ends with %q, %v", rest, err)
	}
	for range 3 { // the checks may see it meanwhile, or not: the client is told the same
		for _, p := range talk.Protocols() {
			r, err := d.dial(t, p, talk.StartTLS).Login("PLAIN-IR", bob.Login, bob.Password)
			if err != nil {
				t.Fatal(err)
			}
			refused(t, p, r, toldTemp)
			login(t, d.dial(t, p, talk.StartTLS), "PLAIN-IR", ann, stage.Back1)
		}
	}
	where(t, open, stage.Back1)
	if err := w.Back2.Restart(); err != nil {
		t.Fatal(err)
	}
	for _, p := range talk.Protocols() {
		eventually(t, "a login on the backend that is back", func() error {
			c := d.dial(t, p, talk.StartTLS)
			defer c.Close()
			r, err := c.Login("PLAIN-IR", bob.Login, bob.Password)
			if err == nil && !r.OK {
				err = &refusal{r.Final}
			}
			return err
		})
	}
}
