package stage

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// The ports of every server on a Network. They are above 1024, so that no privilege is needed.
const (
	PortLDAP        = 10389
	PortLDAPS       = 10636
	PortTokens      = 18080
	PortIMAP        = 10143
	PortIMAPS       = 10993
	PortPOP3        = 10110
	PortPOP3S       = 10995
	PortSubmission  = 10587
	PortSubmissions = 10465
	PortSieve       = 14190
	PortSieves      = 15190
	PortLMTP        = 10024
	PortSMTP        = 10025
)

// The last byte of the addresses on a Network.
const (
	HostSlapd   = 1
	HostTokens  = 2
	HostBack1   = 11
	HostBack2   = 12
	HostPostfix = 13
	HostDaemon  = 21 // and the next: one for each daemon
	HostFake    = 40 // and the next: members that the tests play
	HostClient  = 100
)

// Network is a loopback network 127.A.B.0/24 that belongs to one set of servers.
type Network struct {
	a, b int
	lock net.Listener
}

// NewNetwork picks a network that no other process on this machine has picked: a listener on its last address is held
// until Close.
func NewNetwork() (*Network, error) {
	var last error
	for range 100 {
		n := &Network{a: 64 + rand.IntN(190), b: 1 + rand.IntN(253)}
		l, err := net.Listen("tcp", n.Addr(254, 19999))
		if err == nil {
			n.lock = l
			return n, nil
		}
		last = err
	}
	return nil, fmt.Errorf("find a free loopback network: %w", last)
}

// IP is the address of one host on the network.
func (n *Network) IP(host int) string { return fmt.Sprintf("127.%d.%d.%d", n.a, n.b, host) }

// Addr is address and port of one server on the network.
func (n *Network) Addr(host, port int) string {
	return net.JoinHostPort(n.IP(host), strconv.Itoa(port))
}

// Close gives the network back.
func (n *Network) Close() error { return n.lock.Close() }
