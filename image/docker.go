package image

import (
	"encoding/json"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// DockerConfig are the fields of an image's config that docker has beside OCI's:
// what HEALTHCHECK, ONBUILD and SHELL of a Containerfile say. A host does
// nothing with them; a build on the image does.
type DockerConfig struct {
	Healthcheck *Healthcheck `json:"Healthcheck,omitempty"`
	OnBuild     []string     `json:"OnBuild,omitempty"`
	Shell       []string     `json:"Shell,omitempty"`
}

// Healthcheck is docker's; times are in nanoseconds, 0 is docker's default.
type Healthcheck struct {
	Test          []string      // CMD and its words, CMD-SHELL and a text, or NONE
	Interval      time.Duration `json:",omitempty"`
	Timeout       time.Duration `json:",omitempty"`
	StartPeriod   time.Duration `json:",omitempty"`
	StartInterval time.Duration `json:",omitempty"`
	Retries       int           `json:",omitempty"`
}

// In is a config with docker's fields in it, for encoding as JSON.
func (d DockerConfig) In(c ocispec.Image) any {
	type config struct {
		ocispec.ImageConfig
		DockerConfig
	}
	return struct {
		ocispec.Image
		Config config `json:"config,omitempty"`
	}{c, config{c.Config, d}}
}

// readDocker takes what can be read of docker's fields: nothing depends on
// them but builds, so that faulty ones are as none.
func readDocker(config []byte) DockerConfig {
	var c struct {
		Config DockerConfig `json:"config"`
	}
	if json.Unmarshal(config, &c) != nil {
		return DockerConfig{}
	}
	return c.Config
}
