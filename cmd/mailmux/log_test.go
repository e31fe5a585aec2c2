package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"mailmux/cmd/internal/conf"
	"mailmux/proxy"
)

// TestLog holds what a configuration makes of a line.
func TestLog(t *testing.T) {
	tests := []struct {
		config conf.Log
		want   string // "" for no line
	}{
		{conf.Log{Time: "off"}, "level=INFO msg=words key=value\n"},
		{conf.Log{Time: "off", Format: "json"}, `{"level":"INFO","msg":"words","key":"value"}` + "\n"},
		{conf.Log{Time: "off", Level: "warn"}, ""},
	}
	for _, tt := range tests {
		var b bytes.Buffer
		var level slog.LevelVar
		log := newLogger(tt.config, &b, &level)
		log.Info("words", "key", "value")
		if b.String() != tt.want {
			t.Errorf("%+v: %q, want %q", tt.config, &b, tt.want)
		}
		b.Reset()
		level.Set(slog.LevelDebug) // as a reload does
		if log.Debug("words"); b.Len() == 0 {
			t.Errorf("%+v: the level cannot be changed", tt.config)
		}
	}
}

// TestJournal wants the time to be left out where the journal, which has its own, reads the log.
func TestJournal(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "journal"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		t.Fatal(err)
	}
	for stream, want := range map[string]bool{"": true, fmt.Sprintf("%d:%d", stat.Dev, stat.Ino): false, "1:1": true} {
		t.Setenv("JOURNAL_STREAM", stream)
		if err := file.Truncate(0); err != nil {
			t.Fatal(err)
		}
		lines := newBacklog(file)
		newLogger(conf.Log{}, lines, new(slog.LevelVar)).Info("words")
		lines.close()
		text, err := os.ReadFile(file.Name())
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(string(text), "time="); got != want {
			t.Errorf("JOURNAL_STREAM=%q: %q, with time: want %v", stream, text, want)
		}
	}
}

// TestFit wants no more sessions than there are open files for, and the operator to be told.
func TestFit(t *testing.T) {
	files, err := raiseFiles()
	if err != nil {
		t.Fatal(err)
	}
	limits, advice := fit(proxy.Limits{Sessions: int(min(files, 1<<30))})
	if want := (int(min(files, 1<<30)) - ownFiles) / perSession; limits.Sessions != want || !strings.Contains(advice, "LimitNOFILE=") {
		t.Errorf("%d sessions, advice %q; want %d", limits.Sessions, advice, want)
	}
	if limits, advice = fit(proxy.Limits{Sessions: 10}); limits.Sessions != 10 || advice != "" {
		t.Errorf("%d sessions, advice %q; want 10 and none", limits.Sessions, advice)
	}
}
