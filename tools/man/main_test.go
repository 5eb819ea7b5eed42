package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestForms has each form of a document in a page, and lines that would be requests of roff.
func TestForms(t *testing.T) {
	dir := t.TempDir()
	const document = "# Title\n\n.Start of text, of FreeBSD's (FreeBSD). Second `sentence -x`. " +
		"Long `code that does not fit into the rest of a line of seventy-eight columns` here.\n\n## Part\n\n" +
		"A [link](policy.md#blocks) and\n*more*.\n\n    .code\n    a\\b\n\n- one\n- two\n\n" +
		"| flag | |\n| --- | --- |\n| `-f`, `--file` | a FILE |\n| `--all` | all |\n\n" +
		"| mode | what | when |\n| --- | --- | --- |\n| `nat` | \"own\" | later |\n\n## Other\n\nnot here\n"
	if err := os.WriteFile(filepath.Join(dir, "a.md"), []byte(document), 0o600); err != nil {
		t.Fatal(err)
	}
	p := page{name: "a", section: "8", about: "test", also: []string{"c 8", "b 5"},
		parts: []part{{file: "a.md", heading: "DESCRIPTION"}, {file: "a.md", title: "Part"}}}
	text, err := p.mdoc(dir, dateOf(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{".Dd January 2, 2026\n.Dt A 8\n", "\n\\&.Start of text, of\n.Fx Ns \\(aqs\n.Pf ( Fx ) .\nSecond",
		"\\fBsentence\\~\\-x\\fP.\n", ".Sh PART\nA link (freejail-policy(5)) and \\fImore\\fP.\n", "\n\\&.code\na\\eb\n.Ed\n",
		".Bl -bullet\n.It\none\n.It\ntwo\n.El\n", ".It Fl f , Fl -file\na FILE\n.It Fl -all\nall\n",
		".It \"\\fBnat\\fP\"\nwhat: \"own\"\n.br\nwhen: later\n", ".Sh SEE ALSO\n.Xr b 5 ,\n.Xr c 8\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
	if strings.Contains(text, "not here") {
		t.Error("a section of no page is in it")
	}
	if strings.Contains(text, "\\\n") {
		t.Errorf("a line ends within code:\n%s", text)
	}
	p.parts = []part{{file: "a.md", title: "Nothing"}}
	if _, err := p.mdoc(dir, dateOf(t)); err == nil {
		t.Error("a section that is not there was found")
	}
}

func dateOf(t *testing.T) time.Time {
	t.Helper()
	day, err := time.Parse(time.DateOnly, "2026-01-02")
	if err != nil {
		t.Fatal(err)
	}
	return day
}
