package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"mailmux/cmd/internal/conf"
	"mailmux/proxy/admin"
)

// errNobody: no frontend answers at the socket.
var errNobody = errors.New("no running frontend answers")

// errMissing: the frontend has no such thing.
var errMissing = errors.New("not there")

// missingError is errMissing in the frontend's words.
type missingError string

func (e missingError) Error() string        { return string(e) }
func (e missingError) Is(target error) bool { return target == errMissing }

// door is the way to the running frontend.
type door struct {
	path   string
	client *http.Client
}

// door finds the socket: by the flag, or by the configuration, which may have faults otherwise.
func (inv *invocation) door() (*door, error) {
	path := inv.socket
	if path == "" {
		cfg, err := conf.Load(inv.config)
		path, _ = cfg.Admin.Socket()
		if err != nil && cfg.Admin.Address == "" && !isSocket(path) {
			return nil, fmt.Errorf("find the admin socket: %w\nname it with -socket", err)
		}
	}
	if path == "" {
		return nil, errors.New("the configuration has switched the admin socket off (admin.address)")
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	return &door{path, &http.Client{Transport: &http.Transport{DialContext: dial}, Timeout: time.Minute}}, nil
}

// isSocket says whether a frontend may listen at a path. A file with a fault that hides admin.address, as there is while
// somebody edits it, must not keep an operator from the frontend at the usual place.
func isSocket(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().Type() == fs.ModeSocket
}

// ask calls the frontend and decodes its answer. A nil body is a GET.
func (d *door) ask(path string, body, into any) error {
	return d.read(path, body, func(r io.Reader) error {
		if err := json.NewDecoder(r).Decode(into); err != nil {
			return fmt.Errorf("read the frontend's answer: %w", err)
		}
		return nil
	})
}

// read calls the frontend and lets do read its answer. A nil body is a GET.
func (d *door) read(path string, body any, do func(io.Reader) error) error {
	request, err := d.request(path, body)
	if err != nil {
		return err
	}
	return d.call(request, do)
}

// send calls the frontend with what body reads, and decodes its answer.
func (d *door) send(path string, body io.Reader, into any) error {
	request, err := http.NewRequest(http.MethodPost, doorURL+path, body)
	if err != nil {
		return err
	}
	return d.call(request, func(r io.Reader) error { return json.NewDecoder(r).Decode(into) })
}

func (d *door) call(request *http.Request, do func(io.Reader) error) error {
	response, err := d.client.Do(request)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" {
			return fmt.Errorf("%w at %s (%v): is mailmux serve running, and may you use its socket?", errNobody, d.path, op.Err)
		}
		return fmt.Errorf("ask the frontend: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return problem(response)
	}
	return do(response.Body)
}

// doorURL is the server's; the name means nothing on a unix socket.
const doorURL = "http://mailmux"

func (d *door) request(path string, body any) (*http.Request, error) {
	if body == nil {
		return http.NewRequest(http.MethodGet, doorURL+path, nil)
	}
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	return http.NewRequest(http.MethodPost, doorURL+path, bytes.NewReader(text))
}

// problem is the error that the frontend gave.
func problem(response *http.Response) error {
	const most = 1 << 20
	text, err := io.ReadAll(io.LimitReader(response.Body, most))
	if err != nil {
		return fmt.Errorf("read the frontend's answer: %w", err)
	}
	var p admin.Problem
	if json.Unmarshal(text, &p) == nil && p.Error != "" {
		if response.StatusCode == http.StatusNotFound {
			return missingError(p.Error)
		}
		return errors.New(p.Error)
	}
	return fmt.Errorf("the frontend answers %s: %.200s", response.Status, bytes.TrimSpace(text))
}

// asked asks, and prints what comes as JSON or as show has it.
func asked[T any](inv *invocation, path string, body any, show func(io.Writer, *T)) int {
	d, err := inv.door()
	if err != nil {
		fmt.Fprintf(inv.err, "mailmux %s: %v\n", inv.command.name, err)
		return exitUsage
	}
	defer d.client.CloseIdleConnections()
	var v T
	switch err := d.ask(path, body, &v); {
	case errors.Is(err, errNobody):
		inv.fail(err)
		return exitNobody
	case err != nil:
		return inv.fail(err)
	}
	if inv.json {
		return inv.printJSON(v)
	}
	show(inv.out, &v)
	return exitDone
}

func (inv *invocation) printJSON(v any) int {
	e := json.NewEncoder(inv.out)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return inv.fail(err)
	}
	return exitDone
}

func status(inv *invocation) int { return asked(inv, "/status", nil, showStatus) }

func who(inv *invocation) int {
	f, err := inv.filter()
	if err != nil {
		return inv.usage(err.Error())
	}
	q := url.Values{}
	for key, value := range map[string]string{
		"id": f.ID, "account": f.Account, "service": f.Service, "host": f.Host, "member": f.Member, "client": inv.text("client"),
	} {
		if value != "" {
			q.Set(key, value)
		}
	}
	return asked(inv, "/who?"+q.Encode(), nil, showSessions)
}

func kick(inv *invocation) int {
	f, err := inv.filter()
	if err == nil && f.Empty() {
		err = errors.New("say whose sessions are to end: an account, or -host, -member, -service, -client, -id")
	}
	if err != nil {
		return inv.usage(err.Error())
	}
	return asked(inv, "/kick", f, func(w io.Writer, k *admin.Kicked) { fmt.Fprintf(w, "%s ended\n", plural(k.Sessions, "session")) })
}

// move sends an account to another member.
func move(inv *invocation) int {
	return asked(inv, "/move", admin.Move{Account: inv.args[0], Member: inv.args[1]}, func(w io.Writer, d *admin.Done) {
		fmt.Fprintf(w, "%s %s: its sessions elsewhere are closed\n", d.Target, d.State)
	})
}

// filter is what the flags and the argument choose.
func (inv *invocation) filter() (admin.Filter, error) {
	f := admin.Filter{
		ID: inv.text("id"), Account: inv.text("account"), Service: inv.text("service"), Host: inv.text("host"), Member: inv.text("member"),
	}
	if len(inv.args) > 0 {
		if f.Account != "" {
			return f, errors.New("the account is given twice")
		}
		f.Account = inv.args[0]
	}
	if client := inv.text("client"); client != "" {
		network, err := admin.ParseNetwork(client)
		if err != nil {
			return f, err
		}
		f.Client = network
	}
	return f, nil
}

func withdraw(inv *invocation) int {
	t := admin.Target{Target: inv.args[0], Evacuate: inv.is("evacuate"), Stay: inv.is("stay")}
	if self := t.Target == admin.Self; self && t.Evacuate || !self && t.Stay {
		return inv.usage("-stay is for self, -evacuate for a member or a host")
	}
	return asked(inv, "/withdraw", t, showDone)
}

func ready(inv *invocation) int {
	return asked(inv, "/ready", admin.Target{Target: inv.args[0]}, showDone)
}

func showDone(w io.Writer, d *admin.Done) { fmt.Fprintf(w, "%s: %s\n", d.Target, d.State) }

func reload(inv *invocation) int {
	return asked(inv, "/reload", struct{}{}, func(w io.Writer, r *admin.Reloaded) {
		for _, warning := range r.Warnings {
			fmt.Fprintf(w, "warning: %s\n", warning)
		}
		fmt.Fprintln(w, "reloaded")
	})
}
