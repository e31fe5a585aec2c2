package claims

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Check connects to every endpoint, asks etcd what a frontend asks when it starts, and changes nothing there; each of the
// two is bounded by claims.timeout. It says how many of claims.endpoints answer, and returns all faults: each begins with
// the key that is to be looked at. Where etcd is embedded there is nobody to ask.
func Check(ctx context.Context, cfg Config) (well int, faults []error) {
	cfg = cfg.WithDefaults()
	dialing, err := cfg.dialing(cfg.Endpoints)
	if err != nil {
		return 0, []error{err}
	}
	faults = cfg.probes(ctx, cfg.Timeout)
	if well = len(cfg.Endpoints) - len(faults); well == 0 {
		return 0, faults
	}
	if err := cfg.ask(ctx, dialing); err != nil {
		refused := cfg.refusal(err)
		if refused == nil {
			refused = stuck(err)
		}
		faults = append(faults, refused)
	}
	return well, faults
}

// ask logs in, and says whether the keys may be read and written. etcd judges both branches of a transaction before it
// looks which one to take, so that nothing has to be written: no key was created before revision 0.
func (c *Config) ask(ctx context.Context, dialing clientv3.Config) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	dialing.Context = ctx
	client, err := open(dialing)
	if err != nil {
		return err
	}
	defer client.Close()
	key := c.Prefix + "check"
	_, err = client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "<", 0)).Then(clientv3.OpPut(key, "")).
		Else(clientv3.OpGet(c.Prefix, clientv3.WithPrefix(), clientv3.WithLimit(1), clientv3.WithKeysOnly())).Commit()
	return err
}

// refusal says which key an answer of etcd is about, and what to do; nil where etcd has not answered.
func (c *Config) refusal(err error) error {
	switch {
	case errors.Is(err, rpctypes.ErrAuthFailed):
		return fmt.Errorf("claims.user: etcd has no user %q with the password in claims.password_file: %w", c.User, err)
	case errors.Is(err, rpctypes.ErrUserEmpty):
		return fmt.Errorf("claims.user: etcd asks who we are; name a user of it: %w", err)
	case errors.Is(err, rpctypes.ErrNoSpace):
		return fmt.Errorf("claims.endpoints: etcd is full: compact and defragment it, or raise its --quota-backend-bytes; then etcdctl alarm disarm: %w", err)
	case errors.Is(err, rpctypes.ErrPermissionDenied):
		who := fmt.Sprintf("user %q", c.User)
		if c.User == "" {
			who = "the user that our certificate names"
		}
		return fmt.Errorf("claims.prefix: %s may not read and write the keys of etcd below %s; grant its role readwrite there: %w", who, c.Prefix, err)
	}
	return nil
}

// stuck is the error of an etcd that can be reached.
func stuck(err error) error {
	return fmt.Errorf("claims.endpoints: etcd can be reached, and has not answered in time; has it a majority of its servers? %w", err)
}

// probeTime bounds the search for the reason of an outage: the next try to get a lease waits for it.
const probeTime = 500 * time.Millisecond

// explain says which key an outage is about that etcd has not given a reason for, and keeps its error. The client itself
// often says no more of a server that it cannot reach, or does not trust, than that the time is over.
func (c *Claims) explain(err error) error {
	if errors.Is(err, rpctypes.ErrLeaseNotFound) || errors.Is(err, errPutBack) {
		return err
	}
	var why []string
	for _, fault := range c.cfg.probes(c.ctx, probeTime) {
		why = append(why, fault.Error())
	}
	if len(why) == 0 {
		return stuck(err)
	}
	return fmt.Errorf("%s: %w", strings.Join(why, "; "), err)
}

// probes tries all endpoints at once, within a bound, and returns the faults in their order.
func (c *Config) probes(ctx context.Context, bound time.Duration) []error {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	secure, err := c.tlsConfig()
	if err != nil {
		return []error{err}
	}
	found := make([]error, len(c.Endpoints))
	var work sync.WaitGroup
	for i, e := range c.Endpoints {
		work.Go(func() { found[i] = probe(ctx, i, e, secure) })
	}
	work.Wait()
	var faults []error
	for _, err := range found {
		if err != nil {
			faults = append(faults, err)
		}
	}
	return faults
}

// probe connects to the i-th endpoint, by TLS if it says so, and begins to speak HTTP/2 there.
func probe(ctx context.Context, i int, endpoint string, secure *tls.Config) error {
	u, err := url.Parse(endpoint)
	if err != nil {
		return fmt.Errorf("claims.endpoints[%d]: %w", i, err)
	}
	network, address := "tcp", u.Host
	if u.Scheme == "unix" {
		network, address = "unix", u.Path
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return fmt.Errorf("claims.endpoints[%d]: %s: %w; does etcd listen there?", i, endpoint, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	if u.Scheme == "https" {
		t := secure.Clone()
		t.ServerName, t.NextProtos = u.Hostname(), []string{"h2"}
		client := tls.Client(conn, t)
		if err := client.HandshakeContext(ctx); err != nil {
			return tlsFault(i, endpoint, err)
		}
		conn = client
	}
	if err := greet(conn); err != nil {
		return tlsFault(i, endpoint, err)
	}
	return nil
}

// greet sends the preface of HTTP/2 and an empty SETTINGS frame, and reads the server's (RFC 9113 section 3.4). A server
// that wants another certificate says so only here: with TLS 1.3 our handshake is over before it has looked at ours.
func greet(conn io.ReadWriter) error {
	const preface, settings = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	if _, err := io.WriteString(conn, preface+settings); err != nil {
		return err
	}
	var header [9]byte
	if _, err := io.ReadFull(conn, header[:]); err != nil {
		return fmt.Errorf("no answer in HTTP/2: %w", err)
	}
	if header[3] != settings[3] {
		return errors.New("it does not speak HTTP/2")
	}
	return nil
}

// tlsFault says which key an endpoint's failure is about.
func tlsFault(i int, endpoint string, err error) error {
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	var record tls.RecordHeaderError
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("claims.endpoints[%d]: %s takes the connection, and does not answer: %w", i, endpoint, err)
	case errors.As(err, &authority):
		return fmt.Errorf("claims.tls_ca_file: %s has a certificate of an authority that we do not know: %w", endpoint, err)
	case errors.As(err, &name):
		return fmt.Errorf("claims.endpoints[%d]: %s has a certificate for another name: %w", i, endpoint, err)
	case errors.As(err, &record):
		return fmt.Errorf("claims.endpoints[%d]: %s does not speak TLS; is it http? %w", i, endpoint, err)
	case strings.Contains(err.Error(), "remote error: tls: "):
		return fmt.Errorf("claims.tls_cert_file: %s refuses the certificate that we show, or wants one: %w", endpoint, err)
	case strings.HasPrefix(endpoint, "http:"):
		return fmt.Errorf("claims.endpoints[%d]: %s: %w; is it https?", i, endpoint, err)
	}
	return fmt.Errorf("claims.endpoints[%d]: %s: %w", i, endpoint, err)
}
