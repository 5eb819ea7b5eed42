package soak

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
)

// sample is what the daemon holds at the end of a round, when nothing but the tasks that live on is there. Life
// changes with its process, generation with its upgrades too.
type sample struct {
	round            int
	fault            string
	life, generation string
	values           [figures]float64
}

// The figures of a sample: heap and resident memory in KiB.
const (
	heap = iota
	resident
	descriptors
	threads
	goroutines
	files // of the state directory
	figures
)

// limits are how each figure may grow. Slack is by how much the last rounds may be above the first, rate by how much
// a round may add on average, once a daemon is warm rounds old: until then it fills what it keeps of the past, as its
// newest 1,024 events. An upgrade begins with an empty heap and keeps descriptors.
var limits = [figures]struct {
	name        string
	slack, rate float64
	warm        int
	upgraded    bool
}{
	heap:        {"heap KiB", 8 << 10, 16, 10, true},
	resident:    {"resident KiB", 64 << 10, 128, 10, true},
	descriptors: {"descriptors", 16, 0.2, 2, false},
	threads:     {"threads", 24, 0.2, 4, true},
	goroutines:  {"goroutines", 24, 0.2, 2, true},
	files:       {"files", 24, 0.2, 2, false},
}

// enough are the steps of which an average is a judgement.
const enough = 12

// grown tells which figures have grown beyond their limits, in words.
func grown(samples []sample) (out []string) {
	for f, l := range limits {
		if first, last, is := ends(samples, f); is && last > first+l.slack {
			out = append(out, fmt.Sprintf("%s: %.0f in the first rounds, %.0f in the last: more than %.0f above",
				l.name, first, last, l.slack))
		}
		steps := steps(samples, f)
		if mean, deviation := average(steps); len(steps) >= enough && mean-3*deviation > l.rate {
			out = append(out, fmt.Sprintf("%s: %.2f more with each of %d rounds (give or take %.2f), at most %.2f are "+
				"in order", l.name, mean, len(steps), deviation, l.rate))
		}
	}
	return out
}

// ends are the medians of the first and of the last quarter of all rounds, without the first round.
func ends(samples []sample, f int) (first, last float64, is bool) {
	if len(samples) < 5 {
		return 0, 0, false
	}
	rest := samples[1:]
	n := max(len(rest)/4, 1)
	return median(rest[:n], f), median(rest[len(rest)-n:], f), true
}

func median(samples []sample, f int) float64 {
	var values []float64
	for _, s := range samples {
		values = append(values, s.values[f])
	}
	return middle(values)
}

// steps are by how much each round added to a figure of a daemon that is warm.
func steps(samples []sample, f int) (out []float64) {
	age := 0
	for i := 1; i < len(samples); i++ {
		before, now := samples[i-1], samples[i]
		age++
		if before.life != now.life || limits[f].upgraded && before.generation != now.generation {
			age = 0
		}
		if age > limits[f].warm {
			out = append(out, now.values[f]-before.values[f])
		}
	}
	return out
}

// average is the mean of steps that follow one another, and how far it may be off: their noise is of their ends alone,
// as what one adds too much the next adds too little.
func average(steps []float64) (mean, deviation float64) {
	if len(steps) == 0 {
		return 0, 0
	}
	sum, squares := 0.0, 0.0
	for _, s := range steps {
		sum += s
	}
	mean = sum / float64(len(steps))
	for _, s := range steps {
		squares += (s - mean) * (s - mean)
	}
	return mean, math.Sqrt(squares/float64(len(steps))) / math.Sqrt(float64(len(steps)))
}

// table is the samples for who reads them: of many each so-manyth. At its end are the medians of the first and of the
// last quarter.
func table(samples []sample) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%6s %-10s", "round", "fault")
	for _, l := range limits {
		fmt.Fprintf(&b, " %13s", l.name)
	}
	row := func(head string, values [figures]float64) {
		fmt.Fprintf(&b, "\n%-17s", head)
		for _, v := range values {
			fmt.Fprintf(&b, " %13.0f", v)
		}
	}
	every := len(samples)/60 + 1
	for i, s := range samples {
		if i%every == 0 || i == len(samples)-1 {
			row(fmt.Sprintf("%6d %-10s", s.round, s.fault), s.values)
		}
	}
	var first, last [figures]float64
	for f := range limits {
		var is bool
		if first[f], last[f], is = ends(samples, f); !is {
			return b.String()
		}
	}
	row("first quarter", first)
	row("last quarter", last)
	return b.String()
}

// What grows is found, and what only goes up and down is not.
func TestGrowthIsFound(t *testing.T) {
	// noise goes up and down by its size, the same each time.
	noise := func(i int, size float64) float64 { return size * (float64(i*7919%101)/50 - 1) }
	series := func(rounds int, of func(round int, s *sample)) (out []sample) {
		for i := range rounds {
			s := sample{round: i, life: "1", generation: fmt.Sprint(i / 30), values: [figures]float64{heap: 4000 +
				noise(i, 300), resident: 60000 + noise(i, 4000), descriptors: 20 + noise(i, 3), threads: 14,
				goroutines: 40 + noise(i, 2), files: 90}}
			of(i, &s)
			out = append(out, s)
		}
		return out
	}
	for name, c := range map[string]struct {
		rounds int
		of     func(int, *sample)
		want   string
	}{
		"nothing":      {200, func(int, *sample) {}, ""},
		"a few rounds": {8, func(int, *sample) {}, ""},
		"many lives":   {200, func(i int, s *sample) { s.life = fmt.Sprint(i / 3) }, ""},
		"what is kept of the past": {200, func(i int, s *sample) { s.values[heap] += 60 * float64(min(i%30, 9)) },
			""},
		"a descriptor each round": {60, func(i int, s *sample) { s.values[descriptors] += float64(i) }, "descriptors"},
		"one every other round":   {200, func(i int, s *sample) { s.values[descriptors] += float64(i / 2) }, "descriptors"},
		"memory of each life": {300, func(i int, s *sample) { s.values[heap] += 128 * float64(i%30) },
			"heap KiB"},
		"memory that what is on disk takes": {200, func(i int, s *sample) {
			s.life = fmt.Sprint(i / 3)
			s.values[heap] += 80 * float64(i)
		}, "heap KiB"},
		"a goroutine each round": {200, func(i int, s *sample) { s.values[goroutines] += float64(i % 30) }, "goroutines"},
		"files":                  {40, func(i int, s *sample) { s.values[files] += float64(i) }, "files"},
	} {
		got := strings.Join(grown(series(c.rounds, c.of)), "; ")
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func middle(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}
