package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// group is a set of processes whose CPU time and memory are counted together: a peer with its helpers. Its CPU time is
// that of a control group (cgroup v2), which holds what dead children used as well. Without one it is read from /proc,
// where the children of a dead child may be missing.
type group struct {
	dir     string // of the logs
	cgroup  string // "" without one
	members []*exec.Cmd
}

// newGroup makes a group whose processes log to dir.
func newGroup(dir, name string) *group {
	g := &group{dir: dir}
	if root := cgroupRoot(); root != "" {
		path := filepath.Join(root, fmt.Sprintf("mailmux-bench-%d-%s", os.Getpid(), name))
		if os.Mkdir(path, 0o755) == nil {
			g.cgroup = path
		}
	}
	return g
}

// cgroupRoot is where the cgroup v2 hierarchy is mounted, "" without it.
func cgroupRoot() string {
	text, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			return f[1]
		}
	}
	return ""
}

// start starts a program. A shell enters the control group first and then becomes the program, so that every child is
// in it from the beginning.
func (g *group) start(argv ...string) error {
	log, err := os.OpenFile(filepath.Join(g.dir, filepath.Base(argv[0])+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	if g.cgroup != "" {
		argv = append([]string{"/bin/sh", "-c", `echo $$ > "$0/cgroup.procs"; exec "$@"`, g.cgroup}, argv...)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return err
	}
	g.members = append(g.members, cmd)
	return nil
}

// stop ends the processes and waits for them.
func (g *group) stop() {
	for _, cmd := range g.members {
		ended := make(chan struct{})
		go func() { cmd.Wait(); close(ended) }()
		syscall.Kill(cmd.Process.Pid, syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(2 * time.Second):
		}
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-ended
	}
	g.members = nil
}

// remove gives the control group back.
func (g *group) remove() {
	g.stop()
	if g.cgroup != "" {
		for range 50 { // it is busy until the kernel has buried the last process
			if os.Remove(g.cgroup) == nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// pids are the group's living processes.
func (g *group) pids() []int {
	var list []int
	if g.cgroup != "" {
		text, _ := os.ReadFile(filepath.Join(g.cgroup, "cgroup.procs"))
		for _, f := range strings.Fields(string(text)) {
			pid, _ := strconv.Atoi(f)
			list = append(list, pid)
		}
		return list
	}
	for _, cmd := range g.members {
		list = append(list, descendants(cmd.Process.Pid)...)
	}
	return list
}

func descendants(pid int) []int {
	list := []int{pid}
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for _, f := range strings.Fields(string(text)) {
		child, _ := strconv.Atoi(f)
		list = append(list, descendants(child)...)
	}
	return list
}

// cpu is the CPU time that the group has used so far.
func (g *group) cpu() time.Duration {
	if g.cgroup != "" {
		text, _ := os.ReadFile(filepath.Join(g.cgroup, "cpu.stat"))
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) == 2 && f[0] == "usage_usec" {
				us, _ := strconv.ParseInt(f[1], 10, 64)
				return time.Duration(us) * time.Microsecond
			}
		}
	}
	var ticks int64
	for _, pid := range g.pids() {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		for i := 11; i < 15 && len(f) > 14; i++ { // utime, stime, and those of waited-for children: proc(5)
			n, _ := strconv.ParseInt(f[i], 10, 64)
			ticks += n
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// memory is the proportional set size in bytes of the group's processes, and how many descriptors they hold. Those that
// run the helper's program are left out.
func (g *group) memory(helper string) (pss int64, descriptors int, err error) {
	pids := g.pids()
	if len(pids) == 0 {
		return 0, 0, errors.New("no process left")
	}
	for _, pid := range pids {
		if path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil && path == helper {
			continue
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return 0, 0, err
		}
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "Pss:" {
				kib, _ := strconv.ParseInt(f[1], 10, 64)
				pss += kib << 10
			}
		}
		fds, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		descriptors += len(fds)
	}
	return pss, descriptors, nil
}

// slab is the kernel's memory for small objects, of the whole machine, in bytes: sockets, pipes, epoll entries.
func slab() int64 {
	text, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "SUnreclaim:" {
			kib, _ := strconv.ParseInt(f[1], 10, 64)
			return kib << 10
		}
	}
	return 0
}

// busy is the CPU time that the whole machine has used so far.
func busy() time.Duration {
	text, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(text), "\n")
	var ticks int64
	for i, f := range strings.Fields(line) {
		if i >= 1 && i != 4 && i != 5 && i <= 8 { // neither idle nor waiting for a disk
			n, _ := strconv.ParseInt(f, 10, 64)
			ticks += n
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}
