package prototest

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func pair() (a, b *Conn) {
	return Pipe(&net.TCPAddr{Port: 1}, &net.TCPAddr{Port: 2})
}

func TestPipe(t *testing.T) {
	a, b := pair()
	if a.LocalAddr().String() != b.RemoteAddr().String() || a.RemoteAddr().String() != b.LocalAddr().String() {
		t.Error("the addresses do not fit")
	}
	io.WriteString(a, "hello")
	a.CloseWrite()
	if got, err := io.ReadAll(b); string(got) != "hello" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := io.WriteString(a, "more"); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("write behind the half-close: %v", err)
	}
	io.WriteString(b, "still open")
	b.Close()
	if got, err := io.ReadAll(a); string(got) != "still open" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := b.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read of what is closed here: %v", err)
	}
}

func TestReset(t *testing.T) {
	a, b := pair()
	io.WriteString(a, "lost")
	a.Reset()
	if _, err := b.Read(make([]byte, 9)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %v", err)
	}
	if _, err := b.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("write: %v", err)
	}
}

func TestFaults(t *testing.T) {
	a, b := pair()
	b.FaultIn(Fault{Chunk: 2, ResetAt: 5})
	io.WriteString(a, "abcdefgh")
	buf := make([]byte, 10)
	for _, want := range []int{2, 2, 1} {
		if n, err := b.Read(buf); n != want || err != nil {
			t.Errorf("read %d, %v, want %d", n, err, want)
		}
	}
	if _, err := b.Read(buf); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %v", err)
	}
	if _, err := a.Write(buf); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("write: %v", err)
	}
}

func TestDeadlinesAndBackPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair()
		began := time.Now()
		b.FaultIn(Fault{StallAt: 3})
		io.WriteString(a, "abcdef")
		a.CloseWrite()
		b.SetReadDeadline(began.Add(time.Hour))
		got, err := io.ReadAll(b)
		if string(got) != "abc" || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != time.Hour {
			t.Errorf("got %q, %v after %s", got, err, time.Since(began))
		}
		b.SetDeadline(began.Add(2 * time.Hour))
		n, err := b.Write(make([]byte, bufferSize+1))
		if n != bufferSize || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != 2*time.Hour {
			t.Errorf("wrote %d, %v after %s", n, err, time.Since(began))
		}
		b.SetDeadline(time.Time{})
		go func() {
			time.Sleep(time.Minute)
			a.Read(make([]byte, 10))
		}()
		if n, err := b.Write([]byte("0123456789")); n != 10 || err != nil || time.Since(began) != 2*time.Hour+time.Minute {
			t.Errorf("wrote %d, %v after %s", n, err, time.Since(began))
		}
	})
}
