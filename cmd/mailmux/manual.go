package main

import (
	"flag"
	"fmt"
	"io"
	"strings"
)

// manual prints the manual page, in man(7), from the table that the help is made from.
func manual(w io.Writer) {
	fmt.Fprint(w, ".TH MAILMUX 8 \"\" mailmux\n.SH NAME\nmailmux \\- relay mail sessions to the server that holds the account\n.SH SYNOPSIS\n")
	for _, c := range commands() {
		fmt.Fprintf(w, ".B mailmux %s\n%s\n.br\n", c.name, roff(strings.TrimSpace("[flags] "+c.args)))
	}
	fmt.Fprint(w, ".SH COMMANDS\n")
	for _, c := range commands() {
		fmt.Fprintf(w, ".SS %s\n%s.\n", c.name, roff(strings.ToUpper(c.summary[:1])+c.summary[1:]))
		if c.long != "" {
			fmt.Fprint(w, ".PP\n.nf\n")
			for line := range strings.Lines(strings.Trim(c.long, "\n") + "\n") {
				fmt.Fprint(w, roff(line))
			}
			fmt.Fprint(w, ".fi\n")
		}
		inv := &invocation{command: &c}
		inv.flagSet()
		inv.flags.VisitAll(func(f *flag.Flag) {
			name, usage := spelled(f)
			fmt.Fprintf(w, ".TP\n.B %s\n%s\n", roff(name), roff(usage))
		})
	}
	fmt.Fprint(w, ".SH EXIT STATUS\n.nf\n"+roff(exitCodes)+".fi\n.SH FILES\n.I /etc/mailmux/mailmux.yaml\n.SH SEE ALSO\nhostfailover(8)\n")
}

// roff protects what man(7) would take for something else.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "…", "...").Replace(s) // not every roff reads UTF-8
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}
