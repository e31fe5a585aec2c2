package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// figure is what the rounds of a test on a peer come to.
type figure struct {
	peer             string
	value, low, high float64 // median, least and most
	ratio            float64 // to mailmux, 0 without it
	rate, cpu        float64
	p50, p99, p999   float64
	greet, in, noop  float64
	slab, fds, left  float64
	rounds, dropped  int
}

// noisy is how many CPUs may be busy with something else before a round is dropped, if enough others are left.
const noisy = 0.3

// figures are a test's, in the order of the peers.
func (r *runner) figures(t *test) []figure {
	var list []figure
	var own float64
	for _, p := range peers() {
		f, ok := r.figure(t, p)
		if !ok {
			continue
		}
		if p.name == "mailmux" {
			own = f.value
		}
		list = append(list, f)
	}
	for i := range list {
		if own > 0 {
			list[i].ratio = list[i].value / own
		}
	}
	return list
}

func (r *runner) figure(t *test, p *peer) (figure, bool) {
	var all, quiet []*sample
	for _, s := range r.samples {
		if s.Test == t.name && s.Peer == p.name {
			all = append(all, s)
			if s.Others <= noisy {
				quiet = append(quiet, s)
			}
		}
	}
	if len(all) == 0 {
		return figure{}, false
	}
	f := figure{peer: p.name}
	if len(quiet) >= 3 {
		f.dropped = len(all) - len(quiet)
		all = quiet
	}
	f.rounds = len(all)
	of := func(field func(*sample) float64) float64 { return median(all, field) }
	value := func(s *sample) float64 { return s.Value }
	f.value = of(value)
	f.low = value(slices.MinFunc(all, func(a, b *sample) int { return cmp.Compare(a.Value, b.Value) }))
	f.high = value(slices.MaxFunc(all, func(a, b *sample) int { return cmp.Compare(a.Value, b.Value) }))
	f.rate, f.p50 = of(func(s *sample) float64 { return s.Rate }), of(func(s *sample) float64 { return s.P50 })
	f.p99, f.p999 = of(func(s *sample) float64 { return s.P99 }), of(func(s *sample) float64 { return s.P999 })
	f.greet, f.in = of(func(s *sample) float64 { return s.Greet }), of(func(s *sample) float64 { return s.Login })
	f.noop, f.slab = of(func(s *sample) float64 { return s.Noop }), of(func(s *sample) float64 { return s.Slab })
	f.cpu = of(func(s *sample) float64 { return s.CPU })
	f.left = of(func(s *sample) float64 { return s.Left })
	f.fds = of(func(s *sample) float64 { return s.FDs })
	return f, true
}

func median(list []*sample, field func(*sample) float64) float64 {
	var v []float64
	for _, s := range list {
		v = append(v, field(s))
	}
	slices.Sort(v)
	return (v[len(v)/2] + v[(len(v)-1)/2]) / 2
}

// print writes a test's part of the table.
func (r *runner) print(to io.Writer, t *test) {
	list := r.figures(t)
	if len(list) == 0 {
		return
	}
	fmt.Fprintf(to, "\n%s: %s\n", t.name, t.title)
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', tabwriter.AlignRight)
	defer w.Flush()
	switch t.unit {
	case "KiB":
		fmt.Fprint(w, "peer\tKiB\tleast–most\tmailmux/peer\tafter them\tkernel KiB\tdescriptors\t\n")
	case "ms CPU/MB":
		fmt.Fprint(w, "peer\tms CPU/MB\tleast–most\tmailmux/peer\tMB/s\t\n")
	default:
		fmt.Fprintf(w, "peer\t%s\tleast–most\tmailmux/peer\tCPU µs\tops/s\tp50 µs\tp99\tp99.9\tgreeting\tlogin\tNOOP\t\n", t.unit)
	}
	for _, f := range list {
		ratio, digits := "", 0
		if f.ratio > 0 {
			ratio = fmt.Sprintf("%.2f", 1/f.ratio)
		}
		if f.value < 100 {
			digits = 1
		}
		if f.value < 10 {
			digits = 3
		}
		value, spread := fmt.Sprintf("%.*f", digits, f.value), fmt.Sprintf("%.*f–%.*f", digits, f.low, digits, f.high)
		if f.value == 0 { // direct: there is no proxy to use CPU time
			value, spread = "–", ""
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t", f.peer, value, spread, ratio)
		switch t.unit {
		case "KiB":
			fmt.Fprintf(w, "%.1f\t%.1f\t%.1f\t\n", f.left, f.slab, f.fds)
		case "ms CPU/MB":
			fmt.Fprintf(w, "%.0f\t\n", f.rate)
		default:
			fmt.Fprintf(w, "%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t\n", f.cpu, f.rate, f.p50, f.p99, f.p999, f.greet, f.in, f.noop)
		}
	}
}

// kernel is the system's version.
func kernel() string {
	text, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return runtime.GOOS
	}
	return "Linux " + strings.TrimSpace(string(text))
}

// report writes the table and the figures.
func (r *runner) report() error {
	file, err := os.Create(filepath.Join(r.out, "results.txt"))
	if err != nil {
		return err
	}
	defer file.Close()
	fmt.Fprintf(file, "%s, %d processors, %s.\n", time.Now().Format(time.DateOnly), runtime.NumCPU(), kernel())
	fmt.Fprintf(file, "%d rounds of %s, %d accounts. Medians, with the least and the most. mailmux/peer below 1: mailmux needs less.\n",
		r.rounds, r.long, r.accounts)
	for _, p := range peers() {
		if p.note != "" {
			fmt.Fprintf(file, "%s: %s\n", p.name, p.note)
		}
	}
	for _, t := range tests() {
		r.print(file, t)
	}
	figures := filepath.Join(r.out, "figures")
	if err := os.MkdirAll(figures, 0o755); err != nil {
		return err
	}
	for _, t := range tests() {
		if list := r.figures(t); len(list) > 0 {
			if err := os.WriteFile(filepath.Join(figures, t.name+".svg"), plot(t, list), 0o644); err != nil {
				return err
			}
		}
	}
	return file.Close()
}
