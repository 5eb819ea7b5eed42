// Package image reads, keeps and unpacks OCI images whose configuration carries
// a freejail manifest.
package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strings"
	"time"
)

// ManifestLabel is the label of the OCI config that holds the manifest's JSON.
const ManifestLabel = "org.freejail.manifest"

// maxManifest bounds the manifest's text.
const maxManifest = 1 << 20

// Manifest is an image's description of itself, version 1. A field that this
// version does not know is an error: no request is silently ignored.
type Manifest struct {
	SchemaVersion int         `json:"schemaVersion"`
	Name          string      `json:"name,omitempty"`
	Summary       string      `json:"summary,omitempty"`
	Usage         string      `json:"usage,omitempty"` // Markdown
	Parameters    []Parameter `json:"parameters,omitempty"`
	Ports         []Port      `json:"ports,omitempty"`
	Requires      Requires    `json:"requires,omitzero"`
	Writable      []string    `json:"writable,omitempty"`
	Volumes       []Volume    `json:"volumes,omitempty"`
	Stop          Stop        `json:"stop,omitzero"`
	Wait          string      `json:"wait,omitempty"` // main (default) or all
}

// Parameter is set by a job and reaches the process as an environment variable.
type Parameter struct {
	Name        string  `json:"name"`
	Description string  `json:"description,omitempty"`
	Default     *string `json:"default,omitempty"`
	Required    bool    `json:"required,omitempty"`
	Pattern     string  `json:"pattern,omitempty"` // regular expression (RE2)
}

// Port is one that the image's program serves.
type Port struct {
	Name        string   `json:"name"`
	Port        int      `json:"port"`
	Protocol    string   `json:"protocol,omitempty"` // tcp (default) or udp
	Description string   `json:"description,omitempty"`
	Service     *Service `json:"service,omitempty"`
}

// Service is what is registered in Consul for a port.
type Service struct {
	Name  string   `json:"name,omitempty"` // default: the port's name
	Tags  []string `json:"tags,omitempty"`
	Check *Check   `json:"check,omitempty"`
}

// Check tells how Consul finds out whether the service is well.
type Check struct {
	Type     string   `json:"type"` // http or tcp
	Path     string   `json:"path,omitempty"`
	Interval Duration `json:"interval,omitempty"`
	Timeout  Duration `json:"timeout,omitempty"`
}

// Requires are the privileges that the image asks for.
type Requires struct {
	Devfs     []string          `json:"devfs,omitempty"`
	SysVIPC   SysVIPC           `json:"sysvipc,omitzero"`
	Allow     []string          `json:"allow,omitempty"` // without "allow."
	Jail      map[string]string `json:"jail,omitempty"`
	Sysctl    map[string]string `json:"sysctl,omitempty"`
	Mounts    []MountRequest    `json:"mounts,omitempty"`
	VNET      bool              `json:"vnet,omitempty"`
	Linux     bool              `json:"linux,omitempty"`
	OSVersion OSVersion         `json:"osVersion,omitzero"`
}

// SysVIPC asks for "new" or "inherit" of each; empty means none.
type SysVIPC struct {
	Shm string `json:"shm,omitempty"`
	Msg string `json:"msg,omitempty"`
	Sem string `json:"sem,omitempty"`
}

// MountRequest is a file system that the image wants mounted.
type MountRequest struct {
	Type    string   `json:"type"`
	Target  string   `json:"target"`
	Options []string `json:"options,omitempty"`
}

// OSVersion is the oldest FreeBSD that will do, such as "14.1".
type OSVersion struct {
	Min string `json:"min,omitempty"`
}

// Volume is a place where a job can mount something of the host.
type Volume struct {
	Name        string `json:"name"`
	Path        string `json:"path"`
	Description string `json:"description,omitempty"`
	Required    bool   `json:"required,omitempty"`
	ReadOnly    bool   `json:"readOnly,omitempty"`
}

// Stop tells how the image's program is asked to end.
type Stop struct {
	Signal  string   `json:"signal,omitempty"`
	Timeout Duration `json:"timeout,omitempty"`
}

// Duration is written as text, "10s".
type Duration time.Duration

// Std is the standard library's type of it.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// MarshalText gives Go's notation.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.Std().String()), nil }

// UnmarshalText takes Go's notation; a negative time is an error.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err == nil && v < 0 {
		err = fmt.Errorf("the time %s is negative", v)
	}
	*d = Duration(v)
	return err
}

// ParseManifest reads and validates a manifest.
func ParseManifest(b []byte) (*Manifest, error) {
	if len(b) > maxManifest {
		return nil, fmt.Errorf("manifest: %d bytes are over the limit of %d", len(b), maxManifest)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	m := &Manifest{}
	if err := dec.Decode(m); err != nil {
		var te *json.UnmarshalTypeError
		if errors.As(err, &te) {
			return nil, fmt.Errorf("manifest: %s: want %s, got a JSON %s", te.Field, te.Type, te.Value)
		}
		return nil, fmt.Errorf("manifest: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("manifest: there is something after its end")
	}
	if err := m.Validate(); err != nil {
		return nil, err
	}
	return m, nil
}

var (
	paramName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	portName  = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)
)

// Validate names every mistake by its field.
func (m *Manifest) Validate() error {
	v := &validator{}
	v.check(m.SchemaVersion == 1, "schemaVersion", "%d is not a version that is known here: want 1", m.SchemaVersion)
	v.check(m.Wait == "" || m.Wait == "main" || m.Wait == "all", "wait", "%q is neither main nor all", m.Wait)
	v.parameters(m.Parameters)
	v.ports(m.Ports)
	v.requires(m.Requires)
	for i, w := range m.Writable {
		v.path(fmt.Sprintf("writable[%d]", i), w)
	}
	names := map[string]bool{}
	for i, vol := range m.Volumes {
		f := fmt.Sprintf("volumes[%d]", i)
		v.check(vol.Name != "" && !names[vol.Name], f+".name", "%q is empty or there twice", vol.Name)
		names[vol.Name] = true
		v.path(f+".path", vol.Path)
	}
	return errors.Join(v.errs...)
}

type validator struct{ errs []error }

func (v *validator) check(ok bool, field, format string, args ...any) {
	if !ok {
		v.errs = append(v.errs, fmt.Errorf("manifest: %s: "+format, append([]any{field}, args...)...))
	}
}

func (v *validator) path(field, p string) {
	v.check(path.IsAbs(p) && path.Clean(p) == p && p != "/" && !strings.Contains(p, "\x00"), field, "%q is not an absolute, clean path below /", p)
}

func (v *validator) parameters(list []Parameter) {
	seen := map[string]bool{}
	for i, p := range list {
		f := fmt.Sprintf("parameters[%d]", i)
		v.check(paramName.MatchString(p.Name), f+".name", "%q is no name of an environment variable", p.Name)
		v.check(!seen[p.Name], f+".name", "%q is there twice", p.Name)
		v.check(!strings.HasPrefix(p.Name, "NOMAD_") && !strings.HasPrefix(p.Name, "FREEJAIL_") && p.Name != "PATH", f+".name", "%q is not the image's to define", p.Name)
		v.check(!p.Required || p.Default == nil, f+".default", "a required parameter has no default")
		seen[p.Name] = true
		re, err := regexp.Compile(p.Pattern)
		v.check(err == nil, f+".pattern", "%v", err)
		if err == nil && p.Default != nil {
			v.check(re.MatchString(*p.Default), f+".default", "%q does not match the pattern %s", *p.Default, p.Pattern)
		}
	}
}

func (v *validator) ports(list []Port) {
	seen := map[string]bool{}
	for i, p := range list {
		f := fmt.Sprintf("ports[%d]", i)
		v.check(portName.MatchString(p.Name), f+".name", "%q: want a lower-case letter, then letters, digits, _ or -", p.Name)
		v.check(!seen[p.Name], f+".name", "%q is there twice", p.Name)
		seen[p.Name] = true
		v.check(p.Port >= 1 && p.Port <= 65535, f+".port", "%d is not within 1 to 65535", p.Port)
		v.check(p.Protocol == "" || p.Protocol == "tcp" || p.Protocol == "udp", f+".protocol", "%q is neither tcp nor udp", p.Protocol)
		if p.Service == nil || p.Service.Check == nil {
			continue
		}
		c := p.Service.Check
		v.check(c.Type == "http" || c.Type == "tcp", f+".service.check.type", "%q is neither http nor tcp", c.Type)
		v.check(c.Path == "" || c.Type == "http" && strings.HasPrefix(c.Path, "/"), f+".service.check.path", "%q: want a path beginning with /, for type http", c.Path)
		v.check(p.Protocol != "udp", f+".service.check", "a udp port cannot be checked")
	}
}

func (v *validator) requires(r Requires) {
	for name, mode := range map[string]string{"shm": r.SysVIPC.Shm, "msg": r.SysVIPC.Msg, "sem": r.SysVIPC.Sem} {
		v.check(mode == "" || mode == "new" || mode == "inherit", "requires.sysvipc."+name, "%q is neither new nor inherit", mode)
	}
	for i, d := range r.Devfs {
		v.check(strings.TrimSpace(d) != "", fmt.Sprintf("requires.devfs[%d]", i), "the rule is empty")
	}
	for i, m := range r.Mounts {
		f := fmt.Sprintf("requires.mounts[%d]", i)
		v.path(f+".target", m.Target)
		switch m.Type {
		case "tmpfs", "procfs", "fdescfs", "linprocfs", "linsysfs":
		default:
			v.check(false, f+".type", "%q: an image can ask for tmpfs, procfs, fdescfs, linprocfs and linsysfs", m.Type)
		}
	}
}
