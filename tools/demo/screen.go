package main

import (
	"fmt"
	"io"
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

// output prints what a command wrote.
func (s *screen) output(text string) {
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		fmt.Fprintf(s.out, "    %s\n", s.cut(printable(line)))
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

// printable keeps control characters away from the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return ' '
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
