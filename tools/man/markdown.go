package main

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	table "github.com/yuin/goldmark/extension/ast"
	"github.com/yuin/goldmark/text"
)

// writer writes mdoc of a document's tree.
type writer struct {
	strings.Builder
	source []byte
}

// macro writes a line of a macro, whose arguments are mdoc.
func (w *writer) macro(name string, args ...string) {
	fmt.Fprintln(w, strings.Join(append([]string{"." + name}, args...), " "))
}

// part writes a section of a document, or a whole file as it is.
func (w *writer) part(root string, p part) error {
	source, err := os.ReadFile(filepath.Join(root, p.file))
	if err != nil {
		return err
	}
	title := p.heading
	if title == "" {
		title = p.title
	}
	w.macro("Sh", escape(strings.ToUpper(title)))
	if !strings.HasSuffix(p.file, ".md") {
		w.literal(string(source))
		return nil
	}
	w.source = source
	doc := goldmark.New(goldmark.WithExtensions(extension.Table)).Parser().Parse(text.NewReader(source))
	found := false
	first := true
	for n := doc.FirstChild(); n != nil; n = n.NextSibling() {
		if h, ok := n.(*ast.Heading); ok && (h.Level == 1 || h.Level == 2 && !p.whole) {
			found = h.Level == 1 && p.title == "" || h.Level == 2 && w.plain(h) == p.title
			continue
		}
		if found {
			if err := w.block(n, first); err != nil {
				return err
			}
			first = false
		}
	}
	if first {
		return fmt.Errorf("no section %q", p.title)
	}
	return nil
}

// block writes one block; the first of a section has no space before it.
func (w *writer) block(n ast.Node, first bool) error {
	switch n := n.(type) {
	case *ast.Heading:
		w.macro("Ss", escape(w.plain(n)))
	case *ast.Paragraph, *ast.TextBlock:
		if _, after := n.PreviousSibling().(*ast.Heading); !first && !after {
			w.macro("Pp")
		}
		w.fill(w.inline(n))
	case *ast.FencedCodeBlock, *ast.CodeBlock:
		w.literal(string(lines(n, w.source)))
	case *ast.List:
		return w.list(n)
	case *table.Table:
		w.table(n)
	case *ast.HTMLBlock: // a target of links
	default:
		return fmt.Errorf("a block of kind %s has no form in a manual page", n.Kind())
	}
	return nil
}

func lines(n ast.Node, source []byte) []byte {
	var b bytes.Buffer
	for i := range n.Lines().Len() {
		line := n.Lines().At(i)
		b.Write(line.Value(source))
	}
	return b.Bytes()
}

// literal writes text as it stands.
func (w *writer) literal(s string) {
	w.macro("Bd", "-literal", "-offset", "2n")
	for line := range strings.Lines(strings.ReplaceAll(s, "\t", "    ")) {
		fmt.Fprintln(w, guarded(escape(strings.TrimRight(line, " \n"))))
	}
	w.macro("Ed")
}

func (w *writer) list(n *ast.List) error {
	kind := "-bullet"
	if n.IsOrdered() {
		kind = "-enum"
	}
	w.macro("Bl", kind)
	for item := n.FirstChild(); item != nil; item = item.NextSibling() {
		w.macro("It")
		for b := item.FirstChild(); b != nil; b = b.NextSibling() {
			if err := w.block(b, b == item.FirstChild()); err != nil {
				return err
			}
		}
	}
	w.macro("El")
	return nil
}

// flagName is a cell of a table of flags.
var flagName = regexp.MustCompile("^(?:`-([a-zA-Z])`, )?`--([a-z0-9-]+)`$")

// table writes one as a list: the first cell of a row is the tag. Where there are more than two columns, those of
// the text begin with their titles.
func (w *writer) table(t *table.Table) {
	var titles []string
	w.macro("Bl", "-tag", "-width", "Ds")
	for row := t.FirstChild(); row != nil; row = row.NextSibling() {
		var cells []string
		var raw string
		for c := row.FirstChild(); c != nil; c = c.NextSibling() {
			if c == row.FirstChild() {
				raw = string(w.raw(c))
			}
			cells = append(cells, w.inline(c))
		}
		if _, head := row.(*table.TableHeader); head {
			titles = cells
			continue
		}
		w.tag(raw, cells[0])
		for i, c := range cells[1:] {
			if c == "" {
				continue
			}
			if title := titles[i+1]; title != "" && len(cells) > 2 {
				c = title + ": " + c
			}
			if i > 0 {
				w.macro("br")
			}
			w.fill(c)
		}
	}
	w.macro("El")
}

func (w *writer) tag(raw, cell string) {
	m := flagName.FindStringSubmatch(raw)
	switch {
	case m == nil && cell == "":
		w.macro("It", "\\&")
	case m == nil:
		w.macro("It", `"`+strings.ReplaceAll(cell, `"`, `\(dq`)+`"`)
	case m[1] == "":
		w.macro("It", "Fl", "-"+m[2])
	default:
		w.macro("It", "Fl", m[1]+" ,", "Fl", "-"+m[2])
	}
}

// raw is the source of a node of one line.
func (w *writer) raw(n ast.Node) []byte {
	if n.Type() == ast.TypeBlock && n.Lines().Len() > 0 {
		line := n.Lines().At(0)
		return bytes.TrimSpace(line.Value(w.source))
	}
	return nil
}

// plain is the text of a node.
func (w *writer) plain(n ast.Node) string {
	var b strings.Builder
	_ = ast.Walk(n, func(n ast.Node, entering bool) (ast.WalkStatus, error) { // the function gives no error
		if t, ok := n.(*ast.Text); ok && entering {
			b.Write(t.Value(w.source))
		}
		return ast.WalkContinue, nil
	})
	return b.String()
}

// inline is the text of a block with its fonts, in one line.
func (w *writer) inline(n ast.Node) string {
	var b strings.Builder
	for c := n.FirstChild(); c != nil; c = c.NextSibling() {
		switch c := c.(type) {
		case *ast.Text:
			b.WriteString(escape(string(c.Value(w.source))))
			if c.SoftLineBreak() || c.HardLineBreak() {
				b.WriteByte(' ')
			}
		case *ast.CodeSpan:
			b.WriteString(`\fB` + strings.ReplaceAll(escape(w.plain(c)), " ", `\~`) + `\fP`)
		case *ast.Emphasis:
			b.WriteString(`\fI` + w.inline(c) + `\fP`)
		case *ast.Link:
			b.WriteString(w.inline(c) + w.place(string(c.Destination)))
		case *ast.AutoLink:
			b.WriteString(escape(string(c.URL(w.source))))
		case *ast.RawHTML: // a target of links
		default:
			b.WriteString(w.inline(c))
		}
	}
	return b.String()
}

// place tells in which page a document is to which a link leads; nothing of one in this page.
func (w *writer) place(destination string) string {
	file, _, _ := strings.Cut(destination, "#")
	for _, p := range pages() {
		if file != "" && slices.ContainsFunc(p.parts, func(of part) bool { return path.Base(of.file) == path.Base(file) }) {
			return fmt.Sprintf(" (%s(%s))", p.name, p.section)
		}
	}
	return ""
}

// escape has text mean itself in mdoc. A name such as FreeBSD-runtime is not that of the system, which has a macro.
func escape(s string) string {
	return strings.NewReplacer(`\`, `\e`, "FreeBSD-", `Free\&BSD\-`, "-", `\-`,
		"`", `\(ga`, "'", `\(aq`, "^", `\(ha`, "~", `\(ti`,
		"\u2192", `\(->`, "\u2026", "...", "\u00a0", `\~`).Replace(s)
}

// guarded is a line that is no request.
func guarded(line string) string {
	if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") || line == "" {
		return `\&` + line
	}
	return line
}

// system is a word that names FreeBSD, with what stands before and after it.
var system = regexp.MustCompile(`^(\(?)FreeBSD((?:\\\(aqs)?)([.,;:)]*)$`)

// fill writes text in lines of at most 78 columns, each sentence on lines of its own.
func (w *writer) fill(s string) {
	line := ""
	flush := func() {
		if line != "" {
			fmt.Fprintln(w, guarded(line))
		}
		line = ""
	}
	words := strings.Fields(s)
	for i, word := range words {
		if m := system.FindStringSubmatch(word); m != nil {
			flush()
			w.system(m)
			continue
		}
		if len(line)+1+len(word) > 78 {
			flush()
		}
		if line += " " + word; strings.HasSuffix(word, ".") || i == len(words)-1 {
			line = strings.TrimPrefix(line, " ")
			flush()
		}
		line = strings.TrimPrefix(line, " ")
	}
	flush()
}

// system writes the macro of FreeBSD.
func (w *writer) system(m []string) {
	var words []string
	if m[1] != "" {
		words = append(words, "Pf", m[1])
	}
	words = append(words, "Fx")
	if m[2] != "" {
		words = append(words, "Ns", m[2])
	}
	for _, mark := range m[3] {
		words = append(words, string(mark))
	}
	w.macro(words[0], words[1:]...)
}
