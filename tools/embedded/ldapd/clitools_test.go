package ldapd_test

import (
	"os/exec"
	"strings"
	"testing"
)

// TestOpenLDAPTools: the tools that administrators have work against the server.
func TestOpenLDAPTools(t *testing.T) {
	for _, tool := range []string{"ldapsearch", "ldapmodify"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed (Debian: ldap-utils)", tool)
		}
	}
	tree := newTree(t)
	cfg := config()
	cfg.RequireBind = true
	_, addr := serve(t, tree, cfg)
	login := []string{"-H", "ldap://" + addr, "-x", "-D", "cn=root", "-w", "root"}
	run := func(stdin, name string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, append(login, args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	out := run("", "ldapsearch", "-LLL", "-E", "pr=2/noprompt", "-b", "dc=example,dc=com", "(hostServer=*)", "hostServer")
	if strings.Count(out, "hostServer:") != 3 {
		t.Errorf("paged ldapsearch:\n%s", out)
	}
	run("dn: "+annDN+"\nchangetype: modify\ndelete: hostServer\nhostServer: east.example.com\n-\nadd: hostServer\nhostServer: west.example.com\n",
		"ldapmodify")
	if got := value(t, tree, annDN, "hostServer"); got != "west.example.com" {
		t.Errorf("after ldapmodify hostServer = %q", got)
	}
	out = run("", "ldapsearch", "-LLL", "-s", "base", "-b", "", "+")
	if !strings.Contains(out, "supportedControl: 1.2.840.113556.1.4.319") {
		t.Errorf("root DSE:\n%s", out)
	}
}
