package integration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"mailmux/integration/stage"
)

// shared is what the stories have in common: the binaries under test and the servers. Each part is made when the first
// story needs it, and TestMain takes it down.
type shared struct {
	dir string

	builds map[string]func() error // by program: builds it once

	stage    sync.Once
	world    *stage.World
	stageErr error

	front    sync.Once
	daemon   *daemon
	frontErr error

	mu   sync.Mutex
	last int // of the addresses that are given out to daemons
}

// common is set by TestMain and only read by tests.
var common *shared

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "mux-bin")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	common = &shared{dir: dir, last: 150, builds: make(map[string]func() error)}
	for _, name := range []string{"mailmux", "hostfailover"} {
		common.builds[name] = sync.OnceValue(func() error { return build(dir, name) })
	}
	code := m.Run()
	if common.daemon != nil {
		common.daemon.Stop()
		if fault := common.daemon.faults(); fault != "" {
			fmt.Fprintln(os.Stderr, fault)
			code = 1
		}
	}
	if common.world != nil {
		common.world.Close()
	}
	_ = os.RemoveAll(dir) // a left-over folder harms nobody
	os.Exit(code)
}

// need ends the test if err is not nil: it skips because of a program that is not installed, except in continuous
// integration.
func need(t testing.TB, err error) {
	t.Helper()
	if missing := new(stage.MissingError); errors.As(err, &missing) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// world returns the shared servers. What their logs say is shown if the test fails.
func world(t testing.TB) *stage.World {
	t.Helper()
	common.stage.Do(func() { common.world, common.stageErr = stage.NewWorld() })
	need(t, common.stageErr)
	showLogs(t, common.world)
	return common.world
}

// ownWorld returns servers that the test may break.
func ownWorld(t testing.TB) *stage.World {
	t.Helper()
	w, err := stage.NewWorld()
	need(t, err)
	t.Cleanup(w.Close)
	showLogs(t, w)
	return w
}

func showLogs(t testing.TB, w *stage.World) {
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		for name, log := range w.Logs(3000) {
			t.Logf("the end of the log of %s:\n%s", name, log)
		}
	})
}

func needPostfix(t testing.TB, w *stage.World) {
	t.Helper()
	need(t, w.NoPostfix)
}

// needProgram returns the path of a client program.
func needProgram(t testing.TB, program, pkg string) string {
	t.Helper()
	path, err := stage.Find(program, pkg)
	need(t, err)
	return path
}

// builtProgram returns the path of mailmux or hostfailover, built from this tree.
func builtProgram(t testing.TB, name string) string {
	t.Helper()
	if given := os.Getenv(map[string]string{"mailmux": "MAILMUX_BINARY", "hostfailover": "HOSTFAILOVER_BINARY"}[name]); given != "" {
		return given
	}
	if err := common.builds[name](); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(common.dir, name)
}

func build(dir, name string) error {
	args := []string{"build", "-o", filepath.Join(dir, name)}
	if os.Getenv("MAILMUX_RACE") == "1" {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "mailmux/cmd/"+name)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s, which is to be tested: %w\n%s", name, err, out)
	}
	return nil
}
