package admin

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// Parts are what a Server serves. Each of them is needed, except Queue, where there is none, and Log: nil is silent.
type Parts struct {
	Engine    Engine
	Switches  Switches
	Frontend  Frontend
	Explainer Explainer
	Forgetter Forgetter
	Queue     Queue
	Mover     Mover
	Metrics   *Metrics
	Log       *slog.Logger
}

// Server answers the operator's commands, Prometheus and browsers.
type Server struct {
	Parts
	template *template.Template
	servers  []*http.Server
	running  sync.WaitGroup
}

// Start listens where the configuration says, and serves until Close. A socket that the configuration does not name and
// that cannot be made is a warning: a frontend that was started by hand works without. The caller closes the Server,
// also after an error.
func Start(cfg Config, parts Parts) (*Server, error) {
	if parts.Log == nil {
		parts.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{Parts: parts}
	var err error
	if s.template, err = pageTemplate(); err != nil {
		return s, fmt.Errorf("read the status page: %w", err)
	}
	if path, named := cfg.Socket(); path != "" {
		l, err := listenUnix(path)
		switch {
		case err == nil:
			s.serve(l, s.operator())
		case named:
			return s, err
		default:
			parts.Log.Warn("no admin socket: status, kick and the other commands will not find this process", "error", err)
		}
	}
	if cfg.HTTP != "" {
		l, err := net.Listen("tcp", cfg.HTTP)
		if err != nil {
			return s, fmt.Errorf("listen at admin.http: %w", err)
		}
		s.serve(l, s.visitor(l.Addr()))
	}
	return s, nil
}

// Addresses lists where the Server listens, for the log and for tests.
func (s *Server) Addresses() []string {
	var list []string
	for _, server := range s.servers {
		list = append(list, server.Addr)
	}
	return list
}

func (s *Server) serve(l net.Listener, h http.Handler) {
	const longest = 60 * time.Second // pprof's profile takes 30
	address := l.Addr().String()
	if own, ok := l.(*socket); ok {
		address = own.path
	}
	server := &http.Server{
		Addr: address, Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: longest, IdleTimeout: longest, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
	}
	s.servers = append(s.servers, server)
	s.running.Go(func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.Log.Error("the admin server ended", "address", address, "error", err)
		}
	})
}

// Close ends listening, lets answers under way end until ctx does, and waits.
func (s *Server) Close(ctx context.Context) error {
	var faults []error
	for _, server := range s.servers {
		if err := server.Shutdown(ctx); err != nil {
			faults = append(faults, err, server.Close())
		}
	}
	s.running.Wait()
	return errors.Join(faults...)
}

// operator serves everything: who writes to the socket is trusted by its permissions.
func (s *Server) operator() http.Handler {
	mux := http.NewServeMux()
	s.show(mux)
	mux.HandleFunc("GET /who", s.who)
	mux.HandleFunc("GET /lookup", s.lookup)
	mux.HandleFunc("POST /kick", s.kick)
	mux.HandleFunc("POST /withdraw", s.withdraw)
	mux.HandleFunc("POST /ready", s.ready)
	mux.HandleFunc("POST /reload", s.reload)
	mux.HandleFunc("POST /forget", s.forget)
	mux.HandleFunc("POST /move", s.move)
	s.queues(mux)
	profiles(mux)
	return mux
}

// visitor serves what changes nothing and names no account. A browser may be sent to a loopback address by any page, under
// any name (DNS rebinding), so the name it asks for has to be an address or localhost there.
func (s *Server) visitor(at net.Addr) http.Handler {
	mux := http.NewServeMux()
	tcp, ok := at.(*net.TCPAddr)
	if !ok || !tcp.IP.IsLoopback() {
		mux.HandleFunc("GET /healthz", s.healthz)
		mux.Handle("GET /metrics", s.Metrics.Handler())
		return mux
	}
	s.show(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if _, err := netip.ParseAddr(host); err != nil && host != "localhost" {
			fail(w, http.StatusForbidden, errors.New("ask for an address or localhost"))
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func (s *Server) show(mux *http.ServeMux) {
	mux.HandleFunc("GET /{$}", s.page)
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /status", s.status)
	mux.Handle("GET /metrics", s.Metrics.Handler())
}

// healthz answers load balancers: 200 while this frontend wants new sessions.
func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	state := s.Frontend.Status().State
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if state != Serving {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = io.WriteString(w, state+"\n")
}
