package integration

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// greeter is a member that does nothing but IMAP's greeting and LOGOUT, for as many hosts as one likes.
type greeter struct {
	l        net.Listener
	accepted *atomic.Int64
	work     sync.WaitGroup
}

func newGreeter(t testing.TB, address string, accepted *atomic.Int64) *greeter {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	g := &greeter{l: l, accepted: accepted}
	g.work.Go(g.serve)
	t.Cleanup(g.stop)
	return g
}

func (g *greeter) serve() {
	for {
		c, err := g.l.Accept()
		if err != nil {
			return
		}
		g.accepted.Add(1)
		g.work.Go(func() {
			defer c.Close()
			fmt.Fprint(c, "* OK [CAPABILITY IMAP4rev1 ID] ready\r\n")
			lines := bufio.NewScanner(c)
			for lines.Scan() {
				tag, _, _ := strings.Cut(lines.Text(), " ")
				fmt.Fprintf(c, "* BYE\r\n%s OK\r\n", tag)
				return
			}
		})
	}
}

func (g *greeter) stop() {
	g.l.Close()
	g.work.Wait()
}

// cpuTime is the time that a process has computed so far (proc(5): utime and stime, in hundredths of a second).
func cpuTime(t testing.TB, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	sum := 0
	for _, at := range []int{11, 12} {
		n, err := strconv.Atoi(fields[at])
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	return time.Duration(sum) * 10 * time.Millisecond
}

// A thousand hosts with four members each are checked within bounds of CPU and sockets, at the default settings; and when
// the server behind a thousand of the members dies, all of them are found out.
func TestClusterCrowd(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 0, 1, false)
	var accepted atomic.Int64
	var greeters []*greeter
	var members []string
	for n := range 4 {
		address := f.Net.Addr(101+n, 10143)
		greeters = append(greeters, newGreeter(t, address, &accepted))
		members = append(members, fmt.Sprintf("{name: n%d, address: %q}", n+1, address))
	}
	hosts := []string{fmt.Sprintf("  %s: {members: [%s]}", fleetHost, strings.Join(members, ", "))}
	for n := range 999 {
		hosts = append(hosts, fmt.Sprintf("  h%03d.example.com: {members: [%s]}", n, strings.Join(members, ", ")))
	}
	front := f.front(t, 30, func(d *frontend) {
		d.Hosts = strings.Join(hosts, "\n")
		d.IMAPOnly = true
	})
	eventually(t, "every member was checked once", func() error {
		if n := accepted.Load(); n < 4000 {
			return fmt.Errorf("%d of 4000 checks", n)
		}
		return nil
	})
	const span = 6 * time.Second
	cpu, checks, sockets := front.load(t, span, &accepted)
	t.Logf("4000 members well: %.0f checks/s, %.1f%% of a CPU, at most %d descriptors", checks, cpu, sockets)
	if checks < 600 || checks > 1100 || sockets > 250 || cpu > 90 {
		t.Errorf("the checks are not within their bounds: 1000 a second, 128 at once")
	}
	if out := front.command(t, "status"); !strings.Contains(out, "times as far apart as configured") {
		t.Errorf("status does not tell that the interval is longer than configured")
	}
	greeters[1].stop()
	died := time.Now()
	eventually(t, "every member of the dead server is out", func() error {
		down := 0
		text, err := front.Get(t.Context(), "/metrics")
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "mailmux_member_available") && strings.Contains(line, `member="n2"`) && strings.HasSuffix(line, " 0\n") {
				down++
			}
		}
		if err == nil && down < 1000 {
			err = errors.New(strconv.Itoa(down) + " of 1000 are down")
		}
		return err
	})
	t.Logf("1000 members of a server that died: all out within %s", time.Since(died).Round(10*time.Millisecond))
	cpu, checks, sockets = front.load(t, span, &accepted)
	t.Logf("1000 of 4000 members down: %.0f checks/s at the others, %.1f%% of a CPU, at most %d descriptors", checks, cpu, sockets)
	if sockets > 250 || cpu > 90 {
		t.Errorf("the checks are not within their bounds while members are down")
	}
}

// load measures a frontend for a while: the share of a CPU in percent, the checks that came in a second, and the most
// descriptors that it held.
func (f *frontend) load(t testing.TB, span time.Duration, accepted *atomic.Int64) (cpu, checks float64, descriptors int) {
	t.Helper()
	cpuBefore, before, began := cpuTime(t, f.PID()), accepted.Load(), time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for time.Since(began) < span {
		<-tick.C
		n, err := f.Descriptors()
		if err != nil {
			t.Fatal(err)
		}
		descriptors = max(descriptors, n)
	}
	took := time.Since(began).Seconds()
	cpu = 100 * (cpuTime(t, f.PID()) - cpuBefore).Seconds() / took
	return cpu, float64(accepted.Load()-before) / took, descriptors
}
