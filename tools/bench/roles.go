package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"mailmux/directory"
)

// roles are what this program is when started with one of these words.
var roles = map[string]func(args []string) error{"stub": runStub, "relay": runRelay, "auth": runAuth}

// serverTLS makes a server's side of TLS with a certificate, CERT and KEY named by one path without its ending.
func serverTLS(base string) (func(net.Conn) net.Conn, error) {
	pair, err := tls.LoadX509KeyPair(base+".pem", base+".key")
	if err != nil {
		return nil, err
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}}
	return func(nc net.Conn) net.Conn { return tls.Server(nc, config) }, nil
}

// runRelay is the role of the bare relay: accept, dial, io.Copy both ways. It looks nobody up and reads nothing.
func runRelay(args []string) error {
	ip, backend, ecdsa, rsa := args[0], args[1], args[2], args[3]
	certs := map[string]string{portIMAPS: ecdsa, portRSA: rsa}
	errs := make(chan error)
	for port, to := range map[string]string{
		portIMAP: portIMAP, portIMAPS: portIMAP, portRSA: portIMAP, portPOP3: portPOP3, portSubmission: portSubmission,
		portLMTP: portLMTP,
	} {
		over := func(nc net.Conn) net.Conn { return nc }
		if base := certs[port]; base != "" {
			var err error
			if over, err = serverTLS(base); err != nil {
				return err
			}
		}
		l, err := net.Listen("tcp", net.JoinHostPort(ip, port))
		if err != nil {
			return err
		}
		go func() {
			for {
				nc, err := l.Accept()
				if err != nil {
					errs <- err
					return
				}
				go relay(over(nc), net.JoinHostPort(backend, to))
			}
		}()
	}
	return <-errs
}

type halfCloser interface{ CloseWrite() error }

func relay(client net.Conn, to string) {
	defer client.Close()
	backend, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer backend.Close()
	up := make(chan struct{})
	go func() {
		defer close(up)
		io.Copy(backend, client)
		backend.(halfCloser).CloseWrite()
	}()
	io.Copy(client, backend)
	client.(halfCloser).CloseWrite()
	<-up
}

// runAuth is the role of nginx's auth_http: where the account's home is. It looks accounts up as mailmux does, with the
// same cache.
func runAuth(args []string) error {
	address, server, base := args[0], args[1], args[2]
	dir, err := directory.New(directory.Config{Servers: []string{server}, Base: base, BindDN: bindDN, BindPasswordFile: args[3],
		Cache: directory.CacheConfig{TTL: time.Hour}}, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		return err
	}
	defer dir.Close()
	ports := map[string]string{"imap": portIMAP, "pop3": portPOP3, "smtp": portSubmission}
	answer := func(w http.ResponseWriter, r *http.Request) {
		status, err := lookUp(r.Context(), dir, r.Header.Get("Auth-User"))
		if err != nil {
			w.Header().Set("Auth-Status", err.Error())
			return
		}
		w.Header().Set("Auth-Status", "OK")
		w.Header().Set("Auth-Server", status)
		w.Header().Set("Auth-Port", ports[r.Header.Get("Auth-Protocol")])
	}
	srv := &http.Server{Addr: address, Handler: http.HandlerFunc(answer), ReadHeaderTimeout: 5 * time.Second}
	return srv.ListenAndServe()
}

func lookUp(ctx context.Context, dir *directory.Directory, user string) (host string, err error) {
	local, domain, ok := strings.Cut(user, "@")
	if !ok {
		return "", fmt.Errorf("no such user")
	}
	account, err := dir.Lookup(ctx, directory.Name{Local: local, Domain: domain})
	return account.Host, err
}
