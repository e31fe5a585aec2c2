package admin

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// DefaultSocket is where the operator's socket is when the configuration does not say.
const DefaultSocket = "/run/mailmux/admin.sock"

// Config says where the operator's door is.
type Config struct {
	// Address is the unix socket that the commands status, who, kick, withdraw, ready, reload, lookup and queue use, as
	// unix:PATH: unix:/run/mailmux/admin.sock when absent. It also serves metrics, the status page and pprof. Whoever may
	// write to it is the operator: it is made with permissions 0660. off: no such socket.
	Address string `yaml:"address"`
	// HTTP is a TCP address, host:port, for Prometheus and browsers; none when absent. It only shows. On a loopback
	// address that is the metrics, the status and its page; on any other the metrics and the health answer alone.
	HTTP string `yaml:"http"`
	// State is a file that keeps what was withdrawn, by withdraw, over restarts: /var/lib/mailmux/state.json when absent,
	// if that directory is there. off: a restart puts everything back into service.
	State string `yaml:"state"`
}

// Validate joins all faults; each begins with the key.
func (c *Config) Validate() error {
	var faults []error
	if c.Address != "off" && c.Address != "" {
		// sun_path of sockaddr_un has 108 bytes, its closing NUL included (unix(7)).
		const longest = 107 - len(fresh)
		switch path, ok := strings.CutPrefix(c.Address, "unix:"); {
		case !ok || path == "":
			faults = append(faults, fmt.Errorf("address: %q is not unix:PATH; a TCP address goes to http", c.Address))
		case len(path) > longest:
			faults = append(faults, fmt.Errorf("address: the path of a socket has at most %d bytes, this one has %d", longest, len(path)))
		}
	}
	if c.HTTP != "" {
		host, port, err := net.SplitHostPort(c.HTTP)
		_, portErr := net.LookupPort("tcp", port)
		if _, addrErr := netip.ParseAddr(host); err != nil || portErr != nil || port == "" || addrErr != nil && host != "" && host != "localhost" {
			faults = append(faults, fmt.Errorf("http: %q is not an IP address and a port, such as 127.0.0.1:9143", c.HTTP))
		}
	}
	return errors.Join(faults...)
}

// Socket is the path of the unix socket, "" for none, and whether the configuration names it.
func (c *Config) Socket() (path string, named bool) {
	switch c.Address {
	case "":
		return DefaultSocket, false
	case "off":
		return "", true
	}
	return strings.TrimPrefix(c.Address, "unix:"), true
}

// StateFile is the path of the file that keeps what was withdrawn, "" for none.
func (c *Config) StateFile() string {
	switch c.State {
	case "off":
		return ""
	case "":
		if info, err := os.Stat(stateDir); err != nil || !info.IsDir() {
			return ""
		}
		return filepath.Join(stateDir, "state.json")
	}
	return c.State
}

const stateDir = "/var/lib/mailmux"
