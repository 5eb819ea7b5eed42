package policy

import (
	"fmt"
	"strings"

	"github.com/freejail/freejail/internal/imagename"
	"github.com/freejail/freejail/internal/printable"
)

// permitBlock is what an operator would add to the host's file, for all digests
// of the image.
func permitBlock(s Subject, r Request) string {
	name := s.Repository
	if name == "" {
		name = s.Image
	}
	narrow := ""
	if name != "" {
		narrow = fmt.Sprintf("  images = [%s]\n", quoteHCL(escapeGlob(name)))
	}
	return "permit {\n" + narrow + "  " + r.permit() + "\n}"
}

// Err is nil where everything is allowed; otherwise it names every refused
// request, why, and how an operator can approve it.
func (d Decision) Err(s Subject) error {
	if d.Allowed {
		return nil
	}
	var b strings.Builder
	printable.Fprintf(&b, "the host's policy refuses image %s:", s.Image)
	denied := false
	for _, r := range d.Results {
		if !r.Allowed {
			by := ""
			if !r.required {
				by = ", asked for by the " + string(r.Source)
				if s.ByHand && r.Source == FromJob {
					by = ", asked for by the command line"
				}
			}
			printable.Fprintf(&b, "\n  %s%s: %s", r.Request, by, r.Reason)
			denied = denied || r.Denied
		}
	}
	if cmd := d.ApproveCommand(s); cmd != "" {
		fmt.Fprintf(&b, "\nAn operator of this host can approve it for this image alone:\n  %s", cmd)
	}
	if cmd := d.SignCommand(s); cmd != "" {
		fmt.Fprintf(&b, "\n%s can approve it so for all hosts that have the key:\n  %s", d.givers(), cmd)
	}
	if denied {
		b.WriteString("\nA deny cannot be approved: the host's policy file would have to change.")
	}
	return &RefusedError{Text: b.String()}
}

// maxShown bounds a command line that has to be read.
const maxShown = 40

// ApproveCommand is what an operator would run to approve what is refused;
// empty where a deny is in the way of all.
func (d Decision) ApproveCommand(s Subject) string {
	words := []string{"freejail policy approve", shellQuote(refOf(s)), `--reason "..."`}
	n := 0
	seen := map[string]bool{}
	for _, r := range d.Results {
		if key := r.Key(); !r.Allowed && !r.Denied && !seen[key] {
			seen[key] = true
			if n++; n <= maxShown {
				words = append(words, "--request "+shellQuote(key))
			}
		}
	}
	switch {
	case n == 0:
		return ""
	case n > maxShown:
		return fmt.Sprintf("%s   (it has %d refused requests: see `freejail policy check`)",
			strings.Join(words[:3], " "), n)
	}
	return strings.Join(words, " ")
}

// givers are those of SignCommand in words.
func (d Decision) givers() string {
	if len(d.Givers) == 1 {
		return "Approver " + d.Givers[0]
	}
	return "Each of the approvers " + strings.Join(d.Givers, ", ")
}

// SignCommand is what one of the approvers would run to approve what is refused for all hosts that honour the key;
// empty where none may, and of an image without a registry, to which no approval is attached.
func (d Decision) SignCommand(s Subject) string {
	cmd := d.ApproveCommand(s)
	if cmd == "" || len(d.Givers) == 0 || !imagename.IsReference(s.Repository) {
		return ""
	}
	return strings.Replace(cmd, `--reason "..."`, `--sign KEY --expires 90d --reason "..."`, 1)
}

func refOf(s Subject) string {
	if s.Repository == "" || !strings.HasPrefix(s.Digest, "sha256:") {
		return s.Digest
	}
	return s.Repository + "@" + s.Digest
}

// shellQuote makes one word for a shell, whatever an image has written.
func shellQuote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' ||
			strings.ContainsRune("_./:@=+,-", r)
	}
	switch {
	case s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }):
		return s
	case printable.Text(s) != s || strings.Contains(s, "\n"):
		return dollarQuote(s)
	case !strings.Contains(s, "'"):
		return "'" + s + "'"
	case !strings.ContainsAny(s, "\"$`\\!"):
		return `"` + s + `"`
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// dollarQuote is a word by the bytes of what is not seen as it is, for sh(1).
func dollarQuote(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' || c == '\'' || c == '\\' {
			fmt.Fprintf(&b, `\%03o`, c)
		} else {
			b.WriteByte(c)
		}
	}
	return "$'" + b.String() + "'"
}

// RefusedError is the policy's refusal of a task.
type RefusedError struct{ Text string }

func (e *RefusedError) Error() string { return e.Text }

// Printable is the text with its lines: they are the policy's.
func (e *RefusedError) Printable() string { return e.Text }

var hclEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`, "${", "$${", "%{", "%%{")

// quoteHCL is a string of HCL that is seen as it is. What is no UTF-8 has no form
// there.
func quoteHCL(s string) string {
	if strings.ContainsAny(s, "\\\"\n\t$%") {
		s = hclEscapes.Replace(s)
	}
	if printable.Text(s) == s {
		return `"` + s + `"`
	}
	var b strings.Builder
	for _, r := range s {
		switch one := string(r); {
		case printable.Text(one) == one:
			b.WriteRune(r)
		case r > 0xffff:
			fmt.Fprintf(&b, `\U%08x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return `"` + b.String() + `"`
}
