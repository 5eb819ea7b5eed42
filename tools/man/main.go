// Command man makes manual pages in mdoc(7) of the documentation: one source for those who read it on the web and
// those who use man(1).
package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// page is one manual page, and of what it is made.
type page struct {
	name, section string
	about         string   // for whatis(1)
	synopsis      string   // in mdoc
	parts         []part   // in the order of the page
	also          []string // other manual pages, as NAME SECTION
}

// part is a section of a document, or a file that is shown as it is.
type part struct {
	file    string // below the repository's root
	title   string // of the section; empty is what stands before the first
	heading string // in the page; empty is the title
	whole   bool   // all sections, those of the document as subsections
}

// of are parts of a document by the titles of its sections.
func of(file string, titles ...string) (parts []part) {
	for _, t := range titles {
		parts = append(parts, part{file: file, title: t})
	}
	return parts
}

func pages() []page {
	return []page{
		{"freejail", "8", "production containers on FreeBSD",
			".Nm\n.Op Fl -socket Ar SOCKET\n.Op Fl -json\n.Ar command\n.Op Ar flags",
			slices.Concat([]part{{file: "docs/cli.md", title: "freejail", heading: "DESCRIPTION"}},
				[]part{{file: "docs/cli.md", title: "Common to both", heading: "COMMON TO BOTH PROGRAMS"}},
				of("docs/operations.md", "Daemon", "Upgrades and crashes", "Ends of tasks, and leftovers",
					"Shutdown and reboot", "Troubleshooting"),
				[]part{{file: "docs/metrics.md", heading: "METRICS", whole: true}}),
			[]string{"freejail-build 1", "freejail-policy 5", "freejail.hcl 5", "jail 8", "rctl 8", "service 8"}},
		{"freejail-build", "1", "build, inspect, copy, sign and serve images of freejail",
			".Nm\n.Ar command\n.Op Ar flags",
			slices.Concat([]part{{file: "docs/cli.md", title: "freejail-build", heading: "DESCRIPTION"}},
				[]part{{file: "docs/cli.md", title: "Common to both", heading: "COMMON TO BOTH PROGRAMS"}},
				of("docs/registries.md", "References", "Pull", "Serve", "Signatures", "Troubleshooting")),
			[]string{"Jailfile 5", "freejail-policy 5", "freejail 8"}},
		{"freejail.hcl", "5", "configuration of a host of freejail", "",
			slices.Concat([]part{{file: "example/host/freejail.hcl", heading: "DESCRIPTION"},
				{file: "docs/registries.md", title: "The host's configuration", heading: "REGISTRIES"}},
				[]part{{file: "docs/networks.md", heading: "NETWORKS", whole: true},
					{file: "docs/storage.md", heading: "STORAGE", whole: true},
					{file: "docs/nfs.md", heading: "ROOTS OVER NFS", whole: true},
					{file: "docs/limits.md", heading: "LIMITS OF TASKS", whole: true}}),
			[]string{"freejail-policy 5", "freejail 8", "pf.conf 5"}},
		{"Jailfile", "5", "recipes of images of freejail", "",
			slices.Concat([]part{{file: "docs/jailfile.md", heading: "DESCRIPTION"}},
				[]part{{file: "docs/jailfile.md", title: "Files", heading: "COPYING FILES"}},
				of("docs/jailfile.md", "Cache", "The program"),
				[]part{{file: "docs/jailfile.md", title: "Description", heading: "DESCRIBING THE IMAGE"}},
				of("docs/jailfile.md", "Requests", "Containerfiles and Dockerfiles", "Bastillefiles", "Base images"),
				[]part{{file: "docs/manifest.md", heading: "THE MANIFEST"}},
				of("docs/manifest.md", "For people", "parameters", "ports", "requires", "Files", "Its end",
					"Beside the manifest", "What validate reports")),
			[]string{"freejail-build 1", "freejail-policy 5"}},
		{"freejail-policy", "5", "what images may have on a host of freejail", "",
			slices.Concat([]part{{file: "docs/policy.md", heading: "DESCRIPTION"}},
				of("docs/policy.md", "Requests", "Blocks", "Networks", "Sets", "Check and test", "Approvals",
					"Approvals of a fleet", "devfs rulesets", "Metrics")),
			[]string{"freejail-build 1", "freejail.hcl 5", "devfs.rules 5", "freejail 8"}},
	}
}

func main() {
	root := flag.String("root", "..", "the repository")
	dir := flag.String("o", "", "the directory of the pages")
	date := flag.String("date", "", "of the documentation, as 2006-01-02")
	flag.Parse()
	if err := write(*root, *dir, *date); err != nil {
		fmt.Fprintln(os.Stderr, "man:", err)
		os.Exit(1)
	}
}

func write(root, dir, date string) error {
	day, err := time.Parse(time.DateOnly, date)
	if err != nil {
		return err
	}
	if dir == "" {
		return errors.New("-o is needed")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, p := range pages() {
		text, err := p.mdoc(root, day)
		if err != nil {
			return fmt.Errorf("%s(%s): %w", p.name, p.section, err)
		}
		if err := os.WriteFile(filepath.Join(dir, p.name+"."+p.section), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// mdoc is the source of a page.
func (p page) mdoc(root string, day time.Time) (string, error) {
	w := &writer{}
	w.macro("Dd", day.Format("January 2, 2006"))
	w.macro("Dt", strings.ToUpper(p.name), p.section)
	w.macro("Os")
	w.macro("Sh", "NAME")
	w.macro("Nm", p.name)
	w.macro("Nd", p.about)
	if p.synopsis != "" {
		w.macro("Sh", "SYNOPSIS")
		w.WriteString(p.synopsis + "\n")
	}
	for _, part := range p.parts {
		if err := w.part(root, part); err != nil {
			return "", fmt.Errorf("%s: %w", part.file, err)
		}
	}
	w.macro("Sh", "SEE ALSO")
	slices.SortFunc(p.also, bySection)
	for i, also := range p.also {
		end := " ,"
		if i == len(p.also)-1 {
			end = ""
		}
		w.macro("Xr", also+end)
	}
	return w.String(), nil
}

// bySection is the order of manual pages in lists of them.
func bySection(a, b string) int {
	x, y := strings.Fields(strings.ToLower(a)), strings.Fields(strings.ToLower(b))
	return cmp.Or(strings.Compare(x[1], y[1]), strings.Compare(x[0], y[0]))
}
