// Package image knows what an OCI image is whose configuration carries a freejail
// manifest: what it says of itself, for which platforms it is, and its users.
package image

import (
	"fmt"
	"time"
)

// ManifestLabel is the label of the OCI config that holds the manifest's JSON.
const ManifestLabel = "org.freejail.manifest"

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
		err = fmt.Errorf("negative duration %s", v)
	}
	*d = Duration(v)
	return err
}
