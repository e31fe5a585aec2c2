package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"mailmux/cmd/internal/conf"
	"mailmux/directory"
	"mailmux/proxy/admin"
	"mailmux/proxy/backend"
)

// lookup shows where an account goes.
func lookup(inv *invocation) int {
	x, code := inv.explanation()
	if code != exitDone {
		return code
	}
	if inv.json {
		code = inv.printJSON(x)
	} else {
		showExplanation(inv.out, x)
	}
	if code == exitDone && (x.Host == "" || x.HostError != "") {
		return exitNoEntry
	}
	return code
}

// explanation asks the running frontend, or does without one.
func (inv *invocation) explanation() (*admin.Explanation, int) {
	x := new(admin.Explanation)
	d, err := inv.door()
	if err == nil {
		defer d.client.CloseIdleConnections()
		err = d.ask("/lookup?login="+url.QueryEscape(inv.args[0]), nil, x)
		if err != nil && !errors.Is(err, errNobody) {
			return nil, inv.fail(err)
		}
	}
	if err == nil {
		return x, exitDone
	}
	if inv.socket != "" {
		inv.fail(err)
		return nil, exitNobody
	}
	cfg, ok := inv.load()
	if !ok {
		return nil, exitUsage
	}
	if !inv.json {
		fmt.Fprintln(inv.out, "no running frontend answers: asked from here, and nothing is known of how the members are")
	}
	if x, err = fromHere(cfg, inv.args[0]); err != nil {
		return nil, inv.fail(err)
	}
	return x, exitDone
}

// fromHere does without a running frontend.
func fromHere(cfg *conf.Config, login string) (*admin.Explanation, error) {
	d, err := directory.New(cfg.Directory, nil, nil)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	table, err := backend.New(unchecked(cfg), backend.Options{Services: cfg.Services(), StateFile: cfg.Admin.StateFile(), Source: d})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	table.Start(ctx) // only for members that the DNS or the directory list
	defer table.Close()
	await(ctx, table, listed)
	x, err := explain(ctx, cfg, d, table, login)
	return &x, err
}

// showExplanation prints the way of an account, step by step.
func showExplanation(w io.Writer, x *admin.Explanation) {
	t, row := columns(w)
	d := x.Directory
	row("login", x.Login)
	row("name", x.Name)
	row("filter", d.Filter)
	row("base", d.Base)
	row("asked", dash(d.Server))
	if x.Answer != "" {
		row("answer", x.Answer)
	}
	if d.DN != "" {
		row("entry", d.DN)
	}
	for _, a := range d.Attributes {
		row("  "+a.Name, strings.Join(a.Values, ", "))
	}
	row("remembered", remembered(x))
	switch {
	case x.Host == "" && x.Temporary:
		row("home host", "unknown: clients are told to try again later")
	case x.Host == "":
		row("home host", "none: nobody can log in by this name")
	default:
		row("home host", spaced(x.Host, x.HostError))
		row("status", served(d.Account.Status))
	}
	flush(t)
	for _, c := range x.Choices {
		fmt.Fprintf(w, "\n%s: %s (%s)\n", c.Service, orNobody(c.Chosen), c.Why)
		t, row := columns(w)
		for _, m := range c.Members {
			mark := " "
			if m.Name == c.Chosen {
				mark = "*"
			}
			row(" "+mark, m.Name, m.Address, m.State)
		}
		flush(t)
	}
	showClaim(w, x.Claim)
	if len(x.Sessions) > 0 {
		fmt.Fprintln(w)
		showSessions(w, &x.Sessions)
	}
}

// remembered says what memory holds of an account, and whether it is believed.
func remembered(x *admin.Explanation) string {
	d := x.Directory
	age := admin.Span(d.Age)
	switch {
	case !d.Remembered:
		return "nothing"
	case d.Fresh && d.Refused != "":
		return fmt.Sprintf("for %s: %s", age, d.Refused)
	case d.Fresh && d.Now.Host != "" && d.Now.Host != d.Account.Host:
		return fmt.Sprintf("for %s: %s (the directory says %s by now)", age, d.Account.Host, d.Now.Host)
	case d.Fresh:
		return fmt.Sprintf("for %s: %s", age, d.Account.Host)
	case d.Account.Stale:
		return fmt.Sprintf("for %s: %s (too old, used because the directory is away)", age, d.Account.Host)
	}
	return fmt.Sprintf("for %s, too long to be believed", age)
}

// served says what an account's status means.
func served(s directory.Status) string {
	switch s {
	case directory.Active:
		return "active"
	case directory.Held:
		return "on hold: refused for the time being"
	case directory.Disabled:
		return "disabled: refused"
	}
	return "not a word of directory.status_words: refused for the time being"
}
