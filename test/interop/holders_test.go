package interop

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// holder makes one form of an image at a path.
type holder struct {
	name    string
	program string
	make    func(t *testing.T, to string)
}

// holders are all the forms that other programs have for an image of ours.
func holders(t *testing.T, layout string) []holder {
	skopeo := func(to string, more ...string) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			args := append([]string{"skopeo", "copy", "--quiet", "--insecure-policy"}, more...)
			call(t, append(args, "oci:"+layout, fmt.Sprintf(to, path))...)
		}
	}
	pulled := sync.OnceValue(func() []string { // for podman and buildah, which share storage
		options := storage(t)
		id := call(t, join("podman", options, "pull", "--quiet", "oci:"+layout)...)
		call(t, join("podman", options, "tag", id, "localhost/it:1.0")...)
		return options
	})
	podman := func(format string, more ...string) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			args := append([]string{"save", "--quiet", "--format", format, "-o", path}, more...)
			call(t, join("podman", pulled(), append(args, "localhost/it:1.0")...)...)
		}
	}
	buildah := func(to string) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			need(t, "podman")
			call(t, join("buildah", pulled(), "push", "--quiet", "localhost/it:1.0", fmt.Sprintf(to, path))...)
		}
	}
	return []holder{
		{"skopeo's docker-archive", "skopeo", skopeo("docker-archive:%s:it:1.0")},
		{"skopeo's oci-archive", "skopeo", skopeo("oci-archive:%s:it")},
		{"skopeo's layout without a name", "skopeo", skopeo("oci:%s")},
		{"skopeo's dir", "skopeo", skopeo("dir:%s")},
		{"skopeo's dir, decompressed", "skopeo", skopeo("dir:%s", "--dest-decompress")},
		{"skopeo's dir of version 2", "skopeo", skopeo("dir:%s", "--format", "v2s2")},
		{"skopeo's layout in zstd", "skopeo", skopeo("oci:%s:it", "--dest-compress-format", "zstd")},
		{"skopeo's layout in zstd:chunked", "skopeo", skopeo("oci:%s:it", "--dest-compress-format", "zstd:chunked")},
		{"podman's docker-archive", "podman", podman("docker-archive")},
		{"podman's oci-archive", "podman", podman("oci-archive")},
		{"podman's oci-dir", "podman", podman("oci-dir")},
		{"podman's docker-dir", "podman", podman("docker-dir")},
		{"podman's docker-dir, compressed", "podman", podman("docker-dir", "--compress")},
		{"podman's archive of several", "podman", podman("docker-archive", "--multi-image-archive")},
		{"buildah's docker-archive", "buildah", buildah("docker-archive:%s:it:1.0")},
		{"buildah's dir", "buildah", buildah("dir:%s")},
		{"buildah's layout", "buildah", buildah("oci:%s:it")},
	}
}

// One tree comes out of every form that an image can have, and out of every archive of
// that.
func TestEveryHolderHasOneTree(t *testing.T) {
	layout, _, root := ours(t, all[1])
	for _, h := range holders(t, layout) {
		t.Run(h.name, func(t *testing.T) {
			need(t, h.program)
			dir := lowerDir(t)
			path := filepath.Join(dir, "image")
			h.make(t, path)
			sameTree(t, "itself", unpacked(t, path), root)
			fi, err := os.Stat(path)
			check(t, err)
			folder, below := filepath.Join(dir, "folder.tar"), filepath.Join(dir, "below.tar.gz")
			if fi.IsDir() {
				call(t, "tar", "-cf", folder, "-C", dir, "image")
				call(t, "tar", "-czf", below, "-C", path, ".")
			} else {
				call(t, "tar", "-xf", path, "--one-top-level="+dir+"/x/top")
				sameTree(t, "extracted", unpacked(t, dir+"/x/top"), root)
				call(t, "tar", "-cf", folder, "-C", dir+"/x", "top")
				call(t, "tar", "-czf", below, "-C", dir+"/x/top", ".")
			}
			sameTree(t, "in a folder", unpacked(t, folder), root)
			sameTree(t, "in gzip", unpacked(t, below), root)
		})
	}
}
