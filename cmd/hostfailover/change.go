package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"mailmux/directory"
	"mailmux/failover"
)

// job is a command that changes accounts, on one or several directories.
type job struct {
	o        *options
	set      *settings
	con      console
	report   *reporter
	command  string // as it was given, for the journal
	plan     failover.Plan
	undo     *failover.Undo // instead of a plan
	accounts []byte         // of -accounts
	targets  []string       // the hosts that accounts are to be on
	journal  string
}

func newJob(o *options, con console, command string) (*job, error) {
	if err := o.transactions(); err != nil {
		return nil, err
	}
	if o.limit < 0 || o.rate < 0 || o.batch < 0 || o.maxShare < 0 || o.wait < 0 {
		return nil, usage("%s: -limit, -rate, -batch, -max-share and -wait are not negative", command)
	}
	if o.connections < 1 {
		return nil, usage("%s: -connections is at least 1", command)
	}
	if o.kick && len(o.notify) == 0 {
		return nil, usage("-kick needs -notify: it says which frontends are to close the sessions")
	}
	if o.accounts != "" && (o.filter != "" || o.domain != "") {
		return nil, usage("-accounts says which accounts: -filter and -domain do not go with it")
	}
	if o.probeUser != "" && (!o.probe || o.probePasswordFile == "") {
		return nil, usage("-probe-account goes with -probe and -probe-password-file")
	}
	j := &job{o: o, con: con, command: command, report: &reporter{con: con, json: o.json, verbose: o.verbose, apply: o.apply}}
	set, err := settle(o, j.report.say)
	if err != nil {
		return nil, err
	}
	j.set = set
	if o.accounts != "" {
		if j.accounts, err = readAccounts(o.accounts, con.in); err != nil {
			return nil, usage("read -accounts: %w", err)
		}
	}
	return j, nil
}

func readAccounts(file string, in io.Reader) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(in)
	}
	return os.ReadFile(file)
}

func runMove(ctx context.Context, o *options, _ string, con console) error {
	if o.from == "" && o.original == "" || o.to == "" {
		return usage("move needs -from (or -original) and -to; hostfailover move -h explains")
	}
	targets, err := failover.ParseTargets(o.to)
	if err != nil {
		return usage("-to: %w", err)
	}
	j, err := newJob(o, con, "move")
	if err != nil {
		return err
	}
	defer j.set.close()
	for i := range targets {
		if strings.EqualFold(targets[i].Host, o.from) {
			return refused("-from and -to are both %s: there is nothing to move", o.from)
		}
		if targets[i].Host, err = j.set.inTable(targets[i].Host, o.force); err != nil {
			return err
		}
	}
	j.plan = &failover.Move{From: o.from, Original: o.original, To: targets}
	var hosts []string
	for _, t := range targets {
		hosts = append(hosts, t.Host)
	}
	return j.do(ctx, hosts)
}

func runRestore(ctx context.Context, o *options, _ string, con console) error {
	if o.host == "" {
		return usage("restore needs -host, the original home host; hostfailover restore -h explains")
	}
	j, err := newJob(o, con, "restore")
	if err != nil {
		return err
	}
	defer j.set.close()
	if strings.EqualFold(o.host, o.from) {
		return refused("-host and -from are both %s: there is nothing to restore", o.host)
	}
	host, err := j.set.inTable(o.host, o.force)
	if err != nil {
		return err
	}
	j.plan = &failover.Restore{Host: o.host, From: o.from}
	return j.do(ctx, []string{host})
}

func runUndo(ctx context.Context, o *options, _ string, con console) error {
	if o.journal == "" {
		return usage("undo needs -journal, the file that the run named at its end")
	}
	runs, err := failover.Runs(o.journal)
	if err != nil {
		return usage("%w", err)
	}
	if o.run != "" && !slices.ContainsFunc(runs, func(h failover.Header) bool { return h.Run == o.run }) {
		return usage("%s has no run %s: hostfailover journal show %[1]s names them", o.journal, o.run)
	}
	j, err := newJob(o, con, "undo")
	if err != nil {
		return err
	}
	defer j.set.close()
	if n := onOneServer(runs); o.run == "" && n > 1 {
		j.report.say("%s has %d runs, and all of them are reverted: -run reverts one", o.journal, n)
	}
	j.undo = &failover.Undo{Path: o.journal, Run: o.run}
	o.journal = fmt.Sprintf("%s.undo-%s", o.journal, time.Now().UTC().Format("20060102T150405Z"))
	return j.do(ctx, nil)
}

// onOneServer is how many runs there are on the server that has the most. A run on several servers has one on each.
func onOneServer(runs []failover.Header) int {
	most, counts := 0, map[string]int{}
	for _, h := range runs {
		counts[h.Server]++
		most = max(most, counts[h.Server])
	}
	return most
}

// do runs the job on each directory. The directories are independent: one that fails does not stop the others.
func (j *job) do(ctx context.Context, targets []string) error {
	j.targets = targets
	if j.o.apply {
		signal.Ignore(syscall.SIGPIPE) // a reader that has gone is no reason to leave half of the accounts behind
	}
	if err := j.checkTargets(ctx, targets); err != nil {
		return err
	}
	var worst error
	for _, one := range j.set.sites {
		err := j.one(ctx, one)
		if err != nil && (worst == nil || codeOf(err) > codeOf(worst)) {
			if worst != nil {
				j.report.say("%v", worst)
			}
			worst = err
		} else if err != nil && err.Error() != "" {
			j.report.say("%v", err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	if !j.o.apply && (worst == nil || codeOf(worst) == exitFailed) && ctx.Err() == nil && !j.o.json {
		fmt.Fprintln(j.con.out, "nothing was changed: -apply changes it")
	}
	return worst
}

// one runs the job on one directory.
func (j *job) one(ctx context.Context, one *site) error {
	editor, err := one.connect(ctx)
	if err != nil {
		return err
	}
	if err := j.ask(ctx, editor); err != nil {
		return err
	}
	run := &failover.Run{
		Feed: j.feed(one), Again: j.o.apply && j.undo == nil && j.accounts == nil,
		Batch: j.o.batch, Rate: j.o.rate, Limit: j.o.limit, Report: j.report.note,
	}
	run.Writer = &failover.Dry{Print: j.report.would}
	if j.o.apply {
		journal, err := j.open(one)
		if err != nil {
			return err
		}
		defer journal.Close()
		run.Writer = &failover.Applier{
			Link: one.link, Journal: journal, Transactions: modes[j.o.transaction], Connections: j.o.connections, Say: j.report.say,
			Look: j.undo != nil,
		}
	}
	stop := j.watch(ctx, one, run)
	summary, err := run.Do(ctx)
	stop()
	j.report.summary(one.link.Name(), j.journal, summary)
	if j.o.apply {
		err = errors.Join(err, j.tell(context.WithoutCancel(ctx), one, summary, err))
	}
	return j.verdict(ctx, one, summary, err)
}

var modes = map[string]failover.Transactions{"auto": failover.Auto, "on": failover.Always, "off": failover.Never}

func (j *job) feed(one *site) failover.Feed {
	switch {
	case j.undo != nil:
		undo := *j.undo
		if len(j.set.sites) > 1 {
			undo.Server = one.link.Name()
		}
		return &undo
	case j.accounts != nil:
		return &failover.ListFeed{Link: one.link, Plan: j.plan, List: strings.NewReader(string(j.accounts)), Domains: &j.set.domains}
	}
	return &failover.SearchFeed{Link: one.link, Plan: j.plan, Filter: j.o.filter, Domain: j.o.domain}
}

// open opens the journal; several directories share it, one run after the other.
func (j *job) open(one *site) (*failover.Journal, error) {
	if j.journal == "" {
		j.journal = j.o.journal
		if j.journal == "" {
			j.journal = fmt.Sprintf("hostfailover-%s-%d.journal", time.Now().UTC().Format("20060102T150405Z"), os.Getpid())
		}
	}
	journal, err := failover.OpenJournal(j.journal, failover.Header{
		Run: rand.Text()[:10], Time: time.Now().UTC(), Server: one.link.Name(), Command: j.describe(),
	})
	switch {
	case errors.Is(err, failover.ErrJournalInUse):
		return nil, refused("%w: wait until it is done, or name another file with -journal", err)
	case err != nil:
		return nil, usage("%w: nothing is changed without a journal; name another file with -journal", err)
	}
	return journal, nil
}

func (j *job) describe() string {
	words := []string{j.command}
	for _, w := range [][2]string{{"-from", j.o.from}, {"-original", j.o.original}, {"-to", j.o.to}, {"-host", j.o.host}, {"-domain", j.o.domain}, {"-filter", j.o.filter}} {
		if w[1] != "" {
			words = append(words, w[0], w[1])
		}
	}
	if j.undo != nil {
		words = append(words, j.undo.Path)
	}
	return strings.Join(words, " ")
}

// watch shows the progress until the function it gives is called.
func (j *job) watch(ctx context.Context, one *site, run *failover.Run) (stop func()) {
	every := 5 * time.Second
	if j.con.terminal {
		every = 200 * time.Millisecond
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				j.report.progress(run.Snapshot())
			}
		}
	})
	if j.con.terminal && j.o.apply && j.report.total == 0 && j.plan != nil && j.accounts == nil {
		wg.Go(func() { j.countBeside(ctx, one) })
	}
	return func() { cancel(); wg.Wait() }
}

// verdict turns the end of a run into the error that says its exit code.
func (j *job) verdict(ctx context.Context, one *site, s failover.Summary, err error) error {
	switch {
	case ctx.Err() != nil:
		return interrupted()
	case errors.Is(err, failover.ErrNoWriter):
		return &exit{exitAway, fmt.Errorf("%s: %w: name one that does with -server, or run the same command again when there is one", one.link.Name(), err)}
	case isAway(err):
		return &exit{exitAway, fmt.Errorf("%w: run the same command again when it is back; what is done stays done", err)}
	case errors.Is(err, failover.ErrJournal):
		return fmt.Errorf("%s: %w: make room for it, and run the same command again to complete it", one.link.Name(), err)
	case errors.Is(err, failover.ErrRefused):
		return fmt.Errorf("%s: %w: may the bind DN write %s and %s?", one.link.Name(), err,
			one.cfg.WithDefaults().Attributes.Host, one.cfg.WithDefaults().Attributes.OldHost)
	case err != nil:
		return fmt.Errorf("%s: %w", one.link.Name(), err)
	case s.Total().Failed > 0:
		return &exit{exitFailed, fmt.Errorf("%d entries failed: mend them and run the same command again", s.Total().Failed)}
	case s.Broken > 0:
		return &exit{exitFailed, fmt.Errorf("%d accounts were left alone because something is wrong with them: mend that and run the same command again", s.Broken)}
	}
	return nil
}

// ask counts, and asks before more than a share of all accounts is changed.
func (j *job) ask(ctx context.Context, editor directory.Editor) error {
	if !j.o.apply || j.o.yes || j.plan == nil || j.accounts != nil {
		return nil
	}
	chosen, err := j.count(ctx, editor, true)
	if err != nil {
		return err
	}
	all, err := j.count(ctx, editor, false)
	if err != nil {
		return err
	}
	if j.o.limit > 0 {
		chosen = min(chosen, j.o.limit)
	}
	j.report.total = chosen
	if float64(chosen) <= j.o.maxShare*float64(all) {
		return nil
	}
	question := fmt.Sprintf("this changes %d of %d accounts (%.0f %%) on %s", chosen, all, 100*float64(chosen)/float64(max(all, 1)), editor.Server())
	if !j.con.terminal {
		return refused("%s, more than -max-share %g: give -yes if that is right", question, j.o.maxShare)
	}
	fmt.Fprintf(j.con.err, "%s. Go on? [y/N] ", question)
	answer := make(chan string, 1)
	go readLine(j.con.in, answer) // it cannot be called back from a terminal, and ends with the process
	select {
	case <-ctx.Done():
		fmt.Fprintln(j.con.err)
		return refused("interrupted: nothing was changed")
	case text := <-answer:
		if !slices.Contains([]string{"y", "yes"}, strings.ToLower(strings.TrimSpace(text))) {
			return refused("not confirmed: nothing was changed")
		}
	}
	return nil
}

// readLine reads one line; an end of the input is an empty one.
func readLine(r io.Reader, line chan<- string) {
	text, _ := bufio.NewReader(r).ReadString('\n')
	line <- text
}

// count counts the accounts that would change, or all.
func (j *job) count(ctx context.Context, editor directory.Editor, chosen bool) (int, error) {
	n, q := 0, directory.Query{}
	if chosen {
		q = j.plan.Query()
		q.Filter, q.Domain = j.o.filter, j.o.domain
	}
	err := editor.Search(ctx, q, func(r directory.Record) error {
		if chosen {
			if _, leave := j.plan.Decide(r); leave != "" {
				return nil
			}
		}
		n++
		return nil
	})
	return n, err
}

// countBeside counts for the progress bar while the run goes on already. Without it there is no time left to tell.
func (j *job) countBeside(ctx context.Context, one *site) {
	editor, err := one.link.Editor(ctx)
	if err != nil {
		return
	}
	n, err := j.count(ctx, editor, true)
	if err != nil {
		return
	}
	j.report.mu.Lock()
	defer j.report.mu.Unlock()
	if j.o.limit > 0 {
		n = min(n, j.o.limit)
	}
	j.report.total = n
}
