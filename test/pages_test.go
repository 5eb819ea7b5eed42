package test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// block is indented code of a page.
type block struct {
	page, text string // without the indentation
	line       int    // its first
	section    string // the heading above
}

// readBlocks are a page's, in their order. A blank line does not end one; another kind of text after it does.
func readBlocks(t *testing.T, page string) (out []block) {
	t.Helper()
	text, err := os.ReadFile(page)
	check(t, err)
	section, inList := "", false
	for i, line := range strings.Split(string(text), "\n") {
		switch {
		case strings.HasPrefix(line, "#"):
			section = strings.TrimLeft(line, "# ")
			fallthrough
		case line != "" && !strings.HasPrefix(line, " "):
			inList = strings.HasPrefix(line, "- ") || strings.HasPrefix(line, "1. ")
		case !inList && strings.HasPrefix(line, "    "):
			if n := len(out); n > 0 && out[n-1].ends() == i {
				out[n-1].text += line[4:] + "\n"
				continue
			}
			out = append(out, block{page, line[4:] + "\n", i + 1, section})
		}
	}
	return out
}

func (b block) ends() int { return b.line + strings.Count(b.text, "\n") - 1 }

// The kinds of code of the pages.
const (
	shellCode = "commands"
	jailfile  = "Jailfile"
	hclCode   = "HCL"
)

var (
	instruction = regexp.MustCompile(`^(FROM|RUN|ARG|COPY) `)
	hclLine     = regexp.MustCompile(`^([a-z_]+ += |[a-z_]+( "[^"]+")? \{)`)
)

func (b block) kind() string {
	first, _, _ := strings.Cut(b.text, "\n")
	switch {
	case instruction.MatchString(first):
		return jailfile
	case hclLine.MatchString(first):
		return hclCode
	}
	return shellCode
}

// commands are the lines of a block, those that a backslash continues as one, without comments.
func (b block) commands() (out []string) {
	more := ""
	for line := range strings.Lines(b.text) {
		line = strings.TrimSpace(more + strings.TrimSpace(line))
		if more = ""; strings.HasSuffix(line, `\`) {
			more = strings.TrimSuffix(line, `\`)
			continue
		}
		if at := comment.FindStringIndex(line); at != nil {
			line = strings.TrimSpace(line[:at[0]])
		}
		if line != "" {
			out = append(out, line)
		}
	}
	return out
}

var comment = regexp.MustCompile(`(^|\s)#`)
