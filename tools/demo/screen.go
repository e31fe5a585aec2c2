package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	defaultWidth = 80
	maxWidth     = 110
)

// The colours, few and dim: terminals differ.
const (
	bold  = "1"
	dim   = "2"
	cyan  = "36"
	green = "32"
)

// screen prints the demo. Every line is cut to the width, so that nothing wraps.
type screen struct {
	out   io.Writer
	color bool
	width int
	step  int
}

// newScreen prints to a writer.
func newScreen(out io.Writer, o options) *screen {
	return &screen{out: out, color: o.color, width: o.width}
}

// paint wraps text into a colour, where there are colours.
func (s *screen) paint(color, text string) string {
	if !s.color || text == "" {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}

// headline begins a step with one line that says what happens.
func (s *screen) headline(format string, args ...any) {
	s.step++
	s.title(fmt.Sprintf("%2d. ", s.step)+format, args...)
}

// title is a headline without a number.
func (s *screen) title(format string, args ...any) {
	fmt.Fprintf(s.out, "\n%s\n", s.paint(bold, s.cut(fmt.Sprintf(format, args...))))
}

// note prints an explanation, wrapped to the width.
func (s *screen) note(format string, args ...any) {
	for _, line := range wrap(fmt.Sprintf(format, args...), s.width-4) {
		fmt.Fprintf(s.out, "    %s\n", line)
	}
}

// aside prints a short remark inside a dialogue.
func (s *screen) aside(format string, args ...any) {
	fmt.Fprintf(s.out, "    %s\n", s.paint(dim, s.cut(fmt.Sprintf(format, args...))))
}

// client prints what the client of a dialogue says.
func (s *screen) client(line string) {
	fmt.Fprintf(s.out, "    %s\n", s.paint(cyan, strings.TrimRight(s.cut("C: "+printable(line)), " ")))
}

// server prints what the server of a dialogue says.
func (s *screen) server(line string) {
	fmt.Fprintf(s.out, "    %s\n", s.paint(green, strings.TrimRight(s.cut("S: "+printable(line)), " ")))
}

// command prints a command line as a person would type it.
func (s *screen) command(line string) {
	text := "$ " + strings.Join(wrap(line, s.width-10), " \\\n    ")
	for part := range strings.Lines(text) {
		fmt.Fprintf(s.out, "    %s\n", s.paint(bold, strings.TrimRight(part, "\n")))
	}
}

// output prints what a command wrote. Tables that are too wide lose some of the space between their columns.
func (s *screen) output(text string) {
	for _, line := range s.narrow(strings.Split(printable(text), "\n")) {
		fmt.Fprintln(s.out, strings.TrimRight("    "+s.cut(line), " "))
	}
}

// narrow squeezes the tables of an output: consecutive lines with gaps, one of them wider than the screen.
func (s *screen) narrow(lines []string) []string {
	for begin := 0; begin < len(lines); begin++ {
		end := begin
		for end < len(lines) && strings.Contains(lines[end], "  ") {
			end++
		}
		for gap := 2; gap > 0 && s.tooWide(lines[begin:end]); gap-- {
			squeeze(lines[begin:end], gap)
		}
		begin = max(begin, end-1)
	}
	return lines
}

// tooWide reports whether a line would have to be cut.
func (s *screen) tooWide(lines []string) bool {
	return slices.ContainsFunc(lines, func(line string) bool { return utf8.RuneCountInString(line) > s.width-4 })
}

// squeeze takes out the columns of characters that are blank in all lines, up to a gap between the columns of the table.
func squeeze(lines []string, gap int) {
	table := make([][]rune, len(lines))
	width := 0
	for i, line := range lines {
		table[i] = []rune(line)
		width = max(width, len(table[i]))
	}
	out := make([]strings.Builder, len(lines))
	for column, blanks := 0, 0; column < width; column++ {
		blank := true
		for _, line := range table {
			blank = blank && (column >= len(line) || line[column] == ' ')
		}
		if blanks++; !blank {
			blanks = 0
		}
		for i, line := range table {
			if blanks <= gap && column < len(line) {
				out[i].WriteRune(line[column])
			}
		}
	}
	for i := range lines {
		lines[i] = out[i].String()
	}
}

// cut shortens a line that stands behind the indentation.
func (s *screen) cut(line string) string {
	room := s.width - 4
	if utf8.RuneCountInString(line) <= room {
		return line
	}
	return string([]rune(line)[:room-1]) + "…"
}

// printable keeps control characters other than line ends away from the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return ' '
		}
		if r == '\n' {
			return r
		}
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
}

// wrap breaks text at spaces.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
