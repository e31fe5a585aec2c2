package main

import (
	"bufio"
	"bytes"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"mailmux/cmd/internal/conf"
)

// TestBacklogOfAStoppedReader has nobody read the log for a while: no writer waits, the oldest lines are all there in order
// once somebody reads, and the log says how many of the others are not.
func TestBacklogOfAStoppedReader(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b := newBacklog(w)
	b.tellBy(newLogger(conf.Log{Time: "off"}, remark{b}, new(slog.LevelVar)))
	line := append(bytes.Repeat([]byte{'x'}, 1023), '\n')
	const lines = 3 * maxBacklog / 1024
	for range lines {
		b.Write(line)
	}
	got, told := 0, 0
	for in := bufio.NewScanner(r); got+told < lines && in.Scan(); {
		if strings.Contains(in.Text(), "a part of the log is lost") {
			told += number(in.Text(), "lines=")
		} else {
			got++
		}
	}
	b.close()
	if got < maxBacklog/1024 || got+told != lines {
		t.Errorf("%d lines came, %d are said to be lost, of %d", got, told, lines)
	}
}

// number is the one behind a key.
func number(text, key string) (n int) {
	_, text, _ = strings.Cut(text, key)
	for _, c := range text {
		if c < '0' || c > '9' {
			break
		}
		n = 10*n + int(c-'0')
	}
	return n
}

// failing is a full disk, for as long as it is full.
type failing struct {
	full atomic.Bool
	got  bytes.Buffer
}

func (f *failing) Write(p []byte) (int, error) {
	if f.full.Load() {
		return 0, errors.New("no space left on device")
	}
	return f.got.Write(p)
}

// TestBacklogOnAFullDisk counts what could not be written, and writes the last lines before the process ends.
func TestBacklogOnAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &failing{}
		b := newBacklog(f)
		log := newLogger(conf.Log{Time: "off"}, b, new(slog.LevelVar))
		b.tellBy(newLogger(conf.Log{Time: "off"}, remark{b}, new(slog.LevelVar)))
		f.full.Store(true)
		log.Info("one")
		synctest.Wait()
		log.Info("two")
		synctest.Wait()
		f.full.Store(false)
		log.Info("three")
		synctest.Wait()
		log.Info("four")
		b.close()
		want := "level=INFO msg=three\n" +
			"level=WARN msg=\"a part of the log is lost: nobody read it, or it could not be written\" lines=2\n" +
			"level=INFO msg=four\n"
		if f.got.String() != want {
			t.Errorf("%q\nwant %q", &f.got, want)
		}
	})
}

// hung is a reader that never reads again.
type hung chan struct{}

func (h hung) Write(p []byte) (int, error) { <-h; return len(p), nil }

// TestBacklogEndsInTime does not keep the process for a log that nobody reads.
func TestBacklogEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := make(hung)
		b := newBacklog(h)
		b.Write([]byte("words\n"))
		began := time.Now()
		b.close()
		if took := time.Since(began); took != lastLines {
			t.Errorf("took %s", took)
		}
		close(h)
		<-b.done
	})
}
