//go:build !noetcdserver

package claims

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// server is etcd in this process.
type server struct {
	etcd *embed.Etcd
	url  string
}

// startLimit bounds how long the embedded etcd may take to come up.
const startLimit = 30 * time.Second

// startServer starts etcd with its data and its sockets in a directory, which nobody else may look into.
func startServer(dir string) (*server, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("claims.embedded: %w", err)
	}
	client, peer := filepath.Join(dir, "client.sock"), filepath.Join(dir, "peer.sock")
	if len(peer) > 100 { // sun_path has 108 bytes
		return nil, fmt.Errorf("claims.embedded: %s is too long a name for the sockets in it", dir)
	}
	cfg := embed.NewConfig()
	cfg.Dir = filepath.Join(dir, "data")
	cfg.Name = "mailmux"
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = unixURL(client), unixURL(client)
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = unixURL(peer), unixURL(peer)
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = "periodic", "10m"
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		return nil, fmt.Errorf("claims.embedded: %w", err)
	}
	s := &server{etcd: etcd, url: "unix://" + client}
	timer := time.NewTimer(startLimit)
	defer timer.Stop()
	select {
	case <-etcd.Server.ReadyNotify():
		return s, nil
	case err = <-etcd.Err():
	case <-timer.C:
		err = errors.New("etcd does not come up")
	}
	s.close()
	return nil, fmt.Errorf("claims.embedded: %w", err)
}

func unixURL(path string) []url.URL { return []url.URL{{Scheme: "unix", Path: path}} }

func (s *server) close() { s.etcd.Close() }
