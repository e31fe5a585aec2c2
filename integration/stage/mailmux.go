package stage

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Mailmux is a running daemon under test.
type Mailmux struct {
	*Process
	Binary string
	Config string // the configuration file
	Admin  string // the socket of admin.address

	dir    string
	greets map[string]string
}

// StartMailmux writes the configuration to dir/mailmux.yaml and serves it. It waits until every address of greets, a
// map of host:port to the prefix of a greeting in the clear, has greeted. The admin socket has to be dir/admin.sock, the
// log goes to dir/mailmux.log.
func StartMailmux(binary, dir, config string, greets map[string]string) (*Mailmux, error) {
	m := &Mailmux{Binary: binary, dir: dir, Config: filepath.Join(dir, "mailmux.yaml"), Admin: filepath.Join(dir, "admin.sock"), greets: greets}
	if err := m.Configure(config); err != nil {
		return nil, err
	}
	return m, m.Restart()
}

// Configure replaces the configuration file, as an operator would before a reload.
func (m *Mailmux) Configure(config string) error {
	next := m.Config + ".new"
	if err := os.WriteFile(next, []byte(config), 0o600); err != nil {
		return fmt.Errorf("configure mailmux: %w", err)
	}
	return os.Rename(next, m.Config)
}

// Restart starts the daemon again after its end.
func (m *Mailmux) Restart() error {
	p, err := Start("mailmux", filepath.Join(m.dir, "mailmux.log"), m.Binary, "serve", "-config", m.Config)
	if err != nil {
		return err
	}
	m.Process = p
	for addr, prefix := range m.greets {
		if err := p.await(greets(addr, prefix)); err != nil {
			p.Kill()
			return err
		}
	}
	return nil
}

// Run runs one of the operator's commands against the daemon's configuration and returns its output and exit code.
func (m *Mailmux) Run(ctx context.Context, command string, args ...string) (string, int, error) {
	argv := append([]string{command, "-config", m.Config}, args...)
	cmd := exec.CommandContext(ctx, m.Binary, argv...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return out.String(), exit.ExitCode(), nil
	}
	return out.String(), 0, err
}

// Get asks the admin socket over HTTP.
func (m *Mailmux) Get(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", m.Admin)
	}
	tr := &http.Transport{DialContext: dial, DisableKeepAlives: true}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://admin"+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return "", fmt.Errorf("get %s from the admin socket: %w", path, err)
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return b.String(), fmt.Errorf("get %s from the admin socket: %s: %s", path, resp.Status, b.String())
	}
	return b.String(), nil
}

// Metrics returns every sample that /metrics shows, by name with labels.
func (m *Mailmux) Metrics(ctx context.Context) (map[string]float64, error) {
	text, err := m.Get(ctx, "/metrics")
	if err != nil {
		return nil, err
	}
	samples := make(map[string]float64)
	for line := range strings.SplitSeq(text, "\n") {
		name, value, ok := strings.Cut(line, " ")
		if i := strings.LastIndexByte(line, '}'); i > 0 {
			name, value, ok = line[:i+1], strings.TrimSpace(line[i+1:]), true
		}
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			samples[name] = v
		}
	}
	return samples, nil
}

// Event is one line of the daemon's log in JSON.
type Event map[string]any

// Events returns the lines of the log whose message is msg.
func (m *Mailmux) Events(msg string) ([]Event, error) {
	f, err := os.Open(m.Log)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var events []Event
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e Event
		if json.Unmarshal(lines.Bytes(), &e) == nil && e["msg"] == msg {
			events = append(events, e)
		}
	}
	return events, lines.Err()
}

// Descriptors counts the open files of the process.
func (m *Mailmux) Descriptors() (int, error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", m.PID()))
	return len(entries), err
}
