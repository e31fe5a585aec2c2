package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// audited is what testdata/ledger.py prints.
type audited struct {
	Counts map[string]int `json:"counts"`
	Faults []string       `json:"faults"`
}

// Two Dovecots share one mail directory behind two frontends. People append, deliver, read and expunge through both of them
// while the Dovecots are killed in turn. In the end every message that was acknowledged is there, once and whole, nothing
// that was expunged has come back, and no server has seen a broken index. make soak-cluster does it for minutes.
func TestClusterSharedStorage(t *testing.T) {
	t.Parallel()
	python := needProgram(t, "python3", "python3")
	f := newFleet(t, 2, 6, true)
	fronts := []*frontend{f.front(t, 30, nil), f.front(t, 31, nil)}
	var doors, logins []string
	for _, d := range fronts {
		d.awaitMembers(t, fleetHost, imapState, "n1 up", "n2 up")
		doors = append(doors, fmt.Sprintf("%s:%d:%d", d.IP, d.Port(143), d.Port(24)))
	}
	for _, a := range f.Accounts {
		logins = append(logins, a.Login)
	}
	length := 12 * time.Second
	if soak() {
		length = 5 * time.Minute
	}
	ctx, cancel := context.WithTimeout(t.Context(), length+2*time.Minute)
	defer cancel()
	type answer struct {
		out string
		err error
	}
	done := make(chan answer, 1)
	go func() {
		argv := append([]string{python, "testdata/ledger.py", "work", fmt.Sprint(length.Seconds()), "open", strings.Join(logins, ",")}, doors...)
		out, err := runFor(ctx, argv...)
		done <- answer{out, err}
	}()
	kills := 0
	var worked answer
	for working := true; working; kills++ {
		victim := f.Members[kills%2]
		victim.Kill()
		if err := victim.Restart(); err != nil {
			t.Error(err)
		}
		for _, d := range fronts {
			d.awaitMembers(t, fleetHost, reachable, "n1 true", "n2 true")
		}
		select {
		case worked = <-done:
			working = false
		default:
		}
	}
	if worked.err != nil {
		t.Fatal(worked.err)
	}
	f.audit(t, python, worked.out, doors, kills)
}

// reachable says whether the checks of a member pass. Its breaker may be open still, from sessions that were killed with it:
// the next login of its own accounts closes it.
func reachable(m memberState) string { return fmt.Sprint(m.Name, " ", m.state("imap") != "down") }

// audit compares the mailboxes with what the clients were told.
func (f *fleet) audit(t testing.TB, python, out string, doors []string, kills int) {
	t.Helper()
	var told audited
	if err := json.Unmarshal([]byte(out), &told); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	path := filepath.Join(f.Dir, "ledger.json")
	if err := os.WriteFile(path, []byte(out), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, door := range doors {
		out, err := runFor(t.Context(), python, "testdata/ledger.py", "verify", path, "open", door)
		if err != nil {
			t.Fatal(err)
		}
		var found audited
		if err := json.Unmarshal([]byte(out), &found); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		t.Logf("%d kills; %s; by the ledger %s", kills, figures(told.Counts), figures(found.Counts))
		told.Faults = append(told.Faults, found.Faults...)
		if found.Counts["kept"] < 10 || told.Counts["logins"] < 10 {
			t.Errorf("too little was done to say anything")
		}
	}
	for _, fault := range told.Faults[:min(len(told.Faults), 10)] {
		t.Error(fault)
	}
	f.indexes(t, kills)
}

// broken is how Dovecot tells of an index that it had to mend.
var broken = regexp.MustCompile(`(?i)corrupt|fscking|broken|unexpectedly (lost|shrunk)|marked.*expunged`)

// indexes has Dovecot look at every mailbox: resynchronising must find every message, and no log may tell of a broken index.
// What it may find beyond that are files of expunged messages. A Dovecot that is killed between the expunge in the index
// and the removal of the file leaves it, with or without frontends: one alone, killed 205 times in five minutes with
// clients of its own, left 3.
func (f *fleet) indexes(t testing.TB, kills int) {
	t.Helper()
	d := f.Members[0]
	left := 0
	for _, a := range f.Accounts {
		var before, after int
		var uids [2]string
		for i, messages := range []*int{&before, &after} {
			out, err := d.Admin(t.Context(), "mailbox", "status", "-u", a.Login, "messages uidnext uidvalidity", "INBOX")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := fmt.Sscanf(out, "INBOX messages=%d %s", messages, &uids[i]); err != nil {
				t.Fatalf("%q: %v", out, err)
			}
			if _, err := d.Admin(t.Context(), "force-resync", "-u", a.Login, "INBOX"); err != nil {
				t.Error(err)
			}
		}
		if after < before || uids[0] != uids[1] {
			t.Errorf("resynchronising the mailbox of %s changed it: %d messages, %s, and then %d, %s", a.Login, before, uids[0], after, uids[1])
		}
		left += after - before
	}
	t.Logf("%d files of expunged messages", left)
	if left > kills {
		t.Errorf("resynchronising found %d files that the indexes do not know, after %d kills", left, kills)
	}
	for _, d := range f.Members {
		log, err := os.ReadFile(filepath.Join(filepath.Dir(d.Log), "dovecot.log"))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(log)) {
			if broken.MatchString(line) {
				t.Errorf("%s: %s", d.HostName, line)
			}
		}
	}
}

// figures prints counts in order.
func figures(counts map[string]int) string {
	var parts []string
	for _, what := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%d %s", counts[what], what))
	}
	return strings.Join(parts, ", ")
}
