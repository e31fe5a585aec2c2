package main

import (
	"bytes"
	"fmt"
	"html"
)

// Sizes of a plot, in pixels.
const (
	plotWidth = 720
	barHeight = 22
	barGap    = 8
	labels    = 110 // left of the bars
	numbers   = 130 // right of them
	head      = 48
)

// plot draws a bar for each peer: the median, with a line from the least to the most.
func plot(t *test, list []figure) []byte {
	var most float64
	var shown []figure
	for _, f := range list {
		if f.value > 0 {
			shown = append(shown, f)
			most = max(most, f.high)
		}
	}
	// One peer that is far behind would press all others into a corner: its bar is cut.
	limit := most
	if second := nextTo(shown, most); second > 0 && most > 3*second {
		limit = 1.5 * second
	}
	height := head + len(shown)*(barHeight+barGap) + barGap
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">`+"\n", plotWidth, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", plotWidth, height)
	fmt.Fprintf(&b, `<text x="10" y="20" font-weight="bold">%s</text>`+"\n", html.EscapeString(t.title))
	fmt.Fprintf(&b, `<text x="10" y="38" fill="#555">%s, median and spread; less is better</text>`+"\n", html.EscapeString(t.unit))
	at := func(v float64) float64 { return labels + min(v, limit)/limit*(plotWidth-labels-numbers) }
	for i, f := range shown {
		y := head + i*(barHeight+barGap)
		middle := float64(y) + barHeight/2
		colour := "#9aa7b4"
		if f.peer == "mailmux" {
			colour = "#1f6feb"
		}
		fmt.Fprintf(&b, `<text x="%d" y="%.0f" text-anchor="end">%s</text>`+"\n", labels-8, middle+5, f.peer)
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", labels, y, at(f.value)-labels, barHeight, colour)
		fmt.Fprintf(&b, `<path d="M%.1f %.1fH%.1f" stroke="#222"/>`+"\n", at(f.low), middle, at(f.high))
		text := fmt.Sprintf("%.3g", f.value)
		if f.value >= 100 {
			text = fmt.Sprintf("%.0f", f.value)
		}
		if f.ratio > 0 && f.peer != "mailmux" {
			text += fmt.Sprintf(" (%.2f×)", f.ratio)
		}
		fmt.Fprintf(&b, `<text x="%.1f" y="%.0f">%s</text>`+"\n", at(f.high)+8, middle+5, text)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// nextTo is the largest high below the most.
func nextTo(list []figure, most float64) float64 {
	var second float64
	for _, f := range list {
		if f.high < most {
			second = max(second, f.high)
		}
	}
	return second
}
