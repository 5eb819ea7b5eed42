package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/internal/printable"
)

// document is an image for programs.
func document(img *image.Image) any {
	return struct {
		Name     string               `json:"name"`
		Digest   string               `json:"digest"`
		Size     int64                `json:"size"`
		ChainID  string               `json:"chainId"`
		Layers   []ocispec.Descriptor `json:"layers"`
		Config   ocispec.Image        `json:"config"`
		Manifest *image.Manifest      `json:"manifest"`
		Health   *image.Healthcheck   `json:"healthcheck,omitempty"` // docker's, beside OCI's config
	}{img.Name, img.Digest.String(), img.Size, img.ChainID.String(), img.Layers, img.Config, img.Manifest,
		img.Docker.Healthcheck}
}

// page is a description for people, in columns.
type page struct{ *tabwriter.Writer }

func newPage(w io.Writer) page { return page{tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)} }

func (p page) line(format string, a ...any) { printable.Fprintf(p, format+"\n", a...) }

func (p page) end() {
	_ = p.Flush() // App remembers the error
}

// section begins with its title once something is in it.
func (p page) section(title string, rows [][]string) {
	if len(rows) == 0 {
		return
	}
	p.line("")
	p.line("%s", title)
	for _, r := range rows {
		p.line("  %s"+strings.Repeat("\t%s", len(r)-1), cells(r)...)
	}
}

func cells(row []string) (out []any) {
	for _, c := range row {
		out = append(out, printable.Cell(c))
	}
	return out
}

func describe(w io.Writer, img *image.Image) {
	p := newPage(w)
	m := img.Manifest
	p.line("%s\t%s", cmp.Or(img.Name, "-"), m.Summary)
	p.line("")
	p.line("digest\t%s", img.Digest)
	p.line("platform\t%q", img.Config.OS+"/"+img.Config.Architecture)
	if !img.Created.IsZero() {
		p.line("created\t%s", img.Created.UTC().Format(time.RFC3339))
	}
	p.line("size\t%s, layers: %d", units.BytesSize(float64(img.Size)), len(img.Layers))
	for _, f := range fields(img) {
		if len(f.values) > 0 {
			p.line("%s\t%s", f.name, quoted(f.values))
		}
	}
	if usage := printable.Block("  | ", m.Usage); usage != "" {
		p.line("\nUSAGE\n%s", printable.Lines(strings.TrimSuffix(usage, "\n")))
	}
	p.section("PARAMETERS", parameters(m.Parameters))
	p.section("PORTS", ports(m.Ports))
	p.section("VOLUMES", volumes(m.Volumes))
	p.section("REQUESTS (a host's policy decides)", requests(img))
	p.section("WRITABLE ON A READ-ONLY ROOT", column(m.Writable))
	p.section("LAYERS", layers(img))
	p.end()
}

func one(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// field is what a config and its manifest say under one name.
type field struct {
	name   string
	values []string
	list   bool // each value stands for itself
}

func fields(img *image.Image) []field {
	m, c := img.Manifest, img.Config.Config
	timeout := ""
	if m.Stop.Timeout > 0 {
		timeout = m.Stop.Timeout.Std().String()
	}
	return []field{{"entrypoint", c.Entrypoint, false}, {"cmd", c.Cmd, false}, {"env", c.Env, true},
		{"user", one(c.User), false}, {"workdir", one(c.WorkingDir), false},
		{"stop signal", one(cmp.Or(m.Stop.Signal, c.StopSignal)), false}, {"stop timeout", one(timeout), false},
		{"wait for", one(m.Wait), false}, {"exposed ports", slices.Sorted(maps.Keys(c.ExposedPorts)), true},
		{"volumes", slices.Sorted(maps.Keys(c.Volumes)), true}, {"healthcheck", healthcheck(img), false},
		{"labels", labels(c.Labels), true}}
}

// healthcheck is the test of docker's HEALTHCHECK.
func healthcheck(img *image.Image) []string {
	if h := img.Docker.Healthcheck; h != nil {
		return h.Test
	}
	return nil
}

func quoted(values []string) string {
	out := make([]string, 0, len(values))
	for _, v := range values {
		out = append(out, fmt.Sprintf("%q", v))
	}
	return strings.Join(out, " ")
}

// labels are those beside the manifest.
func labels(all map[string]string) (out []string) {
	for _, k := range slices.Sorted(maps.Keys(all)) {
		if k != image.ManifestLabel {
			out = append(out, k+"="+all[k])
		}
	}
	return out
}

// column is a list as rows of one cell.
func column(list []string) (out [][]string) {
	for _, s := range list {
		out = append(out, []string{s})
	}
	return out
}

func parameters(list []image.Parameter) (out [][]string) {
	for _, p := range list {
		about := "optional"
		switch {
		case p.Required:
			about = "required"
		case p.Default != nil:
			about = fmt.Sprintf("default %q", *p.Default)
		}
		if p.Pattern != "" {
			about += fmt.Sprintf(", matches %q", p.Pattern)
		}
		out = append(out, []string{p.Name, about, p.Description})
	}
	return out
}

func ports(list []image.Port) (out [][]string) {
	for _, p := range list {
		service := ""
		if s := p.Service; s != nil {
			service = "service " + cmp.Or(s.Name, p.Name)
			if len(s.Tags) > 0 {
				service += " [" + strings.Join(s.Tags, ", ") + "]"
			}
			if s.Check != nil {
				service += ", check " + s.Check.Type + " " + s.Check.Path
			}
		}
		out = append(out, []string{p.Name, fmt.Sprintf("%d/%s", p.Port, p.Protocol), service, p.Description})
	}
	return out
}

func volumes(list []image.Volume) (out [][]string) {
	for _, v := range list {
		about := "optional"
		if v.Required {
			about = "required"
		}
		if v.ReadOnly {
			about += ", read only"
		}
		out = append(out, []string{v.Name, v.Path, about, v.Description})
	}
	return out
}

func requests(img *image.Image) (out [][]string) {
	r, err := img.Privileges()
	add := func(kind, format string, a ...any) { out = append(out, []string{kind, fmt.Sprintf(format, a...)}) }
	if err != nil {
		add("error", "%s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	for _, d := range r.Devfs {
		add("devfs", "%s", d)
	}
	ipc := r.SysVIPC
	for _, v := range [][2]string{{"shm", ipc.Shm}, {"msg", ipc.Msg}, {"sem", ipc.Sem}} {
		if v[1] != "" {
			add("sysvipc", "%s=%s", v[0], v[1])
		}
	}
	for _, a := range r.Allow {
		add("allow", "%s", a)
	}
	for _, k := range slices.Sorted(maps.Keys(r.Jail)) {
		add("jail", "%s=%s", k, r.Jail[k])
	}
	for _, k := range slices.Sorted(maps.Keys(r.Sysctl)) {
		add("sysctl", "%s=%s", k, r.Sysctl[k])
	}
	for _, m := range r.Mounts {
		add("mount", "%s on %s %s", m.Type, m.Target, strings.Join(m.Options, ","))
	}
	if r.VNET {
		add("vnet", "a network stack of its own")
	}
	if r.Linux {
		add("linux", "a kernel that runs Linux programs")
	}
	if r.OSVersion.Min != "" {
		add("os version", "FreeBSD %s or newer", r.OSVersion.Min)
	}
	return out
}

// layers shows the history where it fits the layers.
func layers(img *image.Image) (out [][]string) {
	var made []string
	for _, h := range img.Config.History {
		if !h.EmptyLayer {
			made = append(made, h.CreatedBy)
		}
	}
	for i, l := range img.Layers {
		by := ""
		if len(made) == len(img.Layers) {
			text, _, _ := strings.Cut(made[i], "\n")
			by = fmt.Sprintf("%.80q", text)
		}
		out = append(out, []string{fmt.Sprintf("%.19s", l.Digest), units.BytesSize(float64(l.Size)), by})
	}
	return out
}
