package proxy

import "time"

// Metrics counts what sessions do. Its methods are called on the session path, from many goroutines: they do not wait.
// Service is a listener's service; causes are closed sets. A nil Metrics in Parts counts nothing.
type Metrics interface {
	// SessionStarted counts an accepted connection.
	SessionStarted(service string)
	// SessionEnded counts its end: how ("ok" for a session that was handed over, or a Cause), the bytes relayed from the
	// client and to it, and how long it lasted.
	SessionEnded(service, outcome string, up, down int64, lasted time.Duration)
	// LoggedIn counts a hand-over, and the time from the credentials to it.
	LoggedIn(service string, took time.Duration)
	// LoginFailed counts a login that did not come to a hand-over; the client may have tried again.
	LoginFailed(service string, cause Cause)
	// Handshake counts a TLS handshake with a client; resumed ones were cheap.
	Handshake(service string, resumed bool, err error)
	// Panicked counts a session that was ended by an error in mailmux itself.
	Panicked(service string)
}

// noMetrics counts nothing.
type noMetrics struct{}

func (noMetrics) SessionStarted(string)                                    {}
func (noMetrics) SessionEnded(string, string, int64, int64, time.Duration) {}
func (noMetrics) LoggedIn(string, time.Duration)                           {}
func (noMetrics) LoginFailed(string, Cause)                                {}
func (noMetrics) Handshake(string, bool, error)                            {}
func (noMetrics) Panicked(string)                                          {}
