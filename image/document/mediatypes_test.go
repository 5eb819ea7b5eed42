package document

import "testing"

func TestLayerTypes(t *testing.T) {
	for mediaType, want := range map[string]struct{ layer, foreign bool }{
		"application/vnd.oci.image.layer.v1.tar":                       {true, false},
		"application/vnd.oci.image.layer.v1.tar+gzip":                  {true, false},
		"application/vnd.oci.image.layer.v1.tar+zstd":                  {true, false},
		"application/vnd.docker.image.rootfs.diff.tar":                 {true, false},
		"application/vnd.docker.image.rootfs.diff.tar.gzip":            {true, false},
		"application/vnd.docker.image.rootfs.diff.tar.zstd":            {true, false},
		"application/vnd.oci.image.layer.nondistributable.v1.tar":      {true, true},
		"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": {true, true},
		"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": {true, true},
		"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip":    {true, true},
		"application/vnd.docker.image.rootfs.foreign.diff.tar.zstd":    {true, true},
		"application/vnd.oci.image.layer.v1.tar+encrypted":             {},
		"application/vnd.oci.image.layer.v1.tar+gzip+encrypted":        {},
		"application/vnd.oci.image.layer.v1.tar.gzip":                  {},
		"application/vnd.docker.image.rootfs.diff.tar+gzip":            {},
		"application/vnd.docker.image.rootfs.diff.tar.gzip+zstd":       {},
		"application/vnd.oci.image.manifest.v1+json":                   {},
		"application/vnd.in-toto+json":                                 {},
		"application/vnd.dev.cosign.simplesigning.v1+json":             {},
		"": {},
	} {
		if err := CheckLayer(mediaType); (err == nil) != want.layer {
			t.Errorf("%q: %v, is a layer: %v", mediaType, err, want.layer)
		}
		if got := IsForeign(mediaType); got != want.foreign {
			t.Errorf("%q: foreign is %v", mediaType, got)
		}
	}
}
