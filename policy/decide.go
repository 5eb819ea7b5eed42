package policy

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/freejail/freejail/internal/imagename"
	"github.com/freejail/freejail/internal/printable"
)

// appliesTo tells whether a block is about a subject. A block that names none
// is about all. Signers must be verified ones. What denies or requires is about
// an image by whichever of its names.
func (b *block) appliesTo(s Subject, byAnyName bool) bool { return b.isAbout(s, s.names(byAnyName)) }

func (s Subject) names(byAny bool) []string {
	if byAny {
		out := append(imagename.Aliases(s.Image), imagename.Aliases(s.Repository)...)
		for _, name := range s.Also {
			out = append(append(out, imagename.Aliases(name)...), imagename.Aliases(RepositoryOf(name))...)
		}
		return out
	}
	return []string{imagename.Canonical(s.Image), imagename.Canonical(s.Repository)}
}

func (b *block) isAbout(s Subject, names []string) bool {
	one := func(list []string, f func(glob string) bool) bool {
		return len(list) == 0 || slices.ContainsFunc(list, f)
	}
	return one(b.digests, func(d string) bool { return d == s.Digest }) &&
		one(b.images, func(g string) bool {
			return slices.ContainsFunc(names, func(name string) bool { return imageGlob(g, name) })
		}) &&
		one(b.signers, func(g string) bool {
			return slices.ContainsFunc(s.Signers, func(name string) bool { return glob(g, name) })
		}) &&
		one(b.namespaces, func(g string) bool { return s.Namespace != "" && glob(g, s.Namespace) }) &&
		one(b.jobs, func(g string) bool { return s.Job != "" && glob(g, s.Job) })
}

// glob is path.Match; patterns were checked when they were read.
func glob(pattern, s string) bool {
	ok, err := path.Match(pattern, s)
	return err == nil && ok
}

// imageGlob takes /** at the end for everything below.
func imageGlob(pattern, name string) bool {
	if above, deep := strings.CutSuffix(pattern, "/**"); deep {
		n := strings.Count(above, "/") + 1
		parts := strings.Split(name, "/")
		return len(parts) > n && glob(above, strings.Join(parts[:n], "/"))
	}
	return glob(pattern, name)
}

// scope tells which blocks of a table are about a subject.
type scope map[*block]bool

func (t *table) scope(s Subject, byAnyName bool) scope {
	out, names := scope{}, s.names(byAnyName)
	for _, b := range t.blocks {
		if b.isAbout(s, names) {
			out[b] = true
		}
	}
	return out
}

// about tells whether an entry is in scope for a request of a source.
func (e *entry) about(in scope, from Source) bool {
	return in[e.block] && (len(e.block.froms) == 0 || slices.Contains(e.block.froms, string(from)))
}

// Decide judges requests: a deny wins over everything, then a permit or an
// approval of this digest is needed. It judges all requests of a task at once,
// as some permits bound their sum.
func (p *Policy) Decide(s Subject, reqs []Request, approvals []Approval) Decision {
	d := Decision{Allowed: true, Results: make([]Result, 0, len(reqs))}
	now := time.Now()
	j := judge{Policy: p, subject: &s, allow: p.permits.scope(s, false), refuse: p.denies.scope(s, true)}
	j.approvals = slices.DeleteFunc(slices.Clone(approvals), func(a Approval) bool { return a.Digest != s.Digest || a.Expired(now) })
	j.sums = p.permits.sums(&s, reqs, j.allow)
	for _, r := range reqs {
		res := Result{Request: r}
		j.decide(&res)
		if !res.Allowed {
			d.Allowed = false
			if !res.Denied {
				res.Permit = permitBlock(s, r)
			}
		}
		d.Results = append(d.Results, res)
	}
	for _, q := range p.requires {
		if q.block.appliesTo(s, true) {
			res := q.decide(s, j.approvals)
			d.Allowed = d.Allowed && res.Allowed
			d.Results = append(d.Results, res)
		}
	}
	return d
}

// Denies tells whether anything of a kind is denied to a subject.
func (p *Policy) Denies(s Subject, kind Kind) bool {
	in := p.denies.scope(s, true)
	return slices.ContainsFunc(p.denies.entries[kind], func(e entry) bool { return in[e.block] })
}

// judge is a policy before one task.
type judge struct {
	*Policy
	subject       *Subject
	allow, refuse scope
	approvals     []Approval
	sums          map[*entry]int64
	aliases       *aliases // made when it is first needed
}

// requirement is a require block: of what it is about, one of the signers must
// have signed.
type requirement struct {
	block   *block
	signers []string // globs
}

func (q requirement) decide(s Subject, approvals []Approval) Result {
	res := Result{Request: Request{Kind: Signature, Value: strings.Join(q.signers, ","), Source: FromImage}}
	for _, name := range s.Signers {
		if slices.ContainsFunc(q.signers, func(g string) bool { return glob(g, name) }) {
			res.Allowed, res.Reason = true, "signed by "+name
			return res
		}
	}
	for _, ap := range approvals {
		if ap.Covers(res.Request) {
			res.Allowed, res.Reason = true, fmt.Sprintf("approved by %s on %s: %s", ap.By, ap.At.Format(time.DateOnly), ap.Why)
			return res
		}
	}
	res.Reason = "required at " + q.block.where + ", and none was verified for this digest and repository"
	return res
}

func (j *judge) decide(res *Result) {
	a := newAsk(res.Request, j.subject)
	if where, err := j.touching(&a); err != nil {
		res.Reason, res.Denied = fmt.Sprintf("the host's denies cannot be compared: %v", err), true
		return
	} else if where != "" {
		res.Reason, res.Denied = "denied at "+where, true
		return
	}
	where, err := j.covering(&a)
	if where != "" {
		res.Allowed, res.Reason = true, "permitted at "+where
		return
	}
	for _, ap := range j.approvals {
		if ap.Covers(res.Request) {
			res.Allowed, res.Reason = true, fmt.Sprintf("approved by %s on %s: %s", ap.By, ap.At.Format(time.DateOnly), ap.Why)
			return
		}
	}
	res.Reason = "no permit covers it"
	if err != nil {
		res.Reason = err.Error()
	}
}

func (j *judge) covering(a *ask) (string, error) {
	t := &j.permits
	list := t.entries[a.Kind]
	if a.Kind == Devfs {
		if t.devfs == nil {
			return "", errors.New("devfs rules cannot be compared here")
		}
		by, err := t.devfs.Covering(a.Value, func(i int) bool { return list[i].about(j.allow, a.Source) })
		var where []string
		for _, i := range by {
			where = append(where, list[i].where)
		}
		return strings.Join(where, " and "), err
	}
	var over error
	where := t.first(a, false, func(e *entry) bool {
		if !e.covers(a) || !e.about(j.allow, a.Source) {
			return false
		}
		if err := j.within(e); err != nil {
			over = err
			return false
		}
		return true
	})
	return where, over
}

// first is the place of the first entry that f takes.
func (t *table) first(a *ask, wide bool, f func(*entry) bool) (where string) {
	l, ok := t.lookups[a.Kind]
	if !ok {
		return ""
	}
	list := t.entries[a.Kind]
	l.each(a, wide, func(i int) bool {
		if f(&list[i]) {
			where = list[i].where
		}
		return where != ""
	})
	return where
}

func (j *judge) touching(a *ask) (string, error) {
	t := &j.denies
	list := t.entries[a.Kind]
	if len(list) == 0 {
		return "", nil
	}
	if a.Kind == Devfs {
		i, err := t.devfs.Touching(a.Value, func(i int) bool { return list[i].about(j.refuse, a.Source) })
		if err != nil || i < 0 {
			return "", err
		}
		return list[i].where, nil
	}
	where := t.first(a, true, func(e *entry) bool { return e.touches(a) && e.about(j.refuse, a.Source) })
	if where == "" && a.Kind == Mount && a.mount.fstype == nullfs {
		where = j.touchingAlias(a)
	}
	return where, nil
}

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
	return "permit {\n" + narrow + "  " + r.permitText() + "\n}"
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
			by := ", asked for by the " + string(r.Source)
			if r.Kind == Signature {
				by = ""
			}
			printable.Fprintf(&b, "\n  %s%s: %s", r.Request, by, r.Reason)
			denied = denied || r.Denied
		}
	}
	if cmd := d.ApproveCommand(s); cmd != "" {
		fmt.Fprintf(&b, "\nAn operator of this host can approve it for this image alone:\n  %s", cmd)
	}
	if denied {
		b.WriteString("\nNo approval goes over what is denied: the host's policy file would have to change.")
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
		return fmt.Sprintf("%s %s %s   (it has %d refused requests: see `freejail policy check`)", words[0], words[1], words[2], n)
	}
	return strings.Join(words, " ")
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
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_./:@=+,-", r)
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
