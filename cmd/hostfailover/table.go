package main

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// row is a line of a table: two names, some numbers, and what is to be said of them, which is mostly nothing.
type row struct {
	names   [2]string
	numbers []string
	remark  string
}

// table prints rows, of which the first one is the head. Into a file the columns are as wide as they are given, so that
// the tables of several runs look alike. A terminal, which has a width, gets them so that names do not push the numbers
// aside; if it is too narrow for that, as wide as they have to be; and when that does not fit either, the first name has
// a line of its own.
func table(w io.Writer, width int, names [2]int, numbers []int, rows []row) {
	stacked := false
	if width > 0 {
		names, numbers, stacked = fit(width, names, numbers, rows)
	}
	for _, r := range rows {
		text := fmt.Sprintf("%-*s %-*s", names[0], r.names[0], names[1], r.names[1])
		if stacked {
			if first := r.names[0]; r.names[1] == "" && utf8.RuneCountInString(first) <= 2+names[1] {
				text = fmt.Sprintf("%-*s", 2+names[1], first)
			} else {
				fmt.Fprintln(w, first)
				text = fmt.Sprintf("  %-*s", names[1], r.names[1])
			}
		}
		for i, n := range r.numbers {
			text += fmt.Sprintf(" %*s", numbers[i], n)
		}
		if r.remark != "" {
			if width > 0 && utf8.RuneCountInString(text+"  "+r.remark) > width {
				text += "\n " // a line of its own
			}
			text += "  " + r.remark
		}
		fmt.Fprintln(w, text)
	}
}

// fit finds the columns for a terminal, and says whether the first name has to stand above the rest.
func fit(width int, names [2]int, numbers []int, rows []row) ([2]int, []int, bool) {
	var least [2]int
	leastNumbers := make([]int, len(numbers))
	for _, r := range rows {
		for i, text := range r.names {
			least[i] = max(least[i], utf8.RuneCountInString(text))
		}
		for i, text := range r.numbers {
			leastNumbers[i] = max(leastNumbers[i], utf8.RuneCountInString(text))
		}
	}
	roomy := [2]int{max(names[0], least[0]), max(names[1], least[1])}
	if line(roomy, numbers) <= width {
		return roomy, numbers, false
	}
	return least, leastNumbers, line(least, leastNumbers) > width
}

// line is how long a line with such columns is.
func line(names [2]int, numbers []int) int {
	n := names[0] + 1 + names[1]
	for _, one := range numbers {
		n += 1 + one
	}
	return n
}

// bar draws how far a run is in one line of a terminal: the bar takes what the text leaves.
func bar(width, done, total int, text string) string {
	if width == 0 {
		width = 80
	}
	room := min(30, width-1-len("[] ")-len(text))
	if total > 0 && room >= 10 {
		full := min(room*done/total, room)
		text = "[" + strings.Repeat("#", full) + strings.Repeat("-", room-full) + "] " + text
	}
	return text[:min(len(text), width-1)]
}
