// Package pacemaker tests the resource agent with a cluster manager of its own: two commands that answer as Pacemaker's
// do, and the calls in the order in which a cluster makes them.
package pacemaker

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const (
	success     = 0
	generic     = 1
	installed   = 5
	configured  = 6
	notRunning  = 7
	unsupported = 3
)

// binary is the real command, built once.
var binary string

func TestMain(m *testing.M) { os.Exit(build(m)) }

func build(m *testing.M) int {
	dir, err := os.MkdirTemp("", "hostfailover-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "hostfailover")
	if out, err := exec.Command("go", "build", "-o", binary, "mailmux/cmd/hostfailover").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// cluster is a fake one.
type cluster struct {
	t       *testing.T
	dir     string
	fencing string
	home    string
}

func newCluster(t *testing.T) *cluster {
	c := &cluster{t: t, dir: t.TempDir(), fencing: "true", home: "back1.example.com"}
	c.write("bin/crm_node", "#!/bin/sh\necho \"$FAKE_NODE\"\n")
	c.write("bin/crm_attribute", "#!/bin/sh\ncat \"$FAKE_FENCING\"\n")
	if err := os.Symlink(binary, c.path("bin/hostfailover")); err != nil {
		t.Fatal(err)
	}
	c.write("mailmux.yaml", `hostname: mail.example.com
directory: {servers: ["ldif:accounts.ldif"], base: "ou=domains,dc=example,dc=com"}
hosts:
  back1.example.com: {members: [127.0.0.1]}
  back2.example.com: {members: [127.0.0.1]}
  back3.example.com: {members: [127.0.0.1]}
listeners:
  - {service: imap, address: "127.0.0.1:2143", allow_plaintext: true}
`)
	var b strings.Builder
	for i, host := range []string{"back1.example.com", "back2.example.com", "back1.example.com"} {
		fmt.Fprintf(&b, "dn: uid=u%d,ou=domains,dc=example,dc=com\nobjectClass: mailAccount\nmail: u%d@example.com\nhostServer: %s\n\n", i, i, host)
	}
	c.write("accounts.ldif", b.String())
	return c
}

func (c *cluster) path(name string) string { return filepath.Join(c.dir, name) }

func (c *cluster) write(name, text string) {
	c.t.Helper()
	if err := os.MkdirAll(filepath.Dir(c.path(name)), 0o755); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(c.path(name), []byte(text), 0o755); err != nil {
		c.t.Fatal(err)
	}
}

// call is what the cluster manager does on a node.
func (c *cluster) call(node, action string, more ...string) (code int, out string) {
	c.t.Helper()
	c.write("fencing", c.fencing+"\n")
	agent, err := filepath.Abs("mailmux-failover")
	if err != nil {
		c.t.Fatal(err)
	}
	cmd := exec.Command("sh", agent, action)
	cmd.Env = append([]string{
		"PATH=" + c.path("bin") + ":" + os.Getenv("PATH"), "FAKE_NODE=" + node, "FAKE_FENCING=" + c.path("fencing"),
		"HA_RSCTMP=" + c.path("run-"+node), "OCF_RESOURCE_INSTANCE=back1-accounts", "OCF_ROOT=" + c.path("none"),
		"OCF_RESKEY_home=" + c.home, "OCF_RESKEY_nodes=node1=back1.example.com node2=back2.example.com node3=back3.example.com",
		"OCF_RESKEY_config=" + c.path("mailmux.yaml"), "OCF_RESKEY_journal_dir=" + c.path("journals"), "OCF_RESKEY_options=-no-check",
	}, more...)
	text, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(text)
}

func (c *cluster) want(node, action string, code int, more ...string) {
	c.t.Helper()
	if got, out := c.call(node, action, more...); got != code {
		c.t.Fatalf("%s on %s: exit %d, want %d\n%s", action, node, got, code, out)
	}
}

func (c *cluster) hosts(want string) {
	c.t.Helper()
	text, err := os.ReadFile(c.path("accounts.ldif"))
	if err != nil {
		c.t.Fatal(err)
	}
	var got []string
	for line := range strings.SplitSeq(string(text), "\n") {
		if name, value, ok := strings.Cut(line, ": "); ok && strings.Contains(name, "ostServer") {
			got = append(got, strings.TrimSuffix(name, "HostServer")+"="+strings.TrimSuffix(value, ".example.com"))
		}
	}
	if all := strings.Join(got, " "); all != want {
		c.t.Errorf("got  %s\nwant %s", all, want)
	}
}

func TestTakeOverAndBackHome(t *testing.T) {
	c := newCluster(t)
	c.want("node1", "monitor", notRunning)
	c.want("node1", "start", success)
	c.want("node1", "monitor", success)
	c.hosts("hostServer=back1 hostServer=back2 hostServer=back1")

	// node1 fails: it is fenced, and the storage starts on node2. There is no stop on a node that is off.
	c.want("node2", "monitor", notRunning)
	c.want("node2", "start", success)
	c.want("node2", "start", success) // a start that the cluster repeats
	c.want("node2", "monitor", success)
	c.want("node2", "monitor", success, "OCF_CHECK_LEVEL=10")
	c.hosts("hostServer=back2 old=back1 hostServer=back2 hostServer=back2 old=back1")

	// node2 fails too.
	c.want("node3", "start", success)
	c.hosts("hostServer=back3 old=back1 hostServer=back2 hostServer=back3 old=back1")

	// node1 is back, and the storage moves home.
	c.want("node3", "stop", success)
	c.want("node3", "monitor", notRunning)
	c.want("node1", "stop", success)
	c.want("node1", "start", success)
	c.hosts("hostServer=back1 hostServer=back2 hostServer=back1")
}

func TestAccountsMadeOnTheFailedHostAreNoticed(t *testing.T) {
	c := newCluster(t)
	c.want("node2", "start", success)
	text, err := os.ReadFile(c.path("accounts.ldif"))
	if err != nil {
		t.Fatal(err)
	}
	c.write("accounts.ldif", string(text)+"\ndn: uid=new,ou=domains,dc=example,dc=com\nobjectClass: mailAccount\nhostServer: BACK1.example.com\n")
	c.want("node2", "monitor", success)
	c.want("node2", "monitor", generic, "OCF_CHECK_LEVEL=10")
	c.want("node2", "start", success)
	c.want("node2", "monitor", success, "OCF_CHECK_LEVEL=10")
}

// An account that cannot be moved is no reason to start again and again, which would move the storage in the end; one
// that is new is.
func TestAccountsThatCannotBeMoved(t *testing.T) {
	c := newCluster(t)
	account := func(name string, hosts ...string) string {
		return "\ndn: uid=" + name + ",ou=domains,dc=example,dc=com\nobjectClass: mailAccount\nhostServer: " + strings.Join(hosts, "\nhostServer: ") + "\n"
	}
	// It is on back1 as far as status can tell, and refuses to be changed.
	if err := os.Remove(c.path("bin/hostfailover")); err != nil { // a link to the real one, which is not to be written to
		t.Fatal(err)
	}
	c.write("bin/hostfailover", "#!/bin/sh\n"+binary+" \"$@\"\ncode=$?\n"+
		"[ \"$1\" != status ] || echo '{\"directory\":\"x\",\"host\":\"BACK1.example.com\",\"old_host\":\"back3.example.com\",\"accounts\":2,\"known\":true}'\n"+
		"[ \"$1\" != move ] || exit 1\nexit $code\n")
	c.want("node2", "start", success)
	c.want("node2", "monitor", success, "OCF_CHECK_LEVEL=10")
	text, err := os.ReadFile(c.path("accounts.ldif"))
	if err != nil {
		t.Fatal(err)
	}
	c.write("accounts.ldif", string(text)+account("new", "back1.example.com"))
	c.want("node2", "monitor", generic, "OCF_CHECK_LEVEL=10")
}

// A run that was cut short is not called a success: it is run again, which tells.
func TestRunThatIsCutShort(t *testing.T) {
	c := newCluster(t)
	if err := os.Remove(c.path("bin/hostfailover")); err != nil { // a link to the real one, which is not to be written to
		t.Fatal(err)
	}
	c.write("bin/hostfailover", "#!/bin/sh\n[ -e "+c.path("full")+" ] && exit 2\ntouch "+c.path("full")+"\nexit 1\n")
	c.want("node2", "start", configured)
	c.want("node2", "monitor", notRunning)
}

func TestRefusals(t *testing.T) {
	c := newCluster(t)
	c.fencing = "false"
	c.want("node2", "start", configured)
	c.want("node2", "validate-all", configured)
	c.hosts("hostServer=back1 hostServer=back2 hostServer=back1")
	c.want("node2", "validate-all", success, "OCF_RESKEY_allow_unfenced=true")
	c.fencing = "true"
	c.want("node2", "start", installed, "OCF_RESKEY_config=/nonexistent")
	c.want("node2", "start", installed, "OCF_RESKEY_binary=/nonexistent")
	c.want("node9", "start", generic) // node9 is no home host
	c.want("node2", "start", configured, "OCF_RESKEY_options=-nonsense")
	c.want("node2", "start", configured, "OCF_RESKEY_journal_dir=/dev/null/no") // nothing was moved
	c.want("node2", "promote", unsupported)
	c.home = ""
	c.want("node2", "start", configured)
	c.home = "back1.example.com"
	if err := os.Remove(c.path("accounts.ldif")); err != nil {
		t.Fatal(err)
	}
	if code, out := c.call("node2", "start"); code != generic && code != configured {
		t.Errorf("no directory: exit %d\n%s", code, out)
	}
	c.want("node2", "monitor", notRunning)
}

func TestMetadata(t *testing.T) {
	c := newCluster(t)
	code, out := c.call("node1", "meta-data")
	if code != success || !strings.Contains(out, `<parameter name="home" required="1">`) || !strings.Contains(out, "</resource-agent>") {
		t.Errorf("exit %d\n%s", code, out)
	}
}
