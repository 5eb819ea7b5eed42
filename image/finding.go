package image

import "fmt"

// Severity of a finding.
type Severity string

// An image with an error cannot be used, or not as it says of itself. A warning
// is a mistake that does no harm. A note is worth to be known.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
	Note    Severity = "note"
)

// Finding is something that is wrong with an image, or worth to be known.
type Finding struct {
	Severity Severity `json:"severity"`
	Code     string   `json:"code"`  // such as blob-digest: what kind of thing it is
	Where    string   `json:"where"` // such as "layer 2"
	Text     string   `json:"text"`
}

func (f Finding) String() string {
	return fmt.Sprintf("%-7s  %s: %s: %s", f.Severity, f.Code, f.Where, f.Text)
}

// Findings collects them, up to a number that keeps a hostile image from
// flooding a terminal. The zero value is ready.
type Findings struct {
	List   []Finding
	counts map[Severity]int
}

const maxFindings = 200 // of a severity

// Add formats a finding.
func (l *Findings) Add(s Severity, code, where, format string, a ...any) {
	if l.counts == nil {
		l.counts = map[Severity]int{}
	}
	switch l.counts[s]++; {
	case l.counts[s] <= maxFindings:
		l.List = append(l.List, Finding{s, code, where, fmt.Sprintf(format, a...)})
	case l.counts[s] == maxFindings+1:
		l.List = append(l.List, Finding{s, "more", where, "there are more than are told"})
	}
}

// Errors tells how many errors there are.
func (l *Findings) Errors() int { return l.counts[Error] }
