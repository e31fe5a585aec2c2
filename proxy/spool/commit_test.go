package spool

import (
	"testing"
	"time"
)

// A slow sync of the whole file system is left out for a while that grows as long as the next one is slow as well, and ends
// at once when syncs of single files turn out to be no faster.
func TestWholeSync(t *testing.T) {
	var w whole
	now := time.Now()
	var pauses []time.Duration
	for range 6 {
		w.took(300*time.Millisecond, 50, now)
		pauses = append(pauses, w.after.Sub(now))
		now = w.after
	}
	for i, want := range []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 8 * time.Second} {
		if pauses[i] != want {
			t.Errorf("pause %d is %s, want %s", i+1, pauses[i], want)
		}
	}
	w.singly(50*time.Millisecond, 10) // 5 ms each, beside 6
	if !w.after.After(now.Add(-time.Nanosecond)) {
		t.Error("faster syncs of single files end")
	}
	w.singly(70*time.Millisecond, 10)
	if w.after.After(now) {
		t.Error("slower syncs of single files go on")
	}
	w.took(20*time.Millisecond, 50, now)
	w.took(300*time.Millisecond, 50, now)
	if got := w.after.Sub(now); got != firstPause {
		t.Errorf("the first slow sync after a quick one pauses for %s", got)
	}
}
