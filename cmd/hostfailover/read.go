package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"mailmux/directory"
	"mailmux/failover"
)

// place is where accounts are, and where they are at home.
type place struct {
	Host    string `json:"host"`
	OldHost string `json:"old_host,omitempty"`
}

// maxPlaces bounds the table of status: a directory has hosts by the dozen.
const maxPlaces = 10_000

func runStatus(ctx context.Context, o *options, _ string, con console) error {
	r := &reporter{con: con, json: o.json}
	set, err := settle(o, r.say)
	if err != nil {
		return err
	}
	defer set.close()
	for _, one := range set.sites {
		editor, err := one.connect(ctx)
		if err != nil {
			return err
		}
		counts := map[place]int{}
		err = editor.Search(ctx, directory.Query{Filter: o.filter, Domain: o.domain}, func(a directory.Record) error {
			p := place{strings.ToLower(a.Host), strings.ToLower(a.OldHost)}
			switch {
			case a.Several:
				p.Host = "(several)"
			case a.Referral != "":
				r.say("another server holds a part of the directory, which is not counted: %s", printable(a.Referral))
				return nil
			}
			if counts[p]++; len(counts) > maxPlaces {
				return fmt.Errorf("more than %d hosts: is %s the right attribute?", maxPlaces, one.cfg.WithDefaults().Attributes.Host)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("%s: %w", editor.Server(), err)
		}
		printStatus(con, o.json, one.link.Name(), set, counts)
	}
	return nil
}

func printStatus(con console, asJSON bool, name string, set *settings, counts map[place]int) {
	places := slices.SortedFunc(maps.Keys(counts), func(a, b place) int {
		return cmp.Or(strings.Compare(a.Host, b.Host), strings.Compare(a.OldHost, b.OldHost))
	})
	total := 0
	for _, p := range places {
		total += counts[p]
		if asJSON {
			text, _ := json.Marshal(struct { // strings and a number
				Directory string `json:"directory"`
				place
				Accounts int  `json:"accounts"`
				Known    bool `json:"known"`
			}{name, p, counts[p], known(set, p.Host)})
			fmt.Fprintf(con.out, "%s\n", text)
		}
	}
	if asJSON {
		return
	}
	rows := []row{{[2]string{"home host", "original home host"}, []string{"accounts"}, ""}}
	for _, p := range places {
		remark := ""
		if !known(set, p.Host) {
			remark = "not in the host table"
		}
		rows = append(rows, row{[2]string{cmp.Or(printable(p.Host), "(none)"), printable(p.OldHost)}, []string{strconv.Itoa(counts[p])}, remark})
	}
	rows = append(rows, row{[2]string{"total", ""}, []string{strconv.Itoa(total)}, ""})
	fmt.Fprintf(con.out, "on %s:\n", name)
	table(con.out, con.width, [2]int{40, 40}, []int{10}, rows)
}

// known says whether a host is in the host table; without a table every host is.
func known(set *settings, host string) bool {
	if set.conf == nil {
		return true
	}
	_, err := set.inTable(host, false)
	return err == nil
}

// problem is what verify finds.
type problem struct {
	DN   string `json:"dn"`
	Text string `json:"problem"`
}

func runVerify(ctx context.Context, o *options, _ string, con console) error {
	r := &reporter{con: con, json: o.json}
	set, err := settle(o, r.say)
	if err != nil {
		return err
	}
	defer set.close()
	found, all := 0, 0
	for _, one := range set.sites {
		editor, err := one.connect(ctx)
		if err != nil {
			return err
		}
		err = editor.Search(ctx, directory.Query{}, func(a directory.Record) error {
			all++
			text := wrong(set, a)
			if text == "" {
				return nil
			}
			found++
			if o.json {
				line, _ := json.Marshal(problem{cmp.Or(a.DN, a.Referral), text}) // two strings
				fmt.Fprintf(con.out, "%s\n", line)
				return nil
			}
			fmt.Fprintf(con.out, "%s: %s\n", printable(cmp.Or(a.DN, a.Referral)), text)
			return nil
		})
		if err != nil {
			return fmt.Errorf("%s: %w", editor.Server(), err)
		}
	}
	if found > 0 {
		return &exit{exitFailed, fmt.Errorf("%d of %d accounts cannot be served as they are", found, all)}
	}
	if !o.json {
		fmt.Fprintf(con.out, "%d accounts, all in order\n", all)
	}
	return nil
}

// wrong says what keeps frontends from serving an account, or a failover from being undone.
func wrong(set *settings, a directory.Record) string {
	switch {
	case a.Referral != "":
		return "another server holds this part of the directory: verify it there, too"
	case a.Several:
		return "several home hosts, or several original ones"
	case a.Host == "":
		return "no home host"
	case !known(set, a.Host):
		return fmt.Sprintf("home host %q is not in the host table", a.Host)
	case a.OldHost != "" && !known(set, a.OldHost):
		return fmt.Sprintf("original home host %q is not in the host table: it cannot be restored", a.OldHost)
	case strings.EqualFold(a.Host, a.OldHost):
		return fmt.Sprintf("original home host is the home host: restore -host %s mends it", a.Host)
	}
	return ""
}

func runJournal(_ context.Context, o *options, file string, con console) error {
	if file == "" {
		return usage("journal show needs the file")
	}
	f, err := os.Open(file)
	if err != nil {
		return usage("%w", err)
	}
	defer f.Close()
	var header *failover.Header
	changes, void := 0, 0
	flush := func() {
		if header != nil {
			fmt.Fprintf(con.out, "  changes: %d, of which not made: %d\n", changes, void)
		}
		changes, void = 0, 0
	}
	err = failover.ReadJournal(f, func(h *failover.Header, l *failover.Line) error {
		switch {
		case h != nil:
			flush()
			header = h
			fmt.Fprintf(con.out, "run %s  %s  %s  on %s\n", h.Run, h.Time.Format("2006-01-02T15:04:05Z"), h.Command, h.Server)
		case l.Void != 0:
			void++
			if o.verbose {
				fmt.Fprintf(con.out, "  not made: %d: %s\n", l.Void, l.Reason)
			}
		default:
			changes++
			if o.verbose {
				fmt.Fprintf(con.out, "  %d  %s: %s -> %s%s\n", l.N, printable(l.DN), l.From, l.To,
					original(directory.Change{OldFrom: l.Old, OldTo: l.OldTo}))
			}
		}
		return nil
	})
	flush()
	if err == nil && header == nil {
		err = errors.New(file + " is not a journal of hostfailover")
	}
	return err
}

func sorted(counts map[string]int) []string { return slices.Sorted(maps.Keys(counts)) }
