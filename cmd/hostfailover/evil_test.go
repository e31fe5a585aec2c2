package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"mailmux/directory"
	"mailmux/directory/slapdtest"
	"mailmux/failover"
)

// maxMemory is what the command may take, however many accounts there are.
const maxMemory = 200 << 10 // KB

// evil is a directory in which everything happens at once, and what has to be there in the end.
type evil struct {
	*soak
	link *failover.Link

	mu   sync.Mutex
	want map[string][]string // by address: the states that are right
}

// Half of the accounts are moved, while others create accounts on the failed host and take some away from it, some
// entries cannot be changed, some have awkward names or hosts in other cases, and now the command is killed and now the
// directory. Then every single entry has to be as it must be; and after undo again. make soak-failover does it with
// half a million accounts.
func TestEveryEvilAtOnce(t *testing.T) {
	accounts, kills := 2000, 4
	if n, err := strconv.Atoi(os.Getenv("FAILOVER_ACCOUNTS")); err == nil {
		accounts, kills = n, 12
	}
	e := newEvil(t, accounts)
	stop := e.server.Supervise()
	before := e.states()
	journal := filepath.Join(e.dir, "journal")
	move := []string{"move", "-from", "One", "-to", "four", "-apply", "-yes", "-journal", journal}

	writing, cancel := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	writers.Go(func() { e.create(writing) })
	writers.Go(func() { e.take(writing) })
	for i := range kills {
		e.strike(i, move)
	}
	cancel()
	writers.Wait()
	began := time.Now()
	e.finish(move...)
	t.Logf("the last run took %.1f s", time.Since(began).Seconds())
	after := e.states()
	e.judge(before, after)

	began = time.Now()
	e.finish("undo", "-journal", journal, "-apply", "-yes")
	t.Logf("undo took %.1f s", time.Since(began).Seconds())
	e.judgeUndo(before, after, e.states())
	t.Logf("%d accounts, killed %d times; the directory died %d times, %d of them killed", len(after), kills, stop(), e.directoryKills)
}

// awkward are names that have to be escaped in a DN, or look as if they had to be.
func awkward() []string {
	return []string{
		`a,b`, `a+b`, `a"quoted"b`, ` leading`, `trailing `, `  both  `, `#hash`, `back\slash`, `back\\2Cslash`, `semi;colon`, `<angle>`, `eq=ual`,
		`Jörg Müller`, `日本語`, `mail 😀`, "tab\tbed", "line\nbreak", `a/b`, `*(star)*`, `'apostrophe'`, `%2C`, strings.Repeat("long", 40),
	}
}

// escape writes a value into a DN, with every odd character as its code (RFC 4514 section 2.4).
func escape(value string) string {
	var b strings.Builder
	for _, c := range []byte(value) {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, `\%02x`, c)
		}
	}
	return b.String()
}

func newEvil(t *testing.T, accounts int) *evil {
	e := &evil{soak: &soak{t: t, dir: t.TempDir(), accounts: accounts}, want: map[string][]string{}}
	seed := uint64(time.Now().UnixNano())
	e.random = rand.New(rand.NewPCG(seed, 2))
	t.Logf("seed %d", seed)
	e.build()
	ldif := filepath.Join(e.dir, "accounts.ldif")
	e.write(ldif)
	protect := "access to dn.regex=\"^uid=user[0-9]*77,\" by dn.exact=\"" + slapdtest.BindDN + "\" read by * none\n" +
		"access to * by dn.exact=\"" + slapdtest.BindDN + "\" write by anonymous auth by * none\n"
	broken := ""
	for i := range 10 {
		broken += fmt.Sprintf("dn: cn=no class %d,%s\nobjectClass: inetOrgPerson\nstructuralObjectClass: inetOrgPerson\nentryUUID: 0b1c8a1e-2f5d-4c39-8f0a-0242ac1200%02d\ncn: no class %[1]d\nsn: x\nmail: broken%[1]d@example.com\nhostServer: one\n\n", i, slapdtest.Base, i)
		e.want[fmt.Sprintf("broken%d@example.com", i)] = []string{"one/"}
	}
	e.server = slapdtest.Start(t, slapdtest.Options{LDIFFile: ldif, Broken: broken, Access: protect,
		Database: "checkpoint 1024 5\nlimits dn.exact=\"" + slapdtest.BindDN + "\" size.soft=unlimited size.hard=unlimited time.soft=unlimited time.hard=unlimited\n"})
	cfg := directory.Config{BindDN: slapdtest.BindDN, BindPasswordFile: e.secret, Base: slapdtest.Base, Servers: []string{e.server.URL}}
	e.link = &failover.Link{
		Servers: cfg.Servers, Wait: time.Minute, Say: func(string, ...any) {},
		Open: func(ctx context.Context, server string) (directory.Editor, error) {
			return directory.OpenEditor(ctx, cfg, server)
		},
	}
	t.Cleanup(e.link.Close)
	return e
}

// write makes the accounts. The protected ones, whose numbers end in 77, are among the last, so that most batches have
// none of them: a run that met one goes on with single changes.
func (e *evil) write(file string) {
	f, err := os.Create(file)
	if err != nil {
		e.t.Fatal(err)
	}
	fmt.Fprint(f, slapdtest.Skeleton)
	entry := func(dn, names, address, hosts string, want ...string) {
		fmt.Fprintf(f, "dn:: %s\nobjectClass: inetOrgPerson\nobjectClass: mailAccount\n%ssn: x\nmail: %s\n%s\n\n",
			base64.StdEncoding.EncodeToString([]byte(dn)), names, address, hosts)
		e.want[address] = want
	}
	for i, name := range awkward() {
		value := "cn:: " + base64.StdEncoding.EncodeToString([]byte(name)) + "\n"
		address := fmt.Sprintf("odd%d@example.com", i)
		entry("cn="+escape(name)+","+slapdtest.Base, value, address, "hostServer: ONE\noldHostServer: Three", "four/Three")
		entry(fmt.Sprintf("uid=two%d+cn=%s,%s", i, escape(name), slapdtest.Base), fmt.Sprintf("uid: two%d\n", i)+value, "two"+address, "hostServer: oNe", "four/oNe")
	}
	for i := range e.accounts {
		number := 100*i + i%77
		if i >= e.accounts*9/10 && i%50 == 0 {
			number = 100*i + 77
		}
		dn, names := fmt.Sprintf("uid=user%09d,%s", number, slapdtest.Base), fmt.Sprintf("uid: user%09d\ncn: x\n", number)
		address := fmt.Sprintf("user%d@example.com", i)
		switch {
		case i%2 == 1:
			entry(dn, names, address, "hostServer: two", "two/")
		case number%100 == 77:
			entry(dn, names, address, "hostServer: one", "one/")
		default:
			entry(dn, names, address, "hostServer: one", "four/one")
		}
	}
	if err := f.Close(); err != nil {
		e.t.Fatal(err)
	}
}

// create makes accounts on the failed host. The directory may die under it, and then nobody knows.
func (e *evil) create(ctx context.Context) {
	for i := 0; ctx.Err() == nil && i < e.accounts/100; i++ {
		address := fmt.Sprintf("new%d@example.com", i)
		e.mu.Lock()
		e.want[address] = []string{"four/one", ""}
		e.mu.Unlock()
		err := e.server.TryModify(fmt.Sprintf("dn: uid=new%d,%s\nchangetype: add\nobjectClass: inetOrgPerson\nobjectClass: mailAccount\nuid: new%[1]d\ncn: x\nsn: x\nmail: %[3]s\nhostServer: one\n", i, slapdtest.Base, address))
		if err == nil {
			e.mu.Lock()
			e.want[address] = []string{"four/one"}
			e.mu.Unlock()
		}
	}
}

// take points every thousandth account elsewhere, from where it is at that moment.
func (e *evil) take(ctx context.Context) {
	for i := 0; ctx.Err() == nil && i < e.accounts*9/10; i += max(2, e.accounts/500/2*2) {
		dn, address := fmt.Sprintf("uid=user%09d,%s", 100*i+i%77, slapdtest.Base), fmt.Sprintf("user%d@example.com", i)
		for _, c := range []directory.Change{
			{DN: dn, From: "one", To: "else"}, {DN: dn, From: "four", To: "else", OldFrom: "one", OldTo: "one"},
		} {
			editor, err := e.link.Editor(ctx)
			if err != nil {
				return
			}
			err = editor.Modify(context.WithoutCancel(ctx), []directory.Change{c})[0]
			e.mu.Lock()
			switch state := "else/" + c.OldTo; {
			case err == nil:
				e.want[address] = []string{state}
			case errors.Is(err, directory.ErrLost):
				e.want[address] = append(e.want[address], state)
				e.link.Lost(editor)
			case !errors.Is(err, directory.ErrConflict):
				e.t.Errorf("take %s: %v", dn, err)
			}
			e.mu.Unlock()
			if err == nil {
				break
			}
		}
	}
}

// strike begins a run, and kills it or the directory.
func (e *evil) strike(i int, move []string) {
	ctx, cancel := context.WithCancel(e.t.Context())
	defer cancel()
	cmd := e.command(ctx, move...)
	ended := make(chan error, 1)
	out := &strings.Builder{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	go func() { ended <- cmd.Wait() }()
	delay := time.Duration(e.random.IntN(200+e.accounts/40)) * time.Millisecond
	select {
	case <-ended:
		return
	case <-time.After(delay): // at any instant is the point
	}
	if i%3 == 1 {
		e.server.Kill() // its supervisor starts it again
		e.directoryKills++
		select {
		case <-ended:
			return
		case <-time.After(delay):
		}
	}
	_ = cmd.Process.Kill() // it may have ended by itself
	<-ended
}

// finish runs the command until it is done, and looks at its memory.
func (e *evil) finish(args ...string) {
	e.t.Helper()
	for range 10 {
		cmd := e.command(e.t.Context(), args...)
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			e.t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		memory, err := peak(cmd.Process.Pid, ended)
		e.t.Logf("%s: exit %d, %d MB", args[0], cmd.ProcessState.ExitCode(), memory>>10)
		if memory > maxMemory {
			e.t.Errorf("%s took %d MB", args[0], memory>>10)
		}
		switch cmd.ProcessState.ExitCode() {
		case exitDone, exitFailed:
			e.t.Logf("%s", out.String()[max(0, out.Len()-600):])
			return
		case exitAway:
			continue
		}
		e.t.Fatalf("%s: %v\n%s", args[0], err, out.String())
	}
	e.t.Fatalf("%s: the directory does not come back", args[0])
}

// peak looks at the most memory that a process has had, in KB, until it ends. What the kernel tells at its end counts
// the memory of this test, too.
func peak(pid int, ended <-chan error) (memory int, err error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			return memory, err
		case <-tick.C:
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue // it has just ended
		}
		if _, rest, ok := strings.Cut(string(status), "VmHWM:"); ok {
			_, _ = fmt.Sscan(rest, &memory) // a number, by the kernel
		}
	}
}

// states reads every account, by address.
func (e *evil) states() map[string]string {
	e.t.Helper()
	for range 20 {
		editor, err := e.link.Editor(e.t.Context())
		if err != nil {
			break
		}
		all := map[string]string{}
		err = editor.Search(e.t.Context(), directory.Query{}, func(r directory.Record) error {
			for _, address := range r.Logins {
				all[strings.Clone(address)] = r.Host + "/" + r.OldHost
				if r.Several {
					all[address] = "several"
				}
			}
			return nil
		})
		if err == nil {
			return all
		}
		e.t.Logf("read the directory again: %v", err)
		e.link.Lost(editor)
	}
	e.t.Fatal("the directory does not come back")
	return nil
}

// judge compares every account with what it must be.
func (e *evil) judge(before, after map[string]string) {
	e.t.Helper()
	wrong := 0
	for address, states := range e.want {
		right := false
		for _, s := range states {
			right = right || after[address] == s
		}
		if !right {
			if wrong++; wrong <= 10 {
				e.t.Errorf("%s is %q, was %q, want one of %q", address, after[address], before[address], states)
			}
		}
	}
	for address := range after {
		if e.want[address] == nil {
			e.t.Errorf("%s comes from nowhere", address)
		}
	}
	if wrong > 0 {
		e.t.Errorf("%d wrong accounts", wrong)
	}
}

// judgeUndo wants what it was before, except where somebody else had the last word.
func (e *evil) judgeUndo(before, after, now map[string]string) {
	e.t.Helper()
	wrong := 0
	for address, state := range after {
		want, old := before[address]
		switch {
		case strings.HasPrefix(state, "else/"):
			want = state
		case !old:
			want = "one/"
		}
		if now[address] != want {
			if wrong++; wrong <= 10 {
				e.t.Errorf("after undo %s is %q, want %q", address, now[address], want)
			}
		}
	}
	if wrong > 0 || len(now) != len(after) {
		e.t.Errorf("after undo: %d wrong accounts; %d accounts, want %d", wrong, len(now), len(after))
	}
}

// build makes the real command.
func (s *soak) build() {
	s.t.Helper()
	s.binary = filepath.Join(s.dir, "hostfailover")
	if out, err := exec.Command("go", "build", "-o", s.binary, ".").CombinedOutput(); err != nil {
		s.t.Fatalf("build: %v\n%s", err, out)
	}
	s.secret = filepath.Join(s.dir, "secret")
	writeFile(s.t, s.secret, slapdtest.BindPassword)
}
