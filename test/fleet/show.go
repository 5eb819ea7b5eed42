package fleet

import (
	"fmt"
	"html"
	"math"
	"strings"
	"time"
)

// table is one of docs/scale.md.
type table struct {
	head []string
	rows [][]string
}

func (t *table) add(cells ...any) {
	row := make([]string, len(cells))
	for i, c := range cells {
		switch v := c.(type) {
		case time.Duration:
			row[i] = short(v)
		case float64:
			row[i] = fmt.Sprintf("%.3g", v)
		default:
			row[i] = fmt.Sprint(v)
		}
	}
	t.rows = append(t.rows, row)
}

// String is the table in Markdown.
func (t *table) String() string {
	var b strings.Builder
	line := func(cells []string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	line(t.head)
	line(strings.Split(strings.Repeat("--- ", len(t.head)-1)+"---", " "))
	for _, r := range t.rows {
		line(r)
	}
	return b.String()
}

// short is a time as people say it.
func short(d time.Duration) string {
	switch {
	case d < 0:
		return "never"
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d < time.Hour:
		return d.Round(time.Second).String()
	}
	return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
}

// curve is a share of the fleet over time.
type curve struct {
	name string
	at   []time.Duration // sorted, one for each host
	of   int
}

const (
	width, height       = 720, 360
	left, right         = 50, 20
	top, bottom         = 20, 40
	plotWide, plotHigh  = width - left - right, height - top - bottom
	colours             = "#0b6e99 #d1495b #3b8c3b #e09f3e #6a4c93 #555555 #00a6a6 #a0522d #999900"
	legendLine, tickMax = 16, 8
)

// plot draws curves as SVG.
func plot(title string, most time.Duration, curves []curve) string {
	var b strings.Builder
	high := height + legendLine*len(curves) + 4
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" `+
		`font-family="sans-serif" font-size="12">`+"\n", width, high)
	fmt.Fprintf(&b, "<title>%s</title>\n<rect width=\"%d\" height=\"%d\" fill=\"white\"/>\n", html.EscapeString(title),
		width, high)
	x := func(d time.Duration) float64 { return left + plotWide*min(1, float64(d)/float64(most)) }
	y := func(share float64) float64 { return top + plotHigh*(1-share) }
	for i := range 5 {
		share := float64(i) / 4
		fmt.Fprintf(&b, `<path d="M%d %.1fH%d" stroke="#ddd"/>`+"\n"+
			`<text x="%d" y="%.1f" text-anchor="end">%d %%</text>`+"\n",
			left, y(share), width-right, left-6, y(share)+4, i*25)
	}
	step := tick(most)
	for at := time.Duration(0); at <= most; at += step {
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n", x(at), height-bottom+18,
			minutesOf(at))
	}
	for i, c := range curves {
		colour := strings.Fields(colours)[i%9]
		fmt.Fprintf(&b, `<path fill="none" stroke="%s" stroke-width="2" d="M%d %.1f`, colour, left, y(0))
		last := 0.0
		for n, at := range c.at {
			share := float64(n+1) / float64(c.of)
			if at > most {
				break
			}
			if share-last >= 0.005 || n == 0 || n == len(c.at)-1 {
				fmt.Fprintf(&b, "H%.1fV%.1f", x(at), y(share))
				last = share
			}
		}
		fmt.Fprintf(&b, "\"/>\n"+`<path d="M%d %dh20" stroke="%s" stroke-width="2"/><text x="%d" y="%d">%s</text>`+"\n",
			left, height+legendLine*i, colour, left+26, height+legendLine*i+4,
			html.EscapeString(strings.ReplaceAll(c.name, "`", "")))
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// tick is a whole number of minutes between two marks.
func tick(most time.Duration) time.Duration {
	for _, m := range []time.Duration{1, 2, 5, 10, 15, 30, 60, 120, 240} {
		if most/(m*time.Minute) <= tickMax {
			return m * time.Minute
		}
	}
	return most / tickMax
}

func minutesOf(d time.Duration) string { return fmt.Sprintf("%d min", int(math.Round(d.Minutes()))) }
