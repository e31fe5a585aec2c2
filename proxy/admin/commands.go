package admin

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"slices"
)

// maxRequest bounds the body of a command: forget carries many names.
const maxRequest = 16 << 20

// Problem is the answer to a command that failed.
type Problem struct {
	Error string `json:"error"`
}

// Kicked is the answer to kick.
type Kicked struct {
	Sessions int `json:"sessions"` // that were told to end
}

// Self is the target that means the frontend itself.
const Self = "self"

// Target is what withdraw and ready are asked with.
type Target struct {
	Target   string `json:"target"`             // Self, a host, a member, or host/member
	Evacuate bool   `json:"evacuate,omitempty"` // a host or member: its sessions are let go, at a bounded rate
	Stay     bool   `json:"stay,omitempty"`     // Self: the process does not end with its last session, so that ready finds it
}

// Done is the answer to withdraw and ready.
type Done struct {
	Target string `json:"target"`
	State  string `json:"state"`
}

// Reloaded is the answer to reload.
type Reloaded struct {
	Warnings []string `json:"warnings"`
}

// Forget is what forget is asked with.
type Forget struct {
	Host     string   `json:"host,omitempty"`
	Accounts []string `json:"accounts,omitempty"`
}

// Forgotten is the answer to forget.
type Forgotten struct {
	Names int `json:"names"`
}

func (s *Server) status(w http.ResponseWriter, _ *http.Request) {
	answer(w, s.Frontend.Status())
}

// who lists sessions, oldest first: /who?account=…&host=…&member=…&service=…&client=…&id=…
func (s *Server) who(w http.ResponseWriter, r *http.Request) {
	f, err := filterOf(r)
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	s.normalise(&f)
	list := f.Sessions(s.Engine)
	slices.SortFunc(list, func(a, b Session) int {
		return cmp.Or(a.Began.Compare(b.Began), cmp.Compare(a.ID, b.ID))
	})
	answer(w, list)
}

func filterOf(r *http.Request) (Filter, error) {
	q := r.URL.Query()
	f := Filter{ID: q.Get("id"), Account: q.Get("account"), Service: q.Get("service"), Host: q.Get("host"), Member: q.Get("member")}
	if client := q.Get("client"); client != "" {
		network, err := ParseNetwork(client)
		if err != nil {
			return f, err
		}
		f.Client = network
	}
	return f, nil
}

// ParseNetwork reads a network, or one address.
func ParseNetwork(text string) (netip.Prefix, error) {
	if ip, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(ip.Unmap(), ip.Unmap().BitLen()), nil
	}
	network, err := netip.ParsePrefix(text)
	if err != nil {
		return network, fmt.Errorf("%q is neither an address nor a network, such as 192.0.2.0/24", text)
	}
	return network.Masked(), nil
}

// kick ends sessions. An empty filter is refused: everybody is not to be put out by a field that was forgotten.
func (s *Server) kick(w http.ResponseWriter, r *http.Request) {
	var f Filter
	if !read(w, r, &f) {
		return
	}
	if f.Empty() {
		fail(w, http.StatusBadRequest, errors.New("say whose sessions: id, account, host, member, service or client"))
		return
	}
	s.normalise(&f)
	n := s.Engine.Kick(f.Match)
	s.Log.Info("sessions closed by the operator", "filter", f, "sessions", n)
	answer(w, Kicked{n})
}

// normalise lets "ann" mean the account that a login as "ann" would.
func (s *Server) normalise(f *Filter) {
	if f.Account != "" {
		f.Account = s.Explainer.Normal(f.Account)
	}
}

func (s *Server) withdraw(w http.ResponseWriter, r *http.Request) {
	var t Target
	if !read(w, r, &t) {
		return
	}
	if err := s.Switches.Withdraw(t); err != nil {
		fail(w, http.StatusNotFound, err)
		return
	}
	s.Log.Info("withdrawn by the operator", "target", t.Target, "evacuate", t.Evacuate)
	answer(w, Done{t.Target, Withdrawn})
}

func (s *Server) ready(w http.ResponseWriter, r *http.Request) {
	var t Target
	if !read(w, r, &t) {
		return
	}
	if err := s.Switches.Ready(t.Target); err != nil {
		fail(w, http.StatusNotFound, err)
		return
	}
	s.Log.Info("put back into service by the operator", "target", t.Target)
	answer(w, Done{t.Target, "ready"})
}

func (s *Server) reload(w http.ResponseWriter, r *http.Request) {
	warnings, err := s.Frontend.Reload(r.Context())
	if err != nil {
		fail(w, http.StatusUnprocessableEntity, err)
		return
	}
	answer(w, Reloaded{warnings})
}

func (s *Server) forget(w http.ResponseWriter, r *http.Request) {
	var f Forget
	if !read(w, r, &f) {
		return
	}
	answer(w, Forgotten{s.Forgetter.Forget(f.Host, f.Accounts)})
}

func (s *Server) lookup(w http.ResponseWriter, r *http.Request) {
	x, err := s.Explainer.Explain(r.Context(), r.URL.Query().Get("login"))
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	answer(w, x)
}

// read decodes the body of a command; it answers by itself, and says false, when that cannot be.
func read(w http.ResponseWriter, r *http.Request, into any) bool {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("read the command: %w", err))
		return false
	}
	return true
}

// answer writes JSON. A caller that is gone by now is no error of ours.
func answer(w http.ResponseWriter, v any) {
	header(w)
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(v)
}

func fail(w http.ResponseWriter, code int, err error) {
	header(w)
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(Problem{err.Error()})
}

func header(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
}

// profiles serves net/http/pprof, without its default mux.
func profiles(mux *http.ServeMux) {
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
}
