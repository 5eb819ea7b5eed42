package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// port packs sysutils/freejail for FreeBSD's tree of ports: what lies in tools/port, with the version, what is
// installed, the rc.d script, and the checksum of the source.
func (r *release) port() error {
	dir := filepath.Join(r.work, "port")
	if err := writePort(r.root, dir, r.version); err != nil {
		return err
	}
	source := r.name(".tar.gz")
	sum, size, err := fileSum(filepath.Join(r.out, source))
	if err != nil {
		return err
	}
	info := fmt.Sprintf("TIMESTAMP = %d\nSHA256 (%s) = %s\nSIZE (%s) = %d\n", r.date.Unix(), source, sum, source, size)
	if err := os.WriteFile(filepath.Join(dir, "distinfo"), []byte(info), 0o644); err != nil {
		return err
	}
	var list []entry
	for _, name := range []string{"Makefile", "distinfo", "files/freejail.in", "files/pkg-message.in", "pkg-descr",
		"pkg-plist"} {
		list = append(list, entry{name: "freejail/" + name, from: filepath.Join(dir, name)})
	}
	return writeArchive(filepath.Join(r.out, r.name("-port.tar.gz")), "sysutils", r.date, list)
}

// writePort makes the port of the source in root, without distinfo.
func writePort(root, dir, version string) error {
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(root, "tools", "port"))); err != nil {
		return err
	}
	makefile, err := os.ReadFile(filepath.Join(dir, "Makefile"))
	if err != nil {
		return err
	}
	script, err := os.ReadFile(filepath.Join(root, "example", "rc.d", "freejail"))
	if err != nil {
		return err
	}
	for name, text := range map[string]string{
		"Makefile":          strings.Replace(string(makefile), "0.0.0", version, 1),
		"files/freejail.in": strings.ReplaceAll(string(script), "/usr/local", "%%PREFIX%%"),
		"pkg-plist":         plist(),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// plist lists what the port installs, but for what its Makefile has as PORTDOCS and USE_RC_SUBR.
func plist() string {
	r := &release{}
	list := slices.Concat(platform{os: "freebsd"}.host(), r.printed())
	list = append(list, entry{name: "etc/freejail.hcl" + samples}, entry{name: "libexec/nomad/plugins/freejail"},
		entry{name: examples})
	for program := range programs {
		list = append(list, entry{name: "bin/" + program})
	}
	slices.SortFunc(list, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	var text strings.Builder
	for _, e := range list {
		switch {
		case strings.HasPrefix(e.name, "etc/rc.d/"):
		case strings.HasSuffix(e.name, samples):
			text.WriteString("@sample " + e.name + "\n")
		case strings.HasPrefix(e.name, "share/man/"):
			text.WriteString(e.name + ".gz\n")
		case e.name == examples: // a link into the documentation
			text.WriteString("%%PORTDOCS%%" + e.name + "\n")
		default:
			text.WriteString(e.name + "\n")
		}
	}
	return text.String()
}
