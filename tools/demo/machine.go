package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"

	"mailmux/tools/embedded/mailstore"
)

// services are what each mail server of the demo offers, in the order of the configuration file.
var services = []mailstore.Service{mailstore.IMAP, mailstore.POP3, mailstore.Submission, mailstore.Sieve}

// machine is one mail server that can fail and come back, on the same ports.
type machine struct {
	name string
	tls  *tls.Config
	send func(from string, to []string, message []byte) error

	ports   map[mailstore.Service]int
	backend *mailstore.Backend // nil while the machine is down
	ended   chan error         // what the services' loops returned
}

// start powers the machine on, without a disk.
func (m *machine) start() error {
	if m.ports == nil {
		m.ports = make(map[mailstore.Service]int)
	}
	listeners := make(map[mailstore.Service]net.Listener)
	for _, service := range services {
		l, err := net.Listen("tcp", net.JoinHostPort(loopback, strconv.Itoa(m.ports[service])))
		if err != nil {
			for _, opened := range listeners {
				opened.Close()
			}
			return fmt.Errorf("start %s: listen for %s: %w", m.name, service, err)
		}
		m.ports[service] = l.Addr().(*net.TCPAddr).Port
		listeners[service] = l
	}
	m.backend = mailstore.New(mailstore.Config{Name: m.name, TLS: m.tls, Send: m.send})
	m.ended = make(chan error, len(services))
	for service, l := range listeners {
		go m.serve(m.backend, service, l)
	}
	return nil
}

// serve runs one service until the machine stops.
func (m *machine) serve(b *mailstore.Backend, service mailstore.Service, l net.Listener) {
	m.ended <- b.Serve(service, l)
}

// stop powers the machine off: connections end, ports refuse.
func (m *machine) stop() error {
	if m.backend == nil {
		return nil
	}
	m.backend.Close()
	m.backend = nil
	var faults []error
	for range services {
		if err := <-m.ended; !errors.Is(err, mailstore.ErrClosed) {
			faults = append(faults, fmt.Errorf("stop %s: %w", m.name, err))
		}
	}
	return errors.Join(faults...)
}
