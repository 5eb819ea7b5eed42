package testmanual

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Pages are the files of the documentation, found from a package's directory that lies so deep. None in a bundle.
func Pages(t *testing.T, root string) (list []string) {
	t.Helper()
	for _, pattern := range []string{"*.md", "docs/*.md", "example/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, found...)
	}
	if len(list) == 0 {
		t.Skip("the documentation is not here")
	}
	return list
}

// Block is indented code of a page.
type Block struct {
	Page, Text string // the text without the indentation
	Line       int    // its first in the page
}

// Blocks are a page's, in their order. A blank line ends one, as what follows may be of another kind. What stands
// between fences is what a program prints.
func Blocks(t *testing.T, page string) (out []Block) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	inList, printed := false, false
	for i, line := range strings.Split(string(text), "\n") {
		switch {
		case strings.HasPrefix(line, "```"):
			printed = !printed
		case printed:
		case line != "" && !strings.HasPrefix(line, " "):
			inList = strings.HasPrefix(line, "- ") || strings.HasPrefix(line, "1. ")
		case !inList && strings.HasPrefix(line, "    "):
			if n := len(out); n > 0 && out[n-1].ends() == i {
				out[n-1].Text += line[4:] + "\n"
				continue
			}
			out = append(out, Block{page, line[4:] + "\n", i + 1})
		}
	}
	return out
}

func (b Block) ends() int { return b.Line + strings.Count(b.Text, "\n") - 1 }

// Kind of code.
type Kind int

// The kinds of the pages. Shell is what is none of the others.
const (
	Shell Kind = iota
	Jailfile
	HCL
)

var (
	instruction = regexp.MustCompile(`^(FROM|RUN|ARG|COPY) `)
	hclLine     = regexp.MustCompile(`^([a-z_]+ += |[a-z_]+( "[^"]+")? \{)`)
	comment     = regexp.MustCompile(`(^|\s)#`)
)

// Kind tells it by the first line.
func (b Block) Kind() Kind {
	first, _, _ := strings.Cut(b.Text, "\n")
	switch {
	case instruction.MatchString(first):
		return Jailfile
	case hclLine.MatchString(first):
		return HCL
	}
	return Shell
}

// Commands are the lines of a block, those that a backslash continues as one, without comments.
func (b Block) Commands() (out []string) {
	more := ""
	for line := range strings.Lines(b.Text) {
		line = more + strings.TrimSpace(line)
		if more = ""; strings.HasSuffix(line, `\`) {
			more = strings.TrimSuffix(line, `\`)
			continue
		}
		if at := comment.FindStringIndex(line); at != nil {
			line = line[:at[0]]
		}
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	return out
}
