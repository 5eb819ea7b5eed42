package build

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image/chunked"
)

// What a build makes of the same input in each compression must never change unnoticed.
var goldenImages = map[string]string{
	CompressionGzip:    goldenImage,
	CompressionZstd:    "sha256:494fb278f37d7e0f1ab840481f7b174ec2b5b9aa1b7c566f8a9c2661dd64a2b5",
	CompressionChunked: "sha256:7f2a295e58e230b4b17d6f580323b382667f0109abd389da725cbd1971d00bff",
}

func TestCompressions(t *testing.T) {
	context := goldenContext(t)
	for _, how := range Compressions {
		var made [2]string
		for i, mask := range []int{0o022, 0o077} {
			img, err := Build(t.Context(), Options{Context: messy(t, context, i, mask, time.Unix(int64(i)*1e9, 0)),
				Output: filepath.Join(t.TempDir(), "x.tar"), Platform: freebsd, Compression: how})
			check(t, err)
			var plain []string
			for _, d := range img.Config.RootFS.DiffIDs {
				plain = append(plain, d.String())
			}
			if made[i] = img.Digest.String(); !slices.Equal(plain, goldenLayers) {
				t.Errorf("%s: the layers are %q", how, plain)
			}
			for _, l := range img.Layers {
				want := ocispec.MediaTypeImageLayerZstd
				if how == CompressionGzip {
					want = ocispec.MediaTypeImageLayerGzip
				}
				if _, table := chunked.TableOf(l); l.MediaType != want || table != (how == CompressionChunked) {
					t.Errorf("%s: a layer is %q, with a table: %t", how, l.MediaType, table)
				}
			}
		}
		if made[0] != made[1] || made[0] != goldenImages[how] {
			t.Errorf("%s: the image is %q: with equal layers another compressor, or another config", how, made)
		}
	}
	_, err := Build(t.Context(), Options{Context: t.TempDir(), Output: filepath.Join(t.TempDir(), "x.tar"),
		Compression: "xz"})
	if err == nil || !strings.Contains(err.Error(), "expected gzip, zstd or zstd:chunked") {
		t.Errorf("got %v", err)
	}
}

// A layer comes from the cache for the compression that is asked for, with its table.
func TestCacheOfCompressions(t *testing.T) {
	c := newCachedBuild(t, cacheFiles(t))
	c.want(cacheFile)
	for _, how := range []string{CompressionZstd, CompressionChunked} {
		c.options.Compression = how
		c.want(cacheFile)
		c.want(cacheFile, 2, 3, 4, 5)
	}
	img, _ := c.build(cacheFile)
	for _, l := range img.Layers {
		if _, ok := chunked.TableOf(l); !ok {
			t.Errorf("a layer from the cache has the annotations %v", l.Annotations)
		}
	}
	c.options.Compression = CompressionGzip
	c.want(cacheFile, 2, 3, 4, 5)
}
