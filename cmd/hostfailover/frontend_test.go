package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// fakeFrontend is the admin interface of a frontend.
type fakeFrontend struct {
	mu       sync.Mutex
	calls    []string
	sessions string // the answer to who
	fail     bool
}

func (f *fakeFrontend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var body map[string]string
	if r.Method == http.MethodGet {
		f.calls = append(f.calls, r.Method+" "+r.URL.RequestURI())
		fmt.Fprint(w, f.sessions)
		return
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	f.calls = append(f.calls, r.Method+" "+r.URL.Path+" "+body["host"]+body["id"])
	if f.fail {
		http.Error(w, `{"error":"no"}`, http.StatusInternalServerError)
		return
	}
	if r.URL.Path == "/kick" {
		fmt.Fprint(w, `{"sessions":7}`)
		return
	}
	fmt.Fprint(w, `{"names":3}`)
}

func (f *fakeFrontend) serve(t *testing.T) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "admin.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: f}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }() // ends with Close
	t.Cleanup(func() { server.Close(); <-done })
	return socket
}

const threeAccounts = `dn: uid=a,dc=example,dc=com
objectClass: mailAccount
hostServer: ONE

dn: uid=b,dc=example,dc=com
objectClass: mailAccount
hostServer: one

dn: uid=c,dc=example,dc=com
objectClass: mailAccount
hostServer: two
`

// try runs the command in an empty directory with three accounts.
func try(t *testing.T, args ...string) (code int, out string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = run(t.Context(), args, console{in: strings.NewReader(""), out: &stdout, err: &stderr})
	return code, stdout.String() + stderr.String()
}

func TestFrontendsAreTold(t *testing.T) {
	t.Chdir(t.TempDir())
	writeFile(t, "accounts.ldif", threeAccounts)
	good, kicking := &fakeFrontend{}, &fakeFrontend{}
	args := []string{"move", "-server", "ldif:accounts.ldif", "-from", "one", "-to", "three", "-notify", good.serve(t), "-notify", "unix:" + kicking.serve(t), "-kick", "-journal", "j"}
	if code, out := try(t, args...); code != 0 || len(good.calls) != 0 {
		t.Errorf("dry run: exit %d, %v\n%s", code, good.calls, out)
	}
	code, out := try(t, append(args, "-apply", "-yes")...)
	want := "POST /forget one,POST /kick one"
	if code != 0 || strings.Join(good.calls, ",") != want || strings.Join(kicking.calls, ",") != want || !strings.Contains(out, "forgot 3 accounts of one and closed 7 sessions") {
		t.Errorf("exit %d, %v %v\n%s", code, good.calls, kicking.calls, out)
	}
	// A run that finds nothing more to change tells them again: the one before may have been interrupted.
	if code, out := try(t, append(args, "-apply", "-yes")...); code != 0 || len(good.calls) != 4 {
		t.Errorf("nothing changed: exit %d, %v\n%s", code, good.calls, out)
	}
	broken := &fakeFrontend{fail: true}
	code, out = try(t, "restore", "-server", "ldif:accounts.ldif", "-host", "one", "-apply", "-yes", "-journal", "j",
		"-notify", broken.serve(t), "-notify", filepath.Join(t.TempDir(), "gone"), "-notify", good.serve(t))
	if code != exitFailed || !strings.Contains(out, "mailmux reload") || strings.Join(good.calls[4:], ",") != "POST /forget three" {
		t.Errorf("a frontend that is away: exit %d, %v\n%s", code, good.calls, out)
	}
}

// Where some accounts have a reason to stay on the old host, only the sessions of the others are closed; and a restore
// that finds nothing to do tells of every host, because the one before may have been interrupted.
func TestOnlyMovedSessionsAreClosed(t *testing.T) {
	t.Chdir(t.TempDir())
	account := func(name, host string) string {
		return fmt.Sprintf("dn: uid=%s,dc=example,dc=com\nobjectClass: mailAccount\nuid: %[1]s\nmail: %[1]s@example.com\n%s\n\n", name, host)
	}
	writeFile(t, "accounts.ldif", account("ann", "hostServer: two\noldHostServer: one")+account("bob", "hostServer: two"))
	writeFile(t, "mailmux.yaml", `hostname: mail.example.com
directory: {servers: ["ldif:accounts.ldif"], base: "dc=example,dc=com"}
domains: {default: example.com}
hosts: {one: {members: ["127.0.0.1:1"]}, two: {members: ["127.0.0.1:1"]}}
listeners:
  - {service: imap, address: "127.0.0.1:2143", allow_plaintext: true}
`)
	f := &fakeFrontend{sessions: `[{"id":"s1","account":"ann@example.com"},{"id":"s2","account":"bob@example.com"},{"id":"s3","account":"ann@example.com"},{"id":"s4"}]`}
	args := []string{"restore", "-config", "mailmux.yaml", "-host", "one", "-apply", "-yes", "-no-check", "-notify", f.serve(t), "-kick", "-journal", "j"}
	want := "POST /forget two,GET /who?host=two,POST /kick s1,POST /kick s3"
	for _, state := range []string{"first", "again"} {
		f.calls = nil
		if code, out := try(t, args...); code != 0 || strings.Join(f.calls, ",") != want {
			t.Errorf("%s: exit %d, %q\n%s", state, code, f.calls, out)
		}
	}
}

// An account that could not be moved stays, and so do its sessions.
func TestSessionsOfAccountsThatStayAreLeft(t *testing.T) {
	t.Chdir(t.TempDir())
	writeFile(t, "accounts.ldif", `dn: uid=ann,dc=example,dc=com
objectClass: mailAccount
mail: ann@example.com
hostServer: one

dn: uid=bob,dc=example,dc=com
objectClass: mailAccount
mail: bob@example.com
hostServer: one
hostServer: other
`)
	f := &fakeFrontend{sessions: `[{"id":"s1","account":"ann@example.com"},{"id":"s2","account":"bob@example.com"}]`}
	code, out := try(t, "move", "-server", "ldif:accounts.ldif", "-base", "dc=example,dc=com", "-from", "one", "-to", "two", "-apply", "-yes", "-journal", "j", "-notify", f.serve(t), "-kick")
	if want := "POST /forget one,GET /who?host=one,POST /kick s1"; code != exitFailed || strings.Join(f.calls, ",") != want {
		t.Errorf("exit %d, %q\n%s", code, f.calls, out)
	}
}

// serveIMAP is a member that knows the password, or one that is no IMAP server.
func serveIMAP(t *testing.T, greeting string) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { talkIMAP(c, greeting) })
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return l.Addr().String()
}

func talkIMAP(c net.Conn, greeting string) {
	defer c.Close()
	fmt.Fprintf(c, "%s\r\n", greeting)
	lines := bufio.NewScanner(c)
	for lines.Scan() {
		tag, rest, _ := strings.Cut(lines.Text(), " ")
		verb, rest, _ := strings.Cut(rest, " ")
		switch strings.ToUpper(verb) {
		case "CAPABILITY":
			fmt.Fprintf(c, "* CAPABILITY IMAP4rev1\r\n%s OK done\r\n", tag)
		case "LOGIN":
			if !strings.Contains(rest, "sesame") {
				fmt.Fprintf(c, "%s NO [AUTHENTICATIONFAILED] no\r\n", tag)
				continue
			}
			fmt.Fprintf(c, "%s OK [CAPABILITY IMAP4rev1] in\r\n", tag)
		case "LOGOUT":
			fmt.Fprintf(c, "* BYE\r\n%s OK out\r\n", tag)
			return
		default:
			fmt.Fprintf(c, "%s BAD what\r\n", tag)
		}
	}
}

func TestTargetsAreProbed(t *testing.T) {
	t.Chdir(t.TempDir())
	writeFile(t, "accounts.ldif", threeAccounts)
	writeFile(t, "right", "sesame\n")
	writeFile(t, "wrong", "guess\n")
	writeFile(t, "mailmux.yaml", fmt.Sprintf(`hostname: mail.example.com
directory: {servers: ["ldif:accounts.ldif"], base: "dc=example,dc=com"}
hosts:
  one: {members: ["127.0.0.1:1"]}
  good: {members: ["127.0.0.1:1", %q]}
  garbage: {members: [%q]}
  dead: {members: ["127.0.0.1:1"]}
listeners:
  - {service: imap, address: "127.0.0.1:2143", allow_plaintext: true}
`, serveIMAP(t, "* OK ready"), serveIMAP(t, "HTTP/1.1 400 Bad Request")))
	login := []string{"-probe-account", "probe", "-probe-password-file"}
	for _, c := range []struct {
		name, to string
		more     []string
		code     int
	}{
		{"a dead host in a dry run", "dead", nil, 0},
		{"a dead host", "dead", []string{"-apply"}, exitRefused},
		{"a dead host, probed", "dead", []string{"-probe"}, exitRefused},
		{"garbage, probed", "garbage", []string{"-probe"}, exitRefused},
		{"a host with one dead member, probed", "good", []string{"-probe"}, 0},
		{"with a login", "good", append([]string{"-probe"}, append(login, "right")...), 0},
		{"with a wrong password", "good", append([]string{"-probe"}, append(login, "wrong")...), exitRefused},
		{"with a password file that is missing", "good", append([]string{"-probe"}, append(login, "missing")...), exitRefused},
		{"an account without a probe", "good", append(login, "right"), exitUsage},
		{"a dead host by force", "dead", []string{"-apply", "-yes", "-no-check", "-journal", "j"}, 0},
	} {
		code, out := try(t, append([]string{"move", "-config", "mailmux.yaml", "-from", "one", "-to", c.to}, c.more...)...)
		if code != c.code {
			t.Errorf("%s: exit %d, want %d\n%s", c.name, code, c.code, out)
		}
	}
	text, err := os.ReadFile("accounts.ldif")
	if err != nil || strings.Count(string(text), "hostServer: dead") != 2 {
		t.Errorf("%v\n%s", err, text)
	}
}

func TestManualPageIsComplete(t *testing.T) {
	page := manual()
	for _, c := range commands() {
		c.each(func(_ string, flags []*flag.Flag) {
			for _, f := range flags {
				if !strings.Contains(page, roff("-"+f.Name)) || !strings.Contains(fishCompletion(), " -o "+f.Name) || !strings.Contains(bashCompletion(), "-"+f.Name) {
					t.Errorf("-%s of %s is missing", f.Name, c.name)
				}
			}
		})
	}
	if strings.Contains(page, "\n\n") {
		t.Error("the manual page has empty lines, which are gaps")
	}
	if strings.Contains(page, "\n'") || strings.Contains(page, "`") {
		t.Error("the manual page has characters that man(7) takes for requests")
	}
}

// What bash offers, in a directory with a file whose name has a space.
func TestBashCompletes(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip("bash is missing: what it completes cannot be seen")
	}
	t.Chdir(t.TempDir())
	writeFile(t, "my file", "")
	writeFile(t, "script", bashCompletion()+`
COMP_WORDS=(hostfailover "$@")
COMP_CWORD=$#
_hostfailover
printf '%s\n' "${COMPREPLY[@]}"
`)
	for words, want := range map[string]string{
		"mo":              "move",
		"move -fr":        "-from",
		"move -from ":     "",
		"move -txn o":     "on off",
		"move -config my": "my file",
		"undo -journal ":  "my file script",
		"journal sh":      "show",
		"journal show m":  "my file",
		"journal show -":  "-v",
		"help und":        "undo",
		"completion b":    "bash",
		"nonsense ":       "",
	} {
		out, err := exec.Command(bash, append([]string{"--norc", "script"}, strings.Split(words, " ")...)...).CombinedOutput()
		got := strings.Split(strings.TrimSpace(string(out)), "\n")
		slices.SortFunc(got, func(a, b string) int { return strings.Index(want, a) - strings.Index(want, b) })
		if strings.Join(got, " ") != want || err != nil {
			t.Errorf("%q: %q, want %q, %v", words, got, want, err)
		}
	}
}
