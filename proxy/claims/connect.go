package claims

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// A connection to etcd that has died without a word is found so soon. etcd refuses pings more often than each 5 s.
const (
	pingEvery   = 5 * time.Second
	pingTimeout = 3 * time.Second
)

// connect looks whether the secrets are there, and starts the server if it is embedded. It asks nobody: dial does.
func (c *Claims) connect() error {
	c.endpoints = c.cfg.Endpoints
	if c.cfg.Embedded != "" {
		var err error
		if c.server, err = startServer(c.cfg.Embedded); err != nil {
			return err
		}
		c.endpoints = []string{c.server.url}
	}
	_, err := c.cfg.dialing(c.endpoints)
	return err
}

// dialing is how to connect.
func (c *Config) dialing(endpoints []string) (clientv3.Config, error) {
	secure, err := c.tlsConfig()
	if err != nil {
		return clientv3.Config{}, err
	}
	password, err := c.password()
	if err != nil {
		return clientv3.Config{}, err
	}
	return clientv3.Config{
		Endpoints: endpoints, TLS: secure, Username: c.User, Password: password, Logger: zap.NewNop(),
		DialTimeout: c.Timeout, DialKeepAliveTime: pingEvery, DialKeepAliveTimeout: pingTimeout, PermitWithoutStream: true,
		BackoffWaitBetween: 50 * time.Millisecond,
	}, nil
}

// connection is a client of etcd. With a user it has a door of its own, by which it asks for tokens: the client shows the
// token that it has with every request, also with the one for another token, and etcd before 3.5 refuses that when the
// token has expired, or was given before etcd was started. The client would ask again for ever.
type connection struct {
	*clientv3.Client

	door *clientv3.Client // nil without a user
}

// open connects, and logs in if there is a user.
func open(cfg clientv3.Config) (*connection, error) {
	c := &connection{}
	var err error
	if cfg.Username != "" {
		plain := cfg
		plain.Username, plain.Password = "", ""
		if c.door, err = clientv3.New(plain); err != nil {
			return nil, err
		}
		cfg.DialOptions = append(slices.Clone(cfg.DialOptions), grpc.WithChainUnaryInterceptor(c.divert))
	}
	if c.Client, err = clientv3.New(cfg); err != nil {
		if c.door != nil {
			c.door.Close()
		}
		return nil, err
	}
	return c, nil
}

// divert sends requests for a token by the door, and all others on.
func (c *connection) divert(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, on grpc.UnaryInvoker,
	options ...grpc.CallOption) error {
	if method == etcdserverpb.Auth_Authenticate_FullMethodName {
		return c.door.ActiveConnection().Invoke(ctx, method, req, reply, options...)
	}
	return on(ctx, method, req, reply, conn, options...)
}

// Close ends the connections. What is under way fails.
func (c *connection) Close() {
	c.Client.Close()
	if c.door != nil {
		c.door.Close()
	}
}

// dial returns the client, and makes it if there is none. With claims.user that logs in to etcd, and fails while etcd is
// away. The client lives until Close, but does not keep that waiting while it is made.
func (c *Claims) dial() (*connection, error) {
	if client, err := c.etcd(); err == nil {
		return client, nil
	}
	dialing, err := c.cfg.dialing(c.endpoints)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOutage, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	settled := context.AfterFunc(c.ctx, cancel)
	dialing.Context = ctx
	client, err := open(dialing)
	settled()
	if err != nil {
		cancel()
		return nil, fmt.Errorf("%w: log in: %w", ErrOutage, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.client = client
	return client, nil
}

// hangUp drops the client, so that the next one reads the secrets again and logs in anew.
func (c *Claims) hangUp() {
	c.mu.Lock()
	client := c.client
	c.client = nil
	c.mu.Unlock()
	if client != nil {
		client.Close()
	}
}

// etcd is the client, for those that may come while there is none.
func (c *Claims) etcd() (*connection, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.client == nil {
		return nil, fmt.Errorf("%w: not connected yet", ErrOutage)
	}
	return c.client, nil
}
