package backend

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// table makes a table for a test; nothing is checked before it is started.
func table(t testing.TB, cfg Config, options Options) *Table {
	t.Helper()
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	table, err := New(cfg, options)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	t.Cleanup(table.Close)
	return table
}

// members lists addresses as members.
func members(addresses ...string) []MemberConfig {
	var list []MemberConfig
	for _, a := range addresses {
		list = append(list, MemberConfig{Address: a})
	}
	return list
}

// host finds a host that has to be there.
func host(t testing.TB, table *Table, name string) *Host {
	t.Helper()
	h, err := table.Host(name)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestHostIsFoundWithoutCase(t *testing.T) {
	tab := table(t, Config{Hosts: map[string]HostConfig{"Back1.Example.com": {Members: members("10.0.0.1")}}}, Options{})
	for _, name := range []string{"back1.example.com", "BACK1.example.COM", "back1.example.com."} {
		if h := host(t, tab, name); h.Name() != "back1.example.com" {
			t.Errorf("Host(%q) is %q", name, h.Name())
		}
	}
}

func TestUnknownHostNamesTheNearest(t *testing.T) {
	hosts := make(map[string]HostConfig)
	for i := range 50 {
		hosts[fmt.Sprintf("back%d.example.com", i)] = HostConfig{Members: members("10.0.0.1")}
	}
	hosts["store.example.com"] = HostConfig{Members: members("10.0.0.1")}
	tab := table(t, Config{Hosts: hosts}, Options{})
	for name, want := range map[string]string{
		"stroe.example.com": "store.example.com",
		"STORE":             "store.example.com",
		"back7.exampel.com": "back7.example.com",
		"192.0.2.1":         "",
		"":                  "",
	} {
		_, err := tab.Host(name)
		var unknown *UnknownHostError
		if !errors.Is(err, ErrUnknownHost) || !errors.As(err, &unknown) || unknown.Nearest != want {
			t.Errorf("Host(%q): %v, want the nearest to be %q", name, err, want)
		}
	}
}

func TestUpdateKeepsWhatIsKnownOfMembersThatStay(t *testing.T) {
	cfg := Config{Hosts: map[string]HostConfig{
		"east": {Members: members("10.0.0.1", "10.0.0.2", "10.0.0.3"), Sticky: "none"},
		"west": {Members: members("10.0.1.1")},
	}}
	var events []string
	tab := table(t, cfg, Options{Changed: func(e Event) { events = append(events, e.Member.String()+" "+e.Change.String()) }})
	east := host(t, tab, "east")
	m := east.Member("10.0.0.1")
	m.Opened("imap")
	for range 3 {
		m.failed("imap", errors.New("refused"), true)
	}
	if err := tab.Withdraw("east/10.0.0.2", false); err != nil {
		t.Fatal(err)
	}
	west := host(t, tab, "west")
	events = nil

	next := Config{Hosts: map[string]HostConfig{"east": {Members: members("10.0.0.4", "10.0.0.2", "10.0.0.1"), Sticky: "none"}}}
	next.Backend.Ports = map[string]int{"pop3": 1100}
	if err := tab.Update(next); err != nil {
		t.Fatal(err)
	}
	if host(t, tab, "east") != east || east.Member("10.0.0.1") != m {
		t.Error("the host or the member is another one after the reload")
	}
	if east.Member("10.0.0.3") != nil || !slices.Contains(events, "east/10.0.0.3 left") || !slices.Contains(events, "west/10.0.1.1 left") {
		t.Errorf("events are %q, want 10.0.0.3 and west to have left", events)
	}
	if withdrawn, _ := east.Member("10.0.0.2").Withdrawn(); !withdrawn {
		t.Error("the reload took the operator's wish back")
	}
	if _, err := west.Choose("imap", "ann", nil); !errors.Is(err, ErrNoMember) {
		t.Errorf("a host that has left still chooses: %v", err)
	}
	if m.Sessions() != 1 {
		t.Errorf("the member has %d sessions after the reload, want 1", m.Sessions())
	}
	// Its ports have changed, so it is another server, and what was seen of the old one does not count.
	if !m.Available("imap") {
		t.Error("a member at another port is still down")
	}
}

func TestUpdateKeepsTheStateOfAMemberAtTheSameAddress(t *testing.T) {
	cfg := Config{Hosts: map[string]HostConfig{"east": {Members: members("10.0.0.1")}}}
	tab := table(t, cfg, Options{})
	m := host(t, tab, "east").Member("10.0.0.1")
	for range 3 {
		m.failed("imap", errors.New("refused"), true)
	}
	if err := tab.Update(cfg); err != nil {
		t.Fatal(err)
	}
	if m.Available("imap") {
		t.Error("the reload brought a member up that is down")
	}
	cfg.Backend.Check.Mode = "off"
	cfg.Backend.Breaker.Failures = 5
	if err := tab.Update(cfg); err != nil {
		t.Fatal(err)
	}
	if state := m.state.Load(); state&(1<<imap) != 0 {
		t.Error("a member is down by checks that were switched off")
	}
}

func TestUpdateThatFailsChangesNothing(t *testing.T) {
	tab := table(t, Config{Hosts: map[string]HostConfig{"east": {Members: members("10.0.0.1")}}}, Options{})
	bad := Config{Hosts: map[string]HostConfig{"west": {Members: members("10.0.0.1"), Settings: Settings{
		TLS: "starttls", TLSCAFile: filepath.Join(t.TempDir(), "none.pem")}}}}
	err := tab.Update(bad)
	if err == nil || !strings.Contains(err.Error(), "hosts.west: tls_ca_file: ") {
		t.Errorf("Update: %v, want the missing file", err)
	}
	host(t, tab, "east")
}

func TestWishesSurviveARestart(t *testing.T) {
	cfg := Config{Hosts: map[string]HostConfig{"east": {Members: members("10.0.0.1", "10.0.0.2")}, "west": {Members: members("10.0.0.9")}}}
	options := Options{StateFile: filepath.Join(t.TempDir(), "wishes.json")}
	tab := table(t, cfg, options)
	for _, name := range []string{"EAST", "10.0.0.9"} {
		if err := tab.Withdraw(name, true); err != nil {
			t.Fatal(err)
		}
	}
	if err := tab.Ready("east/10.0.0.2"); err != nil {
		t.Fatal(err)
	}
	again := table(t, cfg, options)
	got := make(map[string]string)
	for _, h := range again.Status() {
		for _, m := range h.Members {
			got[h.Name+"/"+m.Name] = m.Wish
		}
	}
	want := map[string]string{"east/10.0.0.1": "evacuating", "east/10.0.0.2": "in service", "west/10.0.0.9": "evacuating"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("wishes after the restart are %v, want %v", got, want)
	}
	if _, err := host(t, again, "west").Choose("imap", "ann", nil); !errors.Is(err, ErrNoMember) || !strings.Contains(err.Error(), "withdrawn") {
		t.Errorf("Choose on a withdrawn host: %v", err)
	}
}

func TestWithdrawNeedsANameThatIsUnique(t *testing.T) {
	tab := table(t, Config{Hosts: map[string]HostConfig{"east": {Members: members("10.0.0.1")}, "west": {Members: members("10.0.0.1")}}}, Options{})
	for _, name := range []string{"10.0.0.1", "north", "east/10.0.0.2", ""} {
		if err := tab.Withdraw(name, false); !errors.Is(err, ErrNoSuch) {
			t.Errorf("Withdraw(%q): %v, want ErrNoSuch", name, err)
		}
	}
}

func TestAWithdrawnMemberKeepsItsAccountsUntilTheyAreToLeave(t *testing.T) {
	tab := table(t, Config{Hosts: map[string]HostConfig{"east": {Members: members("10.0.0.1", "10.0.0.2")}}}, Options{})
	m := host(t, tab, "east").Member("10.0.0.1")
	if err := tab.Withdraw("10.0.0.1", false); err != nil {
		t.Fatal(err)
	}
	if m.Available("imap") || !m.Joinable("imap") {
		t.Error("a withdrawn member has to refuse new accounts and keep those it has")
	}
	if err := tab.Withdraw("10.0.0.1", true); err != nil {
		t.Fatal(err)
	}
	if m.Joinable("imap") {
		t.Error("an evacuated member takes sessions")
	}
}

func TestSeenChangesWithWhatMembersShow(t *testing.T) {
	tab := table(t, Config{Hosts: map[string]HostConfig{"east": {Members: members("10.0.0.1", "10.0.0.2", "10.0.0.3")}}}, Options{})
	h := host(t, tab, "east")
	if lists := tab.Seen("imap"); len(lists) != 0 {
		t.Fatalf("Seen is %q before anything was seen", lists)
	}
	h.Member("10.0.0.1").Learn("imap", []string{"IDLE", "ID"})
	h.Member("10.0.0.2").Learn("imap", []string{"ID", "IDLE"})
	h.Member("10.0.0.3").Learn("imap", []string{"ID"})
	lists := tab.Seen("imap")
	if fmt.Sprint(lists) != "[[ID IDLE] [ID]]" {
		t.Fatalf("Seen is %q, want two lists", lists)
	}
	h.Member("10.0.0.1").Learn("imap", []string{"ID", "IDLE"})
	if same := tab.Seen("imap"); &same[0] != &lists[0] {
		t.Error("another slice although the list is the same in another order")
	}
	if lists := tab.Seen("pop3"); len(lists) != 0 {
		t.Errorf("POP3 shows %q, which was seen in IMAP", lists)
	}
	if err := tab.Update(Config{Hosts: map[string]HostConfig{"east": {Members: members("10.0.0.3")}}}); err != nil {
		t.Fatal(err)
	}
	if lists := tab.Seen("imap"); fmt.Sprint(lists) != "[[ID]]" {
		t.Errorf("Seen is %q after members left", lists)
	}
}

// A member that has moved to another address is another server under the same name: sessions there are told apart from
// those to come, and what the operator wishes holds for the name.
func TestMemberAtAnotherAddress(t *testing.T) {
	cfg := func(address string) Config {
		return Config{Hosts: map[string]HostConfig{"east": {Members: []MemberConfig{{Name: "n1", Address: address}, {Name: "n2", Address: "10.0.0.2"}}}}}
	}
	var left []string
	tab := table(t, cfg("10.0.0.1"), Options{Changed: func(e Event) {
		if e.Change == Left {
			left = append(left, e.Member.Name())
		}
	}})
	h := host(t, tab, "east")
	first, other := h.Member("n1"), h.Member("n2")
	if err := tab.Withdraw("n1", false); err != nil {
		t.Fatal(err)
	}
	if err := tab.Update(cfg("10.0.0.9")); err != nil {
		t.Fatal(err)
	}
	now := h.Member("n1")
	if withdrawn, _ := now.Withdrawn(); now == first || !first.Gone() || now.Gone() || !withdrawn {
		t.Errorf("n1 is the same: %v; the old one gone: %v, the new one: %v, withdrawn: %v", now == first, first.Gone(), now.Gone(), withdrawn)
	}
	if h.Member("n2") != other || other.Gone() {
		t.Error("n2 has not moved, and is another one")
	}
	if got := now.Address("imap"); got != "10.0.0.9:143" || len(left) != 1 {
		t.Errorf("n1 is at %s, left are %v", got, left)
	}
}
