package talk

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Command sends one command, without a tag and without the line end, and reads the whole answer.
func (c *Conn) Command(line string) (Reply, error) {
	if c.Proto == IMAP {
		c.tag++
		tag := "t" + strconv.Itoa(c.tag)
		if err := c.Send(tag + " " + line + "\r\n"); err != nil {
			return Reply{}, err
		}
		return c.imapReply(tag)
	}
	if err := c.Send(line + "\r\n"); err != nil {
		return Reply{}, err
	}
	return c.Reply(line)
}

// Reply reads the answer to a command that was sent before. In POP3 the command decides whether more lines follow; in
// IMAP its first word is the tag.
func (c *Conn) Reply(command string) (Reply, error) {
	verb, _, _ := strings.Cut(strings.ToUpper(command), " ")
	switch c.Proto {
	case IMAP:
		tag, _, _ := strings.Cut(command, " ")
		return c.imapReply(tag)
	case POP3:
		return c.pop3Reply(verb == "CAPA" || verb == "TOP" || verb == "RETR" || command == "LIST" || command == "UIDL")
	case Submission:
		return c.smtpReply()
	}
	return c.sieveReply()
}

func (c *Conn) imapReply(tag string) (Reply, error) {
	var r Reply
	for {
		line, err := c.imapLine()
		if err != nil {
			return r, err
		}
		rest, tagged := strings.CutPrefix(line, tag+" ")
		if !tagged {
			if strings.HasPrefix(line, "* BYE") && tag != "" {
				r.Final = line
			}
			r.Lines = append(r.Lines, line)
			continue
		}
		r.Final = rest
		r.OK = strings.HasPrefix(rest, "OK")
		return r, nil
	}
}

// imapLine reads one response with its literals.
func (c *Conn) imapLine() (string, error) {
	line, err := c.ReadLine()
	for err == nil && strings.HasSuffix(line, "}") {
		i := strings.LastIndexByte(line, '{')
		n, bad := strconv.Atoi(line[i+1 : len(line)-1])
		if i < 0 || bad != nil {
			break
		}
		var more string
		more, err = c.literal(n)
		line += "\r\n" + more
		if err == nil {
			more, err = c.ReadLine()
			line += more
		}
	}
	return line, err
}

func (c *Conn) literal(n int) (string, error) {
	b := make([]byte, n)
	c.deadline()
	if _, err := io.ReadFull(c.r, b); err != nil {
		return "", fmt.Errorf("read a literal of %d bytes: %w", n, err)
	}
	return string(b), nil
}

func (c *Conn) pop3Reply(multi bool) (Reply, error) {
	line, err := c.ReadLine()
	if err != nil {
		return Reply{}, err
	}
	r := Reply{Final: line, OK: strings.HasPrefix(line, "+OK")}
	for r.OK && multi {
		if line, err = c.ReadLine(); err != nil {
			return r, err
		}
		if line == "." {
			break
		}
		r.Lines = append(r.Lines, strings.TrimPrefix(line, "."))
	}
	return r, nil
}

func (c *Conn) smtpReply() (Reply, error) {
	var r Reply
	for {
		line, err := c.ReadLine()
		if err != nil {
			return r, err
		}
		if len(line) < 3 {
			return r, fmt.Errorf("not an SMTP reply: %q", line)
		}
		if len(line) > 3 && line[3] == '-' {
			r.Lines = append(r.Lines, line)
			continue
		}
		r.Final = line
		r.OK = line[0] == '2' || line[0] == '3'
		return r, nil
	}
}

func (c *Conn) sieveReply() (Reply, error) {
	var r Reply
	for {
		line, err := c.imapLine()
		if err != nil {
			return r, err
		}
		word, _, _ := strings.Cut(line, " ")
		switch strings.ToUpper(word) {
		case "OK", "NO", "BYE":
			r.Final = line
			r.OK = strings.EqualFold(word, "OK")
			return r, nil
		}
		r.Lines = append(r.Lines, line)
	}
}

// Where asks the session's backend for its name: by ID, by the subject of the first message, by EHLO, by the
// ManageSieve capability IMPLEMENTATION. It works only after a login.
func (c *Conn) Where() (string, error) {
	var command, before, after string
	switch c.Proto {
	case IMAP:
		command, before, after = `ID ("name" "talk")`, `* ID ("name" "`, `"`
	case POP3:
		command, before, after = "TOP 1 0", "Subject: welcome to ", ""
	case Submission:
		command, before, after = "EHLO client.example.net", "250-", ""
	case Sieve:
		command, before, after = "CAPABILITY", `"IMPLEMENTATION" "`, `"`
	}
	r, err := c.Command(command)
	if err != nil {
		return "", err
	}
	for _, line := range append(r.Lines, r.Final) {
		if rest, ok := strings.CutPrefix(line, before); ok {
			if after != "" {
				rest, _, _ = strings.Cut(rest, after)
			}
			name, _, _ := strings.Cut(rest, " ")
			return name, nil
		}
	}
	return "", fmt.Errorf("%s does not say where we are: %q %q", command, r.Lines, r.Final)
}
