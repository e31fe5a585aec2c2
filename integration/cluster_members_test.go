package integration

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"mailmux/integration/stage"
)

// zone is a DNS server for a few names, on a loopback address. It answers A and SRV questions by UDP.
type zone struct {
	conn net.PacketConn
	work sync.WaitGroup

	mu  sync.Mutex
	a   map[string][]string
	srv map[string][]record
}

// record is one SRV record.
type record struct {
	priority, weight, port uint16
	target                 string
}

// The numbers of the DNS that this server knows (RFC 1035, RFC 2782).
const (
	typeA      = 1
	typeSRV    = 33
	noSuchName = 3
)

func newZone(t testing.TB, address string) *zone {
	t.Helper()
	conn, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	z := &zone{conn: conn, a: make(map[string][]string), srv: make(map[string][]record)}
	z.work.Go(z.serve)
	t.Cleanup(func() {
		conn.Close()
		z.work.Wait()
	})
	return z
}

// addresses sets the addresses of a name; none takes the name away.
func (z *zone) addresses(name string, addrs ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.a[name] = addrs
}

// records sets the SRV records of a name.
func (z *zone) records(name string, records ...record) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.srv[name] = records
}

func (z *zone) serve() {
	buf := make([]byte, 1500)
	for {
		n, from, err := z.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		if answer, err := z.answer(buf[:n]); err == nil {
			_, _ = z.conn.WriteTo(answer, from) // the resolver asks again
		}
	}
}

// answer makes the reply to a query with one question. Additional records (EDNS) are not looked at.
func (z *zone) answer(query []byte) ([]byte, error) {
	const head = 12
	if len(query) < head {
		return nil, errors.New("no header")
	}
	at, labels := head, []string(nil)
	for at < len(query) && query[at] != 0 {
		end := at + 1 + int(query[at])
		if end >= len(query) {
			return nil, errors.New("a name without an end")
		}
		labels = append(labels, string(query[at+1:end]))
		at = end
	}
	if at+5 > len(query) {
		return nil, errors.New("no question")
	}
	question := query[head : at+5]
	kind := binary.BigEndian.Uint16(query[at+1:])
	name := strings.ToLower(strings.Join(labels, "."))
	answers := z.find(name, kind)
	flags := uint16(0x8400) // a response, by the authority
	z.mu.Lock()
	if len(z.a[name]) == 0 && len(z.srv[name]) == 0 {
		flags |= noSuchName
	}
	z.mu.Unlock()
	out := append([]byte{}, query[:2]...)
	for _, v := range []uint16{flags, 1, uint16(len(answers)), 0, 0} {
		out = binary.BigEndian.AppendUint16(out, v)
	}
	out = append(out, question...)
	for _, data := range answers {
		out = binary.BigEndian.AppendUint16(out, 0xc000|head) // the name of the question
		out = binary.BigEndian.AppendUint16(out, kind)
		out = binary.BigEndian.AppendUint16(out, 1)
		out = binary.BigEndian.AppendUint32(out, 1) // seconds to live
		out = binary.BigEndian.AppendUint16(out, uint16(len(data)))
		out = append(out, data...)
	}
	return out, nil
}

// find is the data of the records that answer a question.
func (z *zone) find(name string, kind uint16) (list [][]byte) {
	z.mu.Lock()
	defer z.mu.Unlock()
	switch kind {
	case typeA:
		for _, a := range z.a[name] {
			list = append(list, net.ParseIP(a).To4())
		}
	case typeSRV:
		for _, r := range z.srv[name] {
			var data []byte
			for _, v := range []uint16{r.priority, r.weight, r.port} {
				data = binary.BigEndian.AppendUint16(data, v)
			}
			for _, label := range strings.Split(r.target, ".") {
				data = append(append(data, byte(len(label))), label...)
			}
			list = append(list, append(data, 0))
		}
	}
	return list
}

// Members come from the DNS: each address of a name is one, and a change is followed without a reload. While the DNS is
// away, those known last serve on.
func TestClusterFromAddresses(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2, 12, false)
	dns := newZone(t, f.Net.Addr(53, 10053))
	dns.addresses("east.cluster.test", f.Members[0].IP)
	front := f.front(t, 30, func(d *frontend) {
		d.Hosts = "  " + fleetHost + ": {members: [{dns: east.cluster.test, refresh: 500ms}]}"
		d.Backend = "  dns_servers: [\"" + f.Net.Addr(54, 10053) + "\", \"" + f.Net.Addr(53, 10053) + "\"]" // the first is dead
	})
	address := func(m memberState) string { return m.Address + " " + m.state("imap") }
	one, two := f.Members[0], f.Members[1]
	front.awaitMembers(t, fleetHost, address, one.IP+" up")
	allOn(t, front, f.Accounts, one.HostName)
	dns.addresses("east.cluster.test", one.IP, two.IP)
	front.awaitMembers(t, fleetHost, address, one.IP+" up", two.IP+" up")
	homes := f.homes(t, front)
	if len(homes[one.HostName]) == 0 || len(homes[two.HostName]) == 0 {
		t.Errorf("with two addresses the accounts are on %d members", len(homes))
	}
	dns.addresses("east.cluster.test", two.IP)
	front.awaitMembers(t, fleetHost, address, two.IP+" up")
	allOn(t, front, f.Accounts, two.HostName)
	dns.addresses("east.cluster.test")
	eventually(t, "status tells of the missing name", func() error {
		if out := front.command(t, "status"); !strings.Contains(out, "no such host") {
			return errors.New(out)
		}
		return nil
	})
	allOn(t, front, f.Accounts, two.HostName)
}

// allOn logs every account in, and wants all of them to come to one member.
func allOn(t testing.TB, front *frontend, accounts []stage.Account, want string) {
	t.Helper()
	for _, a := range accounts {
		c, at := front.session(t, a)
		c.Close()
		if at != want {
			t.Errorf("%s is on %s, want %s", a.Login, at, want)
		}
	}
}

// Members come from SRV records with their ports, priorities and weights: those of a higher number serve while none of a
// lower one does, and the shares of the accounts follow the weights.
func TestClusterFromSRV(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3, 40, false)
	dns := newZone(t, f.Net.Addr(53, 10053))
	for n, d := range f.Members {
		dns.addresses(fmt.Sprintf("n%d.cluster.test", n+1), d.IP)
	}
	dns.records("_imap._tcp.cluster.test",
		record{0, 10, stage.PortIMAP, "n1.cluster.test"}, record{0, 30, stage.PortIMAP, "n2.cluster.test"}, record{5, 1, stage.PortIMAP, "n3.cluster.test"})
	front := f.front(t, 30, func(d *frontend) {
		d.Hosts = "  " + fleetHost + ": {members: [{srv: _imap._tcp.cluster.test, refresh: 500ms}]}"
		d.Backend = "  ports: {imap: 1, pop3: 10110, submission: 10587}\n  dns_servers: [\"" + f.Net.Addr(53, 10053) + "\"]"
	})
	show := func(m memberState) string {
		return fmt.Sprintf("%s %s weight %d priority %d", m.Name, m.state("imap"), m.Weight, m.Priority)
	}
	front.awaitMembers(t, fleetHost, show, "n1.cluster.test up weight 100 priority 0", "n2.cluster.test up weight 300 priority 0",
		"n3.cluster.test up weight 10 priority 5")
	// A login goes on to the next priority where both members of this one are too slow for it, as on a busy machine: the
	// accounts come back.
	eventually(t, "the shares follow weights and priorities", func() error {
		homes := f.homes(t, front)
		n1, n2, n3 := len(homes[member(0)]), len(homes[member(1)]), len(homes[member(2)])
		t.Logf("%d accounts on the member of weight 10, %d on that of 30, %d on that of the next priority", n1, n2, n3)
		if share := float64(n2) / float64(len(f.Accounts)); math.Abs(share-0.75) > 0.25 || n3 > 0 {
			return fmt.Errorf("%d, %d and %d accounts", n1, n2, n3)
		}
		return nil
	})
	f.Members[0].Kill()
	f.Members[1].Kill()
	eventually(t, "the accounts are on the member of the next priority", func() error {
		c, at, err := tryLogin(front.addr(), f.Accounts[0])
		if err != nil {
			return err
		}
		c.Close()
		if at != member(2) {
			return errors.New("on " + at)
		}
		return nil
	})
	allOn(t, front, f.Accounts, member(2))
}

// Members come from an entry of the directory. When it changes every frontend follows, and nobody's file was edited.
func TestClusterFromDirectory(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2, 12, false)
	cert, err := f.ca.Issue("ldap.example.com")
	if err != nil {
		t.Fatal(err)
	}
	sub := f.Dir + "/ldap"
	slapd, err := stage.StartSlapd(sub, f.Net, cert, f.Accounts)
	need(t, err)
	t.Cleanup(slapd.Stop)
	entry := "cn=east," + stage.Suffix
	add := "dn: " + entry + "\nchangetype: add\nobjectClass: organizationalRole\ncn: east\ndescription: " + f.Members[0].IP + " name=n1\n"
	if err := slapd.Modify(t.Context(), add); err != nil {
		t.Fatal(err)
	}
	var fronts []*frontend
	for _, host := range []int{30, 31} {
		fronts = append(fronts, f.front(t, host, func(d *frontend) {
			secret := d.Dir + "/bind.secret"
			writeSecret(t, secret, stage.BindPassword)
			d.Servers = slapd.URL
			d.Directory = "  bind_dn: " + stage.BindDN + "\n  bind_password_file: " + secret
			d.Hosts = "  " + fleetHost + ": {members: [{directory: \"" + entry + "\", attribute: description, refresh: 500ms}]}"
		}))
	}
	for _, d := range fronts {
		d.awaitMembers(t, fleetHost, imapState, "n1 up")
		allOn(t, d, f.Accounts, member(0))
	}
	change := func(values ...string) {
		ldif := "dn: " + entry + "\nchangetype: modify\nreplace: description\n"
		for _, v := range values {
			ldif += "description: " + v + "\n"
		}
		if err := slapd.Modify(t.Context(), ldif); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	change(f.Members[0].IP+" name=n1", f.Members[1].IP+" name=n2 weight=3 imap=10143")
	show := func(m memberState) string { return fmt.Sprintf("%s %d %s", m.Name, m.Weight, m.state("imap")) }
	for _, d := range fronts {
		d.awaitMembers(t, fleetHost, show, "n1 1 up", "n2 3 up")
	}
	t.Logf("both frontends followed within %s, refreshing every 500ms", time.Since(began).Round(time.Millisecond))
	for _, a := range f.Accounts {
		_, one := fronts[0].session(t, a)
		if _, two := fronts[1].session(t, a); one != two {
			t.Errorf("%s is on %s by one frontend and on %s by the other", a.Login, one, two)
		}
	}
	change(f.Members[1].IP + " name=n2")
	for _, d := range fronts {
		d.awaitMembers(t, fleetHost, show, "n2 1 up")
		allOn(t, d, f.Accounts, member(1))
	}
	slapd.Kill()
	eventually(t, "status tells of the outage", func() error {
		out, _, err := fronts[0].Run(t.Context(), "status")
		if err == nil && !strings.Contains(out, "not answering") {
			err = errors.New(out)
		}
		return err
	})
	allOn(t, fronts[0], f.Accounts, member(1))
}

// A member's load, and whether it wants sessions at all, is what its agent says in the words of HAProxy's agent-check.
func TestClusterAgent(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2, 60, false)
	agents := []*agent{newAgent(t, f.Members[0].IP+":10999"), newAgent(t, f.Members[1].IP+":10999")}
	front := f.front(t, 30, func(d *frontend) {
		d.Hosts = f.listed("least", ", check: {agent_port: 10999, agent_send: mailmux, interval: 300ms}")
	})
	say := func(one, two string) {
		agents[0].say(one)
		agents[1].say(two)
		front.awaitMembers(t, fleetHost, func(m memberState) string { return m.Agent }, one, two)
	}
	// count opens a session for each account, and closes them together.
	count := func() map[string]int {
		places := make(map[string]int)
		var all []interface{ Close() }
		for _, a := range f.Accounts {
			c, at := front.session(t, a)
			places[at]++
			all = append(all, c)
		}
		for _, c := range all {
			c.Close()
		}
		front.awaitMembers(t, fleetHost, func(m memberState) string { return fmt.Sprint(m.Sessions) }, "0", "0")
		return places
	}
	for _, c := range []struct {
		one, two    string
		least, most int // sessions of 60 that the first member gets
	}{
		{"up 100%", "up 100%", 29, 31},
		{"up 25%", "up 100%", 11, 13},
		{"drain", "up 100%", 0, 0},
		{"ready up 100%", "maint", 60, 60},
		{"up 75%", "ready up 25%", 44, 46},
		{"down#disk is full", "up 100%", 0, 0},
	} {
		say(c.one, c.two)
		places := count()
		t.Logf("%q and %q: %d and %d sessions", c.one, c.two, places[member(0)], places[member(1)])
		if n := places[member(0)]; n < c.least || n > c.most {
			t.Errorf("%q and %q: the first member gets %d of 60 sessions, want %d to %d", c.one, c.two, n, c.least, c.most)
		}
	}
	if out := front.command(t, "status"); !strings.Contains(out, "disk is full") {
		t.Errorf("status does not tell what the agent says:\n%s", out)
	}
}

// agent answers agent-checks with one line.
type agent struct {
	l    net.Listener
	work sync.WaitGroup

	mu   sync.Mutex
	line string
}

func newAgent(t testing.TB, address string) *agent {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{l: l, line: "up 100%"}
	a.work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			a.work.Go(func() { a.answer(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		a.work.Wait()
	})
	return a
}

func (a *agent) answer(c net.Conn) {
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	end, _ := ctx.Deadline()
	_ = c.SetDeadline(end)
	if _, err := c.Read(make([]byte, 64)); err != nil { // what the frontend is told to send
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	fmt.Fprintf(c, "%s\r\n", a.line)
}

func (a *agent) say(line string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.line = line
}
