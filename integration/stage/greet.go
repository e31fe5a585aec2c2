package stage

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"time"
)

// Greeting connects to a mail server and returns the first line that it says, without its line end.
func Greeting(ctx context.Context, addr string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if end, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(end)
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("read the greeting of %s: %w", addr, err)
	}
	return strings.TrimRight(line, "\r\n"), nil
}

// greets returns an ask for await: the server at addr must greet with a line that begins with prefix.
func greets(addr, prefix string) func(context.Context) error {
	return func(ctx context.Context) error {
		line, err := Greeting(ctx, addr)
		if err != nil {
			return err
		}
		if !strings.HasPrefix(line, prefix) {
			return fmt.Errorf("%s greets with %q, want %q first", addr, line, prefix)
		}
		return nil
	}
}
