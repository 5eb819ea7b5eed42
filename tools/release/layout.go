package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// entry is a file or a link of an archive. Its name is below the archive's one directory, and so below the prefix where
// it is installed (/usr/local): by tar's --strip-components 1.
type entry struct {
	name string
	from string // a file with the content
	link string // or what a symbolic link leads to
	run  bool   // it is a program
}

// programs are those of the release, by the packages that they are built of.
var programs = map[string]string{"freejail": ".", "freejail-build": "./cmd/freejail-build"}

const (
	docs     = "share/doc/freejail/"
	examples = "share/examples/freejail"
	samples  = ".sample" // what an operator may change is installed under another name, and copied once
)

// host are files that a system has of its own, by what they are in the source.
func (p platform) host() []entry {
	if p.os != "freebsd" {
		return []entry{{name: "lib/systemd/system/freejail.service", from: "example/systemd/freejail.service"}}
	}
	return []entry{
		{name: "etc/rc.d/freejail", from: "example/rc.d/freejail", run: true},
		{name: "etc/newsyslog.conf.d/freejail.conf" + samples, from: "example/newsyslog.conf.d/freejail.conf"},
		{name: "etc/devd/freejail.conf" + samples, from: "example/devd/freejail.conf"},
	}
}

// common are those of every system, without programs and what they print.
func (r *release) common() ([]entry, error) {
	list := []entry{
		{name: "etc/freejail.hcl" + samples, from: "example/host/freejail.hcl"},
		{name: "libexec/nomad/plugins/freejail", link: "../../../bin/freejail"},
		{name: examples, link: "../doc/freejail/example"},
	}
	for _, name := range []string{"LICENSE", "README.md", "CHANGELOG.md", "SECURITY.md", "CONTRIBUTING.md"} {
		list = append(list, entry{name: docs + name, from: name})
	}
	for _, dir := range []string{"docs", "example"} {
		err := fs.WalkDir(os.DirFS(r.root), dir, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() && path.Ext(p) != ".go" {
				list = append(list, entry{name: docs + p, from: p})
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	for i, e := range list {
		if e.from != "" {
			list[i].from = filepath.Join(r.root, e.from)
		}
	}
	return list, nil
}

// layout is all of an archive, sorted.
func (r *release) layout(p platform) ([]entry, error) {
	list, err := r.common()
	if err != nil {
		return nil, err
	}
	for _, e := range p.host() {
		e.from = filepath.Join(r.root, e.from)
		list = append(list, e)
	}
	for name := range programs {
		list = append(list, entry{name: "bin/" + name, from: filepath.Join(r.work, p.String(), name), run: true})
	}
	list = append(list, entry{name: docs + "example/web.tar", from: filepath.Join(r.work, p.String(), "web.tar")})
	list = append(list, r.printed()...)
	slices.SortFunc(list, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	return list, nil
}

// manPages are those that tools/man makes.
var manPages = []string{"freejail.8", "freejail-build.1", "freejail.hcl.5", "freejail-policy.5", "Jailfile.5"}

// completions are where the shells look, by their names.
var completions = map[string]string{
	"bash": "share/bash-completion/completions/%s",
	"zsh":  "share/zsh/site-functions/_%s",
	"fish": "share/fish/vendor_completions.d/%s.fish",
}

// printed are the manual pages and the completions, as makePrinted makes them.
func (r *release) printed() (list []entry) {
	for _, page := range manPages {
		list = append(list, entry{name: "share/man/man" + page[len(page)-1:] + "/" + page,
			from: filepath.Join(r.work, "man", page)})
	}
	for program := range programs {
		for shell, place := range completions {
			list = append(list, entry{name: fmt.Sprintf(place, program),
				from: filepath.Join(r.work, program+"."+shell)})
		}
	}
	return list
}

// makePrinted makes what is the same for every system.
func (r *release) makePrinted() error {
	man := exec.Command("go", "run", "./man", "-root", "..", "-o", filepath.Join(r.work, "man"), "-date",
		r.date.Format("2006-01-02"))
	man.Dir = filepath.Join(r.root, "tools")
	if out, err := man.CombinedOutput(); err != nil {
		return fmt.Errorf("manual pages: %w: %s", err, out)
	}
	for program, pkg := range programs {
		bin := filepath.Join(r.work, program)
		if err := r.build(pkg, bin); err != nil {
			return err
		}
		for shell := range completions {
			text, err := exec.Command(bin, "completion", shell).Output()
			if err != nil || !bytes.Contains(text, []byte(program)) {
				return fmt.Errorf("%s completion %s: %w: %.80q", program, shell, err, text)
			}
			if err := os.WriteFile(bin+"."+shell, text, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// build compiles a program for the system that env names, by default this one.
func (r *release) build(pkg, out string, env ...string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version="+r.version,
		"-o", out, pkg)
	return r.goes(cmd, env)
}

// goes runs the go command in the source, which nothing of the caller's environment changes that the result depends on.
func (r *release) goes(cmd *exec.Cmd, env []string) error {
	cmd.Dir = r.root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GOAMD64=v1", "GOARM64=v8.0",
		"GOEXPERIMENT=", "GOFIPS140=off", fmt.Sprintf("SOURCE_DATE_EPOCH=%d", r.date.Unix()))
	cmd.Env = append(cmd.Env, env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, out)
	}
	return nil
}

// archives makes one for each platform, with its bill of materials beside it.
func (r *release) archives() error {
	if err := r.makePrinted(); err != nil {
		return err
	}
	for _, p := range r.platforms {
		dir := filepath.Join(r.work, p.String())
		for program, pkg := range programs {
			if err := r.build(pkg, filepath.Join(dir, program), "GOOS="+p.os, "GOARCH="+p.arch); err != nil {
				return err
			}
		}
		images := exec.Command("go", "run", "./example/build", "-os", p.os, "-arch", p.arch, "-o", dir)
		if err := r.goes(images, nil); err != nil {
			return err
		}
		list, err := r.layout(p)
		if err != nil {
			return err
		}
		name := r.name("-" + p.String())
		archive := filepath.Join(r.out, name+".tar.gz")
		if err := writeArchive(archive, name, r.date, list); err != nil {
			return fmt.Errorf("%s: %w", archive, err)
		}
		if err := r.sbom(p, name); err != nil {
			return fmt.Errorf("%s: bill of materials: %w", name, err)
		}
		fmt.Println(archive)
	}
	return nil
}
