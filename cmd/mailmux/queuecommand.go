package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"mailmux/proxy/admin"
	"mailmux/proxy/spool"
)

// queueVerb is one thing that can be asked of the queue.
type queueVerb struct {
	name  string
	least int // arguments behind the verb
	most  int
	flags string // those of the command that it takes, beside -config, -socket and -json
	what  string // the argument that is missing
	run   func(*invocation) int
}

const (
	selecting = " recipient domain host sender older younger held "
	manyIDs   = 10_000
)

func queueVerbs() []queueVerb {
	return []queueVerb{
		{name: "list", most: manyIDs, flags: selecting, run: queueList},
		{name: "show", least: 1, most: 1, flags: " message ", what: "the id of a message; mailmux queue list has them", run: queueShow},
		{name: "retry", most: manyIDs, flags: selecting + " all ", run: queueChange},
		{name: "hold", most: manyIDs, flags: selecting + " all ", run: queueChange},
		{name: "release", most: manyIDs, flags: selecting + " all ", run: queueChange},
		{name: "delete", most: manyIDs, flags: selecting + " all ", run: queueChange},
		{name: "flush", run: queueFlush},
		{name: "export", most: 1, flags: " dir again ", run: queueExport},
		{name: "import", most: 1, flags: " dir ", run: queueImport},
	}
}

// queueFlags are those of all verbs together; each verb takes its own.
func queueFlags(f *flag.FlagSet) {
	f.String("recipient", "", "messages that wait for this `address`, or login name")
	f.String("domain", "", "messages that wait for a recipient of this `name`")
	f.String("host", "", "messages that wait for this home host, by its `name`; outgoing: for the smarthosts")
	f.String("sender", "", "messages of this `address`; <> is the null sender")
	f.String("older", "", "messages that are in the queue for longer, such as 90m or 2d: a `time`")
	f.String("younger", "", "messages that are in the queue for less: a `time`")
	f.Bool("held", false, "messages that are on hold; -held=false: those that are not")
	f.Bool("all", false, "every message, where nothing else is chosen")
	f.Bool("message", false, "show: print the message itself, as it came")
	f.String("dir", "", "export, import: the spool's `directory`, of a frontend that is stopped")
	f.String("again", "", "export: make this earlier export once more, by its `name`")
}

const queueHelp = `
  list [ID ...]       what waits, and what is on hold
  show ID             one message: its recipients, what was tried, and the answers
  retry [ID ...]      try messages now, also where their member is away
  hold [ID ...]       keep messages back until they are released
  release [ID ...]    let messages that are on hold go on, at once
  delete [ID ...]     remove messages for good; nobody is told
  flush               try everything now
  export [FILE]       take the queue out of a stopped frontend's spool, into FILE or to the standard output
  import [FILE]       bring an exported queue in, from FILE or the standard input

list, retry, hold, release and delete take the messages that match all that is given, by id or by the flags. list shows
what the others would take. They want a choice: -all, where every message is meant. What is being delivered just then is
left alone, and counted.

export works on the disk, without a running frontend and under the spool's lock: the spool of the configuration, or -dir,
wherever that disk is mounted. It first sets the queue aside in the spool, so that this frontend never delivers it, should
it come back; remove that directory when the other one has the mail. import gives it to the running frontend, or, with
-dir, writes it into the spool of a stopped one. Nothing is taken in before all of it has come and is on disk, and an
export that was taken in is not taken in twice. So either may be interrupted, and is then run again: export goes on with
the same export, until it is done. Import an export into one frontend alone. From one machine to the other:

  ssh old mailmux queue export | mailmux queue import

exit codes: 4 when no message matches; 1 also when some were being delivered just then.`

// queueCommand finds the verb, and sees that it has the arguments and flags that it takes.
func queueCommand(inv *invocation) int {
	verbs := queueVerbs()
	i := slices.IndexFunc(verbs, func(v queueVerb) bool { return v.name == inv.args[0] })
	if i < 0 {
		return inv.usage(fmt.Sprintf("there is no %q", inv.args[0]))
	}
	v := verbs[i]
	wrong := ""
	inv.flags.Visit(func(f *flag.Flag) {
		if !strings.Contains(v.flags+" config socket json ", " "+f.Name+" ") {
			wrong = f.Name
		}
	})
	switch n := len(inv.args) - 1; {
	case wrong != "":
		return inv.usage(fmt.Sprintf("%s takes no -%s", v.name, wrong))
	case n < v.least:
		return inv.usage("say " + v.what)
	case n > v.most:
		return inv.usage(fmt.Sprintf("what is %q?", strings.Join(inv.args[v.most+1:], " ")))
	}
	return v.run(inv)
}

// selection is what the arguments and flags choose.
func (inv *invocation) selection() (s admin.Selection, err error) {
	s = admin.Selection{IDs: inv.args[1:], Recipient: inv.text("recipient"), Domain: inv.text("domain"), Host: inv.text("host"),
		Sender: inv.text("sender"), All: inv.is("all")}
	for _, id := range s.IDs {
		if !spool.ValidID(id) {
			return s, fmt.Errorf("%q is no id of a message; mailmux queue list has them", id)
		}
	}
	for name, seconds := range map[string]*float64{"older": &s.Older, "younger": &s.Younger} {
		if text := inv.text(name); text != "" {
			span, err := parseSpan(text)
			if err != nil {
				return s, fmt.Errorf("-%s: %w", name, err)
			}
			*seconds = span.Seconds()
		}
	}
	inv.flags.Visit(func(f *flag.Flag) {
		if f.Name == "held" {
			held := inv.is("held")
			s.Held = &held
		}
	})
	return s, nil
}

// parseSpan reads a time as Go does, and days.
func parseSpan(text string) (time.Duration, error) {
	var span time.Duration
	var err error
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n float64
		n, err = strconv.ParseFloat(days, 64)
		span = time.Duration(n * float64(24*time.Hour))
	} else {
		span, err = time.ParseDuration(text)
	}
	if err != nil || span <= 0 {
		return 0, fmt.Errorf("%q is no time, such as 90m, 4h or 2d", text)
	}
	return span, nil
}

// queueDoor is the way to the running frontend, for requests that may take as long as the queue is large.
func (inv *invocation) queueDoor() (*door, int) {
	d, err := inv.door()
	if err != nil {
		inv.fail(err)
		return nil, exitUsage
	}
	d.client.Timeout = 0
	return d, exitDone
}

// answered says which exit code an error of the frontend has.
func (inv *invocation) answered(err error) int {
	switch {
	case errors.Is(err, errNobody):
		inv.fail(err)
		return exitNobody
	case errors.Is(err, errMissing):
		inv.fail(err)
		return exitNoEntry
	}
	return inv.fail(err)
}

// queueChange does something to the messages that are chosen.
func queueChange(inv *invocation) int {
	verb := inv.args[0]
	s, err := inv.selection()
	if err == nil && s.Empty() && !s.All {
		err = errors.New("say which messages: ids, or -recipient, -domain, -host, -sender, -older, -younger, -held; or -all")
	}
	if err == nil && s.All && !s.Empty() {
		err = errors.New("-all is every message; leave it out, or the rest of the choice")
	}
	if err != nil {
		return inv.usage(err.Error())
	}
	d, code := inv.queueDoor()
	if d == nil {
		return code
	}
	defer d.client.CloseIdleConnections()
	var r spool.Result
	if err := d.ask("/queue/"+verb, s, &r); err != nil {
		return inv.answered(err)
	}
	if inv.json {
		code = inv.printJSON(r)
	} else {
		done := map[string]string{"retry": "tried now", "hold": "put on hold", "release": "released", "delete": "deleted"}[verb]
		fmt.Fprintf(inv.out, "%s %s\n", plural(r.Changed, "message"), done)
	}
	switch {
	case code != exitDone:
		return code
	case r.Busy > 0:
		return inv.fail(fmt.Errorf("%s being delivered just then and left alone; try again", wasWere(r.Busy, "message")))
	case r.Changed == 0:
		inv.fail(errors.New("no message matches; mailmux queue list shows what there is"))
		return exitNoEntry
	}
	return exitDone
}

func wasWere(n int, what string) string {
	if n == 1 {
		return plural(n, what) + " was"
	}
	return plural(n, what) + " were"
}

// queueFlush tries everything.
func queueFlush(inv *invocation) int {
	return asked(inv, "/queue/flush", struct{}{}, func(w io.Writer, f *admin.Flushed) {
		fmt.Fprintf(w, "%s tried now\n", plural(f.Messages, "message"))
	})
}

// queueShow prints one message.
func queueShow(inv *invocation) int {
	id := inv.args[1]
	if !spool.ValidID(id) {
		return inv.usage(fmt.Sprintf("%q is no id of a message; mailmux queue list has them", id))
	}
	d, code := inv.queueDoor()
	if d == nil {
		return code
	}
	defer d.client.CloseIdleConnections()
	path := "/queue/" + url.PathEscape(id)
	if inv.is("message") {
		err := d.read(path+"/message", nil, func(r io.Reader) error {
			_, err := io.Copy(inv.out, r)
			return err
		})
		if err != nil {
			return inv.answered(err)
		}
		return exitDone
	}
	var info spool.Info
	if err := d.ask(path, nil, &info); err != nil {
		return inv.answered(err)
	}
	if inv.json {
		return inv.printJSON(info)
	}
	showMessage(inv.out, &info)
	return exitDone
}

// queueList prints what waits.
func queueList(inv *invocation) int {
	s, err := inv.selection()
	if err != nil {
		return inv.usage(err.Error())
	}
	d, code := inv.queueDoor()
	if d == nil {
		return code
	}
	defer d.client.CloseIdleConnections()
	out := &listing{w: inv.out, json: inv.json}
	err = d.read("/queue?"+s.Query().Encode(), nil, func(r io.Reader) error { return admin.ReadQueue(r, out.add) })
	if err == nil {
		err = out.end()
	}
	if err != nil {
		return inv.answered(err)
	}
	if out.messages == 0 && !s.Empty() {
		return exitNoEntry
	}
	return exitDone
}
