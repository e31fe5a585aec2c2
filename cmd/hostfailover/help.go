package main

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"strings"
)

const (
	summary = "point mail accounts at another home host, and back again"
	codes   = `0 done; 1 some entries failed, or the run was interrupted; 2 the command line or the configuration is wrong; 3 the directory could not be reached or takes no changes, or went away and did not come back; 4 a safety check refused the run.`
)

// column is how wide help is: no wider than is good to read, and no wider than the terminal.
func (c console) column() int {
	if c.width == 0 {
		return 100
	}
	return max(40, min(c.width, 100))
}

func overview(width int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "hostfailover: %s\n\n", summary)
	for _, c := range commands() {
		fmt.Fprintf(&b, "  %-11s %s\n", c.name, c.short)
	}
	fmt.Fprintf(&b, "\nhostfailover COMMAND -h explains a command. Nothing is changed without -apply.\n\n%s\n", wrap("Exit codes: "+codes, "", width))
	return b.String()
}

func (c *command) usageLine() string {
	line := "hostfailover " + c.name
	if c.args != "" {
		line += " " + c.args
	}
	return line
}

// each calls do with the flags of the command, group by group.
func (c *command) each(do func(title string, flags []*flag.Flag)) {
	for _, g := range append([]group{c.own}, c.groups...) {
		if g.register == nil {
			continue
		}
		f := flag.NewFlagSet("", flag.ContinueOnError)
		g.register(&options{}, f)
		var flags []*flag.Flag
		f.VisitAll(func(one *flag.Flag) { flags = append(flags, one) })
		do(g.title, flags)
	}
}

// spell gives a flag with the name of its value, and its explanation with the default.
func spell(f *flag.Flag) (name, value, text string) {
	value, text = flag.UnquoteUsage(f)
	if b, ok := f.Value.(interface{ IsBoolFlag() bool }); ok && b.IsBoolFlag() {
		value = ""
	}
	if d := f.DefValue; d != "" && d != "0" && d != "false" && !strings.Contains(text, "default") {
		text += " (default " + d + ")"
	}
	return "-" + f.Name, value, text
}

func (c *command) help(width int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n%s.\n", c.usageLine(), upper(c.short))
	if c.long != "" {
		fmt.Fprintf(&b, "\n%s\n", wrap(c.long, "", width))
	}
	c.each(func(title string, flags []*flag.Flag) {
		fmt.Fprintf(&b, "\n%s:\n", title)
		for _, f := range flags {
			name, value, text := spell(f)
			fmt.Fprintf(&b, "  %s\n%s\n", strings.TrimSpace(name+" "+value), wrap(upper(text)+".", "      ", width))
		}
	})
	return b.String()
}

func upper(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// wrap breaks paragraphs at spaces.
func wrap(text, indent string, width int) string {
	var out []string
	for paragraph := range strings.SplitSeq(text, "\n\n") {
		line := indent
		var lines []string
		for _, word := range strings.Fields(paragraph) {
			if len(line)+1+len(word) > width && line != indent {
				lines = append(lines, line)
				line = indent
			}
			if line != indent {
				line += " "
			}
			line += word
		}
		out = append(out, strings.Join(append(lines, line), "\n"))
	}
	return strings.Join(out, "\n\n")
}

// manual is the manual page, in man(7).
func manual() string {
	var b strings.Builder
	fmt.Fprintf(&b, ".TH HOSTFAILOVER 8 \"\" mailmux\n.SH NAME\nhostfailover \\- %s\n.SH SYNOPSIS\n", roff(summary))
	for _, c := range commands() {
		fmt.Fprintf(&b, ".B hostfailover %s\n", c.name)
		if c.args != "" {
			fmt.Fprintf(&b, "%s\n", roff(c.args))
		}
		b.WriteString(".br\n")
	}
	b.WriteString(".SH COMMANDS\n")
	for _, c := range commands() {
		fmt.Fprintf(&b, ".SS %s\n%s.\n", c.name, roff(upper(c.short)))
		if c.long != "" {
			fmt.Fprintf(&b, ".PP\n%s\n", strings.ReplaceAll(roff(c.long), "\n\n", "\n.PP\n"))
		}
		c.each(func(title string, flags []*flag.Flag) {
			fmt.Fprintf(&b, ".PP\n.I %s\n", roff(title))
			for _, f := range flags {
				name, value, text := spell(f)
				fmt.Fprintf(&b, ".TP\n.B %s\n%s.\n", roff(strings.TrimSpace(name+" "+value)), roff(upper(text)))
			}
		})
	}
	fmt.Fprintf(&b, ".SH EXIT STATUS\n%s\n.SH SEE ALSO\nmailmux(8), slapd(8), ldapmodify(1)\n", roff(codes))
	return b.String()
}

// roff protects what man(7) would take for something else.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "…", "...").Replace(s) // not every roff reads UTF-8
	s = strings.ReplaceAll(s, "-", `\-`)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}

func runHelp(_ context.Context, o *options, operand string, con console) error {
	switch {
	case o.man:
		fmt.Fprint(con.out, manual())
	case operand == "":
		fmt.Fprint(con.out, overview(con.column()))
	default:
		c := lookup(operand)
		if c == nil {
			return usage("%q is no command: there are %s", operand, strings.Join(names(), ", "))
		}
		fmt.Fprint(con.out, c.help(con.column()))
	}
	return nil
}

// completions are made from the same table: the commands, and the flags of each.
func runCompletion(_ context.Context, _ *options, shell string, con console) error {
	switch shell {
	case "bash":
		fmt.Fprint(con.out, bashCompletion())
	case "zsh":
		fmt.Fprint(con.out, "#compdef hostfailover\nautoload -U +X bashcompinit && bashcompinit\n"+bashCompletion())
	case "fish":
		fmt.Fprint(con.out, fishCompletion())
	default:
		return usage("completion is for bash, zsh or fish, not %q", shell)
	}
	return nil
}

// flagNames are all flags of a command, those of them whose value is a file, and those whose value nobody can guess.
func (c *command) flagNames() (all, files, others []string) {
	c.each(func(_ string, flags []*flag.Flag) {
		for _, f := range flags {
			name, value, _ := spell(f)
			all = append(all, name)
			switch value {
			case "", "MODE":
			case "FILE", "SOCKET":
				files = append(files, name)
			default:
				others = append(others, name)
			}
		}
	})
	return all, files, others
}

func bashCompletion() string {
	var b strings.Builder
	fmt.Fprintf(&b, `_hostfailover_files() {
	local IFS=$'\n'
	COMPREPLY=($(compgen -f -- "$1"))
	compopt -o filenames 2>/dev/null
}
_hostfailover() {
	local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}
	COMPREPLY=()
	if [ "$COMP_CWORD" -eq 1 ]; then
		COMPREPLY=($(compgen -W "%s" -- "$word"))
		return
	fi
	case ${COMP_WORDS[1]} in
`, strings.Join(names(), " "))
	for _, c := range commands() {
		c.bash(&b)
	}
	b.WriteString("\tesac\n}\ncomplete -F _hostfailover hostfailover\n")
	return b.String()
}

// bash writes the completion of one command.
func (c *command) bash(b *strings.Builder) {
	all, files, others := c.flagNames()
	fmt.Fprintf(b, "\t%s)\n", c.name)
	if len(files) > 0 {
		fmt.Fprintf(b, "\t\tcase $before in\n\t\t%s) _hostfailover_files \"$word\"; return ;;\n", strings.Join(files, "|"))
		if slices.Contains(all, "-txn") {
			b.WriteString("\t\t-txn) COMPREPLY=($(compgen -W \"auto on off\" -- \"$word\")); return ;;\n")
		}
		fmt.Fprintf(b, "\t\t%s) return ;;\n\t\tesac\n", strings.Join(others, "|"))
	}
	words := strings.Join(all, " ")
	switch c.name {
	case "completion":
		words = "bash zsh fish"
	case "help":
		words = strings.Join(append(all, names()...), " ")
	case "journal":
		b.WriteString("\t\tif [ \"$COMP_CWORD\" -gt 2 ] && [ \"${word#-}\" = \"$word\" ]; then _hostfailover_files \"$word\"; return; fi\n")
		words += " show"
	}
	fmt.Fprintf(b, "\t\tCOMPREPLY=($(compgen -W \"%s\" -- \"$word\")) ;;\n", words)
}

func fishCompletion() string {
	var b strings.Builder
	for _, c := range commands() {
		fmt.Fprintf(&b, "complete -c hostfailover -n __fish_use_subcommand -f -a %s -d '%s'\n", c.name, quoteFish(c.short))
		c.each(func(_ string, flags []*flag.Flag) {
			for _, f := range flags {
				name, value, text := spell(f)
				more := ""
				if value != "" {
					more = " -r"
				}
				fmt.Fprintf(&b, "complete -c hostfailover -n '__fish_seen_subcommand_from %s' -o %s%s -d '%s'\n", c.name, name[1:], more, quoteFish(text))
			}
		})
	}
	return b.String()
}

func quoteFish(s string) string { return strings.ReplaceAll(s, "'", `\'`) }
