package image

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestVolumes(t *testing.T) {
	of := func(paths ...string) ocispec.ImageConfig {
		c := ocispec.ImageConfig{Volumes: map[string]struct{}{}}
		for _, p := range paths {
			c.Volumes[p] = struct{}{}
		}
		return c
	}
	got, err := Volumes(of("/var/lib/db/", "/data", "//data", "/sys/fs/cgroup", "/./a", "/development", "/..."))
	if want := []string{"/...", "/a", "/data", "/development", "/sys/fs/cgroup", "/var/lib/db"}; err != nil ||
		!slices.Equal(slices.Sorted(slices.Values(got)), want) {
		t.Errorf("%q, %v", got, err)
	}
	for _, bad := range []string{"", "/", "//", "/.", "/..", "/etc/../", "/a/../../b", "data", "./data", "/dev", "/dev/shm",
		"/proc/sys", "/a\nb", "/a\x00b", "/" + strings.Repeat("x", 1024)} {
		if got, err := Volumes(of("/fine", bad)); err == nil || !strings.Contains(err.Error(), "Volumes: ") {
			t.Errorf("%q: %q, %v", bad, got, err)
		}
	}
	var many []string
	for i := range 129 {
		many = append(many, fmt.Sprintf("/data/%d", i))
	}
	if _, err := Volumes(of(many[:128]...)); err != nil {
		t.Error(err)
	}
	if _, err := Volumes(of(many[:129]...)); err == nil || !strings.Contains(err.Error(), "at most 128 are allowed") {
		t.Error(err)
	}
	deep := []string{}
	for i := range 10 {
		deep = append(deep, fmt.Sprintf("/%d", i)+strings.Repeat("/a", 201))
	}
	if _, err := Volumes(of(deep...)); err == nil || !strings.Contains(err.Error(), "of 2020 directories") {
		t.Error(err)
	}
	if _, err := Volumes(of(deep[:9]...)); err != nil {
		t.Error(err)
	}
}
