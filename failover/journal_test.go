package failover

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"mailmux/directory"
)

func undone(t *testing.T, u Undo) []Item {
	t.Helper()
	var items []Item
	if err := u.Feed(t.Context(), func(i Item) error { items = append(items, i); return nil }); err != nil {
		t.Fatal(err)
	}
	return items
}

func TestJournalIsReadBackwards(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	for run := range 2 {
		j, err := OpenJournal(path, Header{Run: fmt.Sprint("run", run), Server: fmt.Sprint("server", run)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := OpenJournal(path, Header{}); err == nil {
			t.Error("two runs write one journal")
		}
		first, err := j.Intend([]directory.Change{
			{DN: fmt.Sprint("uid=1,r=", run), From: "a", To: "b", OldTo: "a"},
			{DN: fmt.Sprint("uid=2,r=", run), From: "a", To: "b", OldFrom: "o", OldTo: "o"},
			{DN: fmt.Sprint("uid=<3>\u00f6,r=", run), From: "a", To: "b", OldTo: "a"},
		})
		if err != nil || first != 1 {
			t.Fatalf("Intend: %d, %v", first, err)
		}
		if err := j.Void(2, Outcome{Conflict, errors.New("why")}); err != nil {
			t.Fatal(err)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		// The run is killed while it writes a line.
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(f, `{"n":4,"dn":"uid=torn`)
		f.Close()
	}
	change := func(uid string, run int) Item {
		return Item{Change: directory.Change{DN: fmt.Sprintf("uid=%s,r=%d", uid, run), From: "b", To: "a", OldFrom: "a"}}
	}
	bar := Item{Barrier: true}
	for _, c := range []struct {
		u    Undo
		want []Item
	}{
		{Undo{}, []Item{change("<3>ö", 1), change("1", 1), bar, change("<3>ö", 0), change("1", 0), bar}},
		{Undo{Run: "run0"}, []Item{bar, change("<3>ö", 0), change("1", 0), bar}},
		{Undo{Server: "server1"}, []Item{change("<3>ö", 1), change("1", 1), bar, bar}},
		{Undo{Run: "run7"}, []Item{bar, bar}},
	} {
		c.u.Path = path
		if got := undone(t, c.u); fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%+v:\ngot  %v\nwant %v", c.u, got, c.want)
		}
	}
	other := Undo{Path: filepath.Join(t.TempDir(), "x")}
	if err := os.WriteFile(other.Path, []byte("{}\nhello\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := other.Feed(t.Context(), func(Item) error { return nil }); err == nil || !strings.Contains(err.Error(), "not a journal") {
		t.Errorf("another file: %v", err)
	}
}

// Behind a line that could not be written whole nothing more is written: the next one would be lost in it.
func TestJournalEndsWithItsDisk(t *testing.T) {
	j, err := OpenJournal(filepath.Join(t.TempDir(), "j"), Header{})
	if err != nil {
		t.Fatal(err)
	}
	whole := j.file
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	j.file = full
	batch := []directory.Change{{DN: "uid=1", From: "a", To: "b"}}
	if _, err := j.Intend(batch); err == nil {
		t.Error("a full disk is no error")
	}
	j.file = whole // there is room again
	if _, err := j.Intend(batch); err == nil {
		t.Error("it goes on behind half a line")
	}
	if _, err := (&Applier{Journal: j}).Write(t.Context(), batch); !errors.Is(err, ErrJournal) {
		t.Errorf("a change that is not written down is made: %v", err)
	}
	if err := j.Void(1, Outcome{}); err == nil {
		t.Error("it goes on behind half a line")
	}
	if text, err := os.ReadFile(whole.Name()); err != nil || strings.Count(string(text), "\n") != 1 {
		t.Errorf("%v: %s", err, text)
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
}

// Lines come whole and in order, wherever the blocks that are read end.
func TestBackwards(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var lines []string
		for range rapid.IntRange(0, 40).Draw(t, "lines") {
			lines = append(lines, strings.Repeat("x", rapid.IntRange(1, 30_000).Draw(t, "length"))+fmt.Sprint(len(lines)))
		}
		text := strings.Join(lines, "\n")
		if len(lines) > 0 {
			text += "\n"
		}
		text += rapid.SampledFrom([]string{"", "torn"}).Draw(t, "end")
		var got []string
		err := backwards(bytes.NewReader([]byte(text)), int64(len(text)), func(line []byte) error {
			got = append([]string{string(line)}, got...)
			return nil
		})
		if err != nil || strings.Join(got, "\n") != strings.Join(lines, "\n") {
			t.Fatalf("%d lines, got %d, %v", len(lines), len(got), err)
		}
	})
}
