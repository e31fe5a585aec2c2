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
	"slices"
	"strings"
	"time"

	"mailmux/failover"
)

// tell has the frontends forget the accounts of the hosts that lost some, and close the sessions there if that is
// wished. Without it they would follow within the life of their cache. The host of -from is among them also when nothing
// was left to change: an earlier run may have been interrupted before it came to this.
func (j *job) tell(ctx context.Context, s failover.Summary) error {
	var hosts []string
	for _, way := range s.Sorted() {
		if s.Ways[way].Changed > 0 {
			hosts = append(hosts, way.From)
		}
	}
	if j.o.from != "" {
		hosts = append(hosts, strings.ToLower(j.o.from))
	}
	slices.Sort(hosts)
	hosts = slices.Compact(hosts)
	var errs []error
	for _, frontend := range j.o.notify {
		for _, host := range hosts {
			if err := j.notify(ctx, frontend, host); err != nil {
				errs = append(errs, fmt.Errorf("tell the frontend %s: %w: it follows within the life of its cache; mailmux reload makes it follow at once", frontend, err))
				break
			}
		}
	}
	return errors.Join(errs...)
}

func (j *job) notify(ctx context.Context, frontend, host string) error {
	client, base := adminClient(frontend)
	defer client.CloseIdleConnections()
	var forgotten struct{ Names int }
	if err := post(ctx, client, base+"/forget", map[string]string{"host": host}, &forgotten); err != nil {
		return err
	}
	text := fmt.Sprintf("%s forgot %d accounts of %s", frontend, forgotten.Names, host)
	if j.o.kick {
		var kicked struct{ Sessions int }
		if err := post(ctx, client, base+"/kick", map[string]string{"host": host}, &kicked); err != nil {
			return err
		}
		text += fmt.Sprintf(" and closed %d sessions", kicked.Sessions)
	}
	j.report.say("%s", text)
	return nil
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
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(text))
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %.200s", response.Status, data)
	}
	return json.Unmarshal(data, answer)
}
