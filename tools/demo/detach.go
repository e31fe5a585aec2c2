package main

import (
	"os/exec"
	"syscall"
)

// detach keeps Ctrl-C, which a terminal sends to its whole process group, from the child: the demo ends it in its turn.
func detach(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }
