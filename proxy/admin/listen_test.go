package admin

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSocket wants the socket to be the operator's alone, and to be gone at the end.
func TestSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "admin.sock")
	f := newFake()
	s, err := Start(Config{Address: "unix:" + path}, Parts{Engine: f, Switches: f, Frontend: f, Explainer: f, Forgetter: f, Metrics: NewMetrics("v1")})
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != os.ModeSocket|0o660 {
		t.Errorf("mode %s", info.Mode())
	}
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	response, err := client.Get("http://mailmux/healthz")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	client.CloseIdleConnections()
	if response.StatusCode != http.StatusOK {
		t.Errorf("answer %s", response.Status)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// TestStaleSocket wants a socket that a killed process left behind to be replaced.
func TestStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := listenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// TestSocketInUse wants two frontends not to take the socket from each other, and other files to be left alone.
func TestSocketInUse(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "admin.sock")
	l, err := listenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := listenUnix(path); err == nil || !strings.Contains(err.Error(), "another process answers") {
		t.Errorf("second frontend: %v", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenUnix(file); err == nil || !strings.Contains(err.Error(), "is no socket") {
		t.Errorf("a file: %v", err)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "precious" {
		t.Errorf("the file holds %q (%v)", text, err)
	}
}

// TestSuccessor wants a process that ends late to leave the socket of the one that was started after it.
func TestSuccessor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	old, err := listenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	successor, err := listenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := old.Close(); err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("unix", path); err != nil {
		t.Errorf("the successor is not found: %v", err)
	}
	if err := successor.Close(); err != nil {
		t.Error(err)
	}
}

func TestConfigFaults(t *testing.T) {
	tests := []struct {
		config Config
		want   string
	}{
		{Config{}, ""},
		{Config{Address: "off", HTTP: "127.0.0.1:9143"}, ""},
		{Config{Address: "unix:/run/x.sock", HTTP: "[::1]:9143"}, ""},
		{Config{HTTP: ":9143"}, ""},
		{Config{Address: "127.0.0.1:80"}, `address: "127.0.0.1:80" is not unix:PATH; a TCP address goes to http`},
		{Config{Address: "unix:"}, `address: "unix:" is not unix:PATH; a TCP address goes to http`},
		{Config{Address: "unix:/" + strings.Repeat("x", 110)}, "address: the path of a socket has at most 103 bytes, this one has 111"},
		{Config{HTTP: "9143"}, `http: "9143" is not an IP address and a port, such as 127.0.0.1:9143`},
		{Config{HTTP: "127.0.0.1:"}, `http: "127.0.0.1:" is not an IP address and a port, such as 127.0.0.1:9143`},
	}
	for _, tt := range tests {
		got := ""
		if err := tt.config.Validate(); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.config, got, tt.want)
		}
	}
}
