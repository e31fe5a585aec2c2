package integration

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"mailmux/integration/stage"
	"mailmux/integration/tally"
)

// firstEtcd is the last byte of the address of the first server of etcd.
const firstEtcd = 11

// etcdNode is one server of etcd, Debian's, which can be started again.
type etcdNode struct {
	*stage.Process

	addr   string // host:port for clients
	secure bool   // clients speak TLS
	log    string
	argv   []string
}

func (e *etcdNode) url() string {
	if e.secure {
		return "https://" + e.addr
	}
	return "http://" + e.addr
}

// start starts it, again with the data that it has.
func (e *etcdNode) start() error {
	p, err := stage.Start("etcd", e.log, e.argv...)
	if err == nil {
		e.Process = p
	}
	return err
}

// newEtcd is a cluster of servers that are not started yet.
func (s *claimSite) newEtcd(t testing.TB, nodes int, secure bool, more ...string) []*etcdNode {
	t.Helper()
	binary, err := stage.Find("etcd", "etcd-server")
	need(t, err)
	var list []*etcdNode
	var cluster []string
	for i := range nodes {
		cluster = append(cluster, fmt.Sprintf("e%d=http://%s", i+1, s.Net.Addr(firstEtcd+i, 2380)))
	}
	for i := range nodes {
		name, peer := fmt.Sprintf("e%d", i+1), "http://"+s.Net.Addr(firstEtcd+i, 2380)
		e := &etcdNode{addr: s.Net.Addr(firstEtcd+i, 2379), secure: secure, log: filepath.Join(s.Dir, name+".log")}
		e.argv = append([]string{binary, "--data-dir", filepath.Join(s.Dir, name), "--name", name,
			"--listen-client-urls", e.url(), "--advertise-client-urls", e.url(), "--listen-peer-urls", peer,
			"--initial-advertise-peer-urls", peer, "--initial-cluster", strings.Join(cluster, ",")}, more...)
		list = append(list, e)
	}
	return list
}

// startEtcd starts servers of etcd for the site, in the clear. Several want a password.
func (s *claimSite) startEtcd(t testing.TB, nodes int) {
	t.Helper()
	if nodes == 1 {
		s.Etcd = s.newEtcd(t, 1, false)
		s.keepEtcd(t, s.Etcd[0])
		return
	}
	s.Password = filepath.Join(s.Dir, "etcd.secret")
	if err := os.WriteFile(s.Password, []byte("open sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Etcd = s.newEtcd(t, nodes, false, "--bcrypt-cost", "4")
	var urls []string
	for _, e := range s.Etcd {
		s.keepEtcd(t, e)
		urls = append(urls, e.url())
	}
	enableUsers(t, clientv3.Config{Endpoints: urls})
}

// enableUsers waits until etcd answers, and gives it users: mux may do all that a frontend needs, reader may read it.
func enableUsers(t testing.TB, how clientv3.Config) {
	t.Helper()
	client, err := clientv3.New(how)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		if _, err = client.Get(ctx, "x"); err == nil {
			break
		}
		if sleep(ctx, 20*time.Millisecond) != nil {
			t.Fatal(err)
		}
	}
	const prefix = "/mailmux/"
	step := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, right := range map[string]clientv3.PermissionType{"mux": clientv3.PermissionType(clientv3.PermReadWrite), "reader": clientv3.PermissionType(clientv3.PermRead)} {
		step(client.RoleAdd(ctx, name))
		step(client.RoleGrantPermission(ctx, name, prefix, clientv3.GetPrefixRangeEnd(prefix), right))
		step(client.UserAdd(ctx, name, "open sesame"))
		step(client.UserGrantRole(ctx, name, name))
	}
	step(client.UserAddWithOptions(ctx, namedUser, "", &clientv3.UserAddOptions{NoPassword: true}))
	step(client.UserGrantRole(ctx, namedUser, "mux"))
	step(client.UserAdd(ctx, "root", "root"))
	step(client.RoleAdd(ctx, "root"))
	step(client.UserGrantRole(ctx, "root", "root"))
	step(client.AuthEnable(ctx))
}

// keepEtcd starts a server, and stops it with the test.
func (s *claimSite) keepEtcd(t testing.TB, e *etcdNode) {
	t.Helper()
	if err := e.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		e.Stop()
		if t.Failed() {
			t.Logf("the end of etcd's log:\n%s", e.Tail(2000))
		}
	})
}

// leaderOf asks every server whether it is the leader; nil if none says so.
func leaderOf(ctx context.Context, nodes []*etcdNode) *etcdNode {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 500 * time.Millisecond}
	for _, e := range nodes {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.url()+"/metrics", nil)
		if err != nil {
			return nil
		}
		resp, err := client.Do(req)
		if err != nil {
			continue
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err == nil && strings.Contains(string(text), "\netcd_server_is_leader 1\n") {
			return e
		}
	}
	return nil
}

// secured is an etcd that wants certificates and passwords, with the files that a frontend needs for it.
type secured struct {
	*claimSite

	node   *etcdNode
	ca     *stage.Authority
	other  *stage.Authority // one that etcd's certificate is not signed by
	client stage.Pair       // says no user of etcd
	named  stage.Pair       // says a user who may do the same as mux
	wrong  string           // a file with another one
}

// tokenTime is --auth-token-ttl: a token that was not used for so long is not valid any more.
const tokenTime = "1"

// namedUser has no password.
const namedUser = "named@example.com"

// newSecured makes everything, and starts only the member.
func newSecured(t *testing.T) *secured {
	t.Helper()
	s := &secured{claimSite: newClaimSite(t, claimOptions{Members: 1, Embedded: true})}
	var err error
	if s.ca, err = stage.NewAuthority(s.Dir, "etcd-ca"); err != nil {
		t.Fatal(err)
	}
	if s.other, err = stage.NewAuthority(s.Dir, "other-ca"); err != nil {
		t.Fatal(err)
	}
	server, err := s.ca.Issue(s.Net.IP(firstEtcd))
	if err != nil {
		t.Fatal(err)
	}
	if s.client, err = s.ca.IssueClient("front@example.com"); err != nil {
		t.Fatal(err)
	}
	if s.named, err = s.ca.IssueClient(namedUser); err != nil {
		t.Fatal(err)
	}
	s.Password, s.wrong = filepath.Join(s.Dir, "etcd.secret"), filepath.Join(s.Dir, "wrong.secret")
	for file, text := range map[string]string{s.Password: "open sesame\n", s.wrong: "open barley\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.node = s.newEtcd(t, 1, true, "--cert-file", server.Cert, "--key-file", server.Key, "--trusted-ca-file", s.ca.File,
		"--client-cert-auth", "--bcrypt-cost", "4", "--auth-token-ttl", tokenTime, "--logger", "zap", "--log-level", "debug")[0]
	return s
}

// start starts etcd, and gives it its users.
func (s *secured) start(t *testing.T) {
	t.Helper()
	s.keepEtcd(t, s.node)
	pair, err := tls.LoadX509KeyPair(s.client.Cert, s.client.Key)
	if err != nil {
		t.Fatal(err)
	}
	enableUsers(t, clientv3.Config{Endpoints: []string{s.node.url()},
		TLS: &tls.Config{RootCAs: s.ca.Pool, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}})
}

// keys are those of the section claims that say how to reach etcd.
type keys map[string]string

// section is claims with the right keys, but for those given; empty ones are left out.
func (s *secured) section(lease time.Duration, other keys) string {
	all := keys{"endpoints": fmt.Sprintf("[%q]", s.node.url()), "tls_ca_file": s.ca.File, "tls_cert_file": s.client.Cert,
		"tls_key_file": s.client.Key, "user": "mux", "password_file": s.Password}
	for key, value := range other {
		all[key] = value
	}
	text := fmt.Sprintf("lease: %s, margin: %s, timeout: 2s", lease, claimMargin) // etcd takes its time for a password
	for key, value := range all {
		if value != "" {
			text += fmt.Sprintf(", %s: %s", key, value)
		}
	}
	return text
}

// refused checks that check -online and a running frontend, in its status and its log, say what is wrong, and that
// logins are put off.
func (s *secured) refused(t *testing.T, f *claimFront, want string) {
	t.Helper()
	out, code, err := f.Run(t.Context(), "check", "-online")
	if err != nil || code != 1 || !strings.Contains(out, "\n"+want) {
		t.Errorf("check -online ends with %d, %v, and does not say %q:\n%s", code, err, want, out)
	}
	f.await(t, 15*time.Second, want, func(s claimState) bool {
		return s.Claims.State == "waiting" && strings.HasPrefix(s.Claims.Error, want)
	})
	if m, err := f.login(s.Accounts[0], 10*time.Second); !errors.Is(err, errTemporary) {
		t.Errorf("a login ends with %v, %v", m, err)
	}
	log, err := os.ReadFile(f.Log)
	if logged := strings.ReplaceAll(string(log), `\"`, `"`); err != nil || !strings.Contains(logged, want) {
		t.Errorf("the log does not say %q: %v\n%s", want, err, f.Tail(2000))
	}
}

// A frontend logs in to an etcd that wants a certificate and a password, also when that comes only later; each thing that
// can be wrong with them is said with its key, and is an outage, after which the frontend goes on.
func TestClaimEtcdSecured(t *testing.T) {
	s := newSecured(t)
	f := &claimFront{Claims: s.section(time.Minute, nil)}
	s.startFront(t, 0, f)
	s.refused(t, f, fmt.Sprintf("claims.endpoints[0]: %s: dial tcp %s: connect: connection refused; does etcd listen there?", s.node.url(), s.node.addr))
	s.start(t)
	f.awaitClaims(t, 30*time.Second)
	if out, code, err := f.Run(t.Context(), "check", "-online"); err != nil || code != 0 || !strings.Contains(out, "claims: etcd answers at 1 endpoint\n") {
		t.Errorf("check -online ends with %d, %v:\n%s", code, err, out)
	}
	named := &claimFront{Claims: s.section(claimLease, keys{"user": "", "password_file": "", "tls_cert_file": s.named.Cert, "tls_key_file": s.named.Key})}
	s.startFront(t, 13, named)
	named.awaitClaims(t, 30*time.Second)
	t.Run("faults", s.faults)
	s.tokens(t)
	noViolations(t, s.Tally)
}

func (s *secured) faults(t *testing.T) {
	link, err := tally.NewLink(s.node.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(link.Close)
	for i, test := range []struct {
		name, want string
		keys       keys
	}{
		{"password", `claims.user: etcd has no user "mux" with the password in claims.password_file`, keys{"password_file": s.wrong}},
		{"nobody", "claims.prefix: the user that our certificate names may not read and write the keys of etcd below /mailmux/", keys{"user": "", "password_file": ""}},
		{"reader", `claims.prefix: user "reader" may not read and write the keys of etcd below /mailmux/`, keys{"user": "reader"}},
		{"prefix", `claims.prefix: user "mux" may not read and write the keys of etcd below /other/`, keys{"prefix": "/other/"}},
		{"name", fmt.Sprintf("claims.endpoints[0]: https://%s has a certificate for another name", link.Addr()), keys{"endpoints": fmt.Sprintf(`["https://%s"]`, link.Addr())}},
		{"authority", fmt.Sprintf("claims.tls_ca_file: %s has a certificate of an authority that we do not know", s.node.url()), keys{"tls_ca_file": s.other.File}},
		{"certificate", fmt.Sprintf("claims.tls_cert_file: %s refuses the certificate that we show, or wants one", s.node.url()), keys{"tls_cert_file": "", "tls_key_file": ""}},
		{"clear", fmt.Sprintf("claims.endpoints[0]: http://%s", s.node.addr), keys{"endpoints": fmt.Sprintf(`["http://%s"]`, s.node.addr)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := &claimFront{Claims: s.section(claimLease, test.keys)}
			s.startFront(t, 1+i, f)
			s.refused(t, f, test.want)
			if test.keys["password_file"] == s.wrong {
				s.mended(t, f)
			}
		})
	}
}

// mended puts the right password into the file with the wrong one: the frontend goes on with it.
func (s *secured) mended(t *testing.T, f *claimFront) {
	right, err := os.ReadFile(s.Password)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.wrong, right, 0o600); err != nil {
		t.Fatal(err)
	}
	f.awaitClaims(t, 10*time.Second)
}

// tokens checks that a frontend that etcd has given a token asks for another one when that is over, or etcd has begun anew
// and does not know it. The frontend is not the controller, which asks so often that its token lasts.
func (s *secured) tokens(t *testing.T) {
	f := &claimFront{Claims: s.section(time.Minute, nil)}
	s.startFront(t, 12, f)
	f.awaitClaims(t, 10*time.Second)
	const over = "deleted a simple token"
	count := func() int {
		log, err := os.ReadFile(s.node.log)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(log), over)
	}
	before := count()
	eventually(t, "tokens expire", func() error {
		if n := count() - before; n < 3 {
			return fmt.Errorf("%d have expired", n)
		}
		return nil
	})
	first, err := f.login(s.Accounts[0], 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer first.close()
	samples, err := f.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, n := range samples {
		if strings.HasPrefix(name, "mailmux_claim_request_failures_total{") && n > 0 {
			t.Errorf("%s is %v", name, n)
		}
	}
	if err := s.node.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-s.node.Done()
	if err := s.node.start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a login after etcd was started again", func() error {
		m, err := f.login(s.Accounts[1], 5*time.Second)
		if err == nil {
			m.close()
		}
		return err
	})
	if answer, err := first.say("NOOP"); err != nil {
		t.Errorf("the session from before: %q, %v", answer, err)
	}
}

// An etcd that is put back to an older state has forgotten who is where. Nobody gets an account by its word while a
// frontend that has not forgotten it still has sessions.
func TestClaimEtcdPutBack(t *testing.T) {
	s := newClaimSite(t, claimOptions{Members: 2, Fronts: 2})
	e, data, saved := s.Etcd[0], filepath.Join(s.Dir, "e1"), filepath.Join(s.Dir, "saved")
	restart := func(change func() error) {
		t.Helper()
		e.Kill()
		if err := errors.Join(change(), e.start()); err != nil {
			t.Fatal(err)
		}
	}
	a := s.Accounts[0]
	login := func(f *claimFront) (m *mail) {
		t.Helper()
		eventually(t, "a login", func() (err error) { m, err = f.login(a, 5*time.Second); return err })
		t.Cleanup(m.close)
		return m
	}
	restart(func() error { return os.CopyFS(saved, os.DirFS(data)) })
	first := login(s.Fronts[0])
	first.close()
	eventually(t, "a move", func() error {
		return s.Fronts[0].post(t.Context(), "/move", map[string]any{"account": a.Login, "member": other(first.member)})
	})
	login(s.Fronts[0])
	restart(func() error { return errors.Join(os.RemoveAll(data), os.Rename(saved, data)) })
	login(s.Fronts[1])
	noViolations(t, s.Tally)
}
