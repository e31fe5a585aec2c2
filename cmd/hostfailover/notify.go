package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"mailmux/failover"
)

// tell has the frontends forget the accounts of the hosts that lost some, and close the sessions there if that is
// wished. Without it they would follow within the life of their cache. ended is how the run ended.
func (j *job) tell(ctx context.Context, one *site, s failover.Summary, ended error) error {
	hosts := j.left(s)
	var errs []error
	for _, frontend := range j.o.notify {
		client, base := adminClient(frontend)
		f := &notified{job: j, site: one, name: frontend, client: client, base: base, ended: ended, whole: ended == nil && j.whole(s)}
		for _, host := range hosts {
			if err := f.notify(ctx, host); err != nil {
				errs = append(errs, fmt.Errorf("tell the frontend %s: %w: it follows within the life of its cache; mailmux reload makes it follow at once", frontend, err))
				break
			}
		}
		client.CloseIdleConnections()
	}
	return errors.Join(errs...)
}

// left are the hosts that accounts may have left: those that this run saw, and those of which an earlier run may have
// taken accounts before it was interrupted and came to tell it.
func (j *job) left(s failover.Summary) []string {
	var hosts []string
	for _, way := range s.Sorted() {
		if c := s.Ways[way]; c.Changed+c.Already > 0 {
			hosts = append(hosts, way.From)
		}
	}
	switch {
	case j.o.from != "":
		hosts = append(hosts, strings.ToLower(j.o.from))
	case j.plan != nil && j.set.conf != nil:
		for host := range j.set.conf.Hosts {
			if !slices.ContainsFunc(j.targets, func(t string) bool { return strings.EqualFold(t, host) }) {
				hosts = append(hosts, strings.ToLower(host))
			}
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// whole says whether every account of -from left it, so that no session has a reason to stay there.
func (j *job) whole(s failover.Summary) bool {
	o := j.o
	return j.command == "move" && o.original == "" && o.filter == "" && o.domain == "" && o.base == "" && o.limit == 0 &&
		j.accounts == nil && len(j.set.sites) == 1 && s.Total().Failed+s.Total().Conflict+s.Broken == 0
}

// notified is a frontend that is told.
type notified struct {
	job    *job
	site   *site
	name   string
	client *http.Client
	base   string
	ended  error // how the run ended
	whole  bool  // every account left the host
}

func (f *notified) notify(ctx context.Context, host string) error {
	var forgotten struct{ Names int }
	if err := post(ctx, f.client, f.base+"/forget", map[string]string{"host": host}, &forgotten); err != nil {
		return err
	}
	text := fmt.Sprintf("%s forgot %d accounts of %s", f.name, forgotten.Names, host)
	if f.job.o.kick {
		n, err := f.kick(ctx, host)
		if err != nil {
			return err
		}
		text += fmt.Sprintf(" and closed %d sessions", n)
	}
	f.job.report.say("%s", text)
	return nil
}

// kick closes the sessions on a host: all of them when all its accounts left, and else those of accounts whose home host
// is another one now. Who stays there is not disturbed.
func (f *notified) kick(ctx context.Context, host string) (int, error) {
	switch {
	case f.whole:
		return f.close(ctx, map[string]string{"host": host})
	case isAway(f.ended):
		return 0, errors.New("the directory is away, and so nobody knows which sessions to close")
	}
	var sessions []struct{ ID, Account string }
	if err := get(ctx, f.client, f.base+"/who?host="+url.QueryEscape(host), &sessions); err != nil {
		return 0, err
	}
	closed, gone := 0, map[string]bool{}
	for _, session := range sessions {
		away, known := gone[session.Account]
		if !known {
			var err error
			if away, err = f.away(ctx, session.Account, host); err != nil {
				return closed, err
			}
			gone[session.Account] = away
		}
		if !away {
			continue
		}
		n, err := f.close(ctx, map[string]string{"id": session.ID})
		if err != nil {
			return closed, err
		}
		closed += n
	}
	return closed, nil
}

func (f *notified) close(ctx context.Context, filter map[string]string) (int, error) {
	var kicked struct{ Sessions int }
	err := post(ctx, f.client, f.base+"/kick", filter, &kicked)
	return kicked.Sessions, err
}

// away says whether an account has another home host by now.
func (f *notified) away(ctx context.Context, account, host string) (bool, error) {
	name, err := f.job.set.domains.Login(account, netip.Addr{}, "")
	if err != nil {
		return false, nil // before the login there is no account
	}
	editor, err := f.site.link.Editor(ctx)
	if err != nil {
		return false, err
	}
	found, err := editor.Find(ctx, name)
	return len(found) == 1 && found[0].Host != "" && !strings.EqualFold(found[0].Host, host), err
}

// adminClient speaks HTTP to a unix socket or to a URL.
func adminClient(frontend string) (*http.Client, string) {
	if strings.HasPrefix(frontend, "http://") || strings.HasPrefix(frontend, "https://") {
		return &http.Client{Timeout: 10 * time.Second}, strings.TrimSuffix(frontend, "/")
	}
	path := strings.TrimPrefix(frontend, "unix:")
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: dial}}, "http://frontend"
}

func post(ctx context.Context, client *http.Client, url string, body, answer any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	return exchange(ctx, client, http.MethodPost, url, text, answer)
}

func get(ctx context.Context, client *http.Client, url string, answer any) error {
	return exchange(ctx, client, http.MethodGet, url, nil, answer)
}

// maxAnswer bounds what a frontend may answer: a list of all its sessions at most.
const maxAnswer = 256 << 20

func exchange(ctx context.Context, client *http.Client, method, url string, body []byte, answer any) error {
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 200)) // the status says enough
		return fmt.Errorf("%s: %s", response.Status, text)
	}
	return json.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(answer)
}
