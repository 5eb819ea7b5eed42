package testimage

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// WriteOfficial makes an image in the form that FreeBSD's own have: an OCI
// layout in a tar within xz, one gzip layer, no os.version, no manifest of
// freejail's, and the config's Cmd in lower case. It needs xz(1).
func WriteOfficial(ctx context.Context, dir string, spec Spec) (string, error) {
	plain, err := layer(spec)
	if err != nil {
		return "", err
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, err = z.Write(plain)
	if err = errors.Join(err, z.Close()); err != nil {
		return "", err
	}
	type blob struct {
		digest string
		text   []byte
	}
	var blobs []blob
	add := func(text []byte) string {
		b := blob{fmt.Sprintf("%x", sha256.Sum256(text)), text}
		blobs = append(blobs, b)
		return fmt.Sprintf(`"digest":"sha256:%s","size":%d`, b.digest, len(text))
	}
	l := add(packed.Bytes())
	c := add(fmt.Appendf(nil, `{"created":"2025-06-01T00:00:00Z","architecture":%q,"os":%q,"config":{"cmd":[%q,%q]},"rootfs":{"type":"layers","diff_ids":["sha256:%x"]}}`,
		runtime.GOARCH, runtime.GOOS, Program, spec.Cmd[0], sha256.Sum256(plain)))
	m := add(fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json",%s},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip",%s}]}`, c, l))
	index := fmt.Appendf(nil, `{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json",%s,"annotations":{"org.opencontainers.image.ref.name":%q}}]}`, m, spec.Name)
	var out bytes.Buffer
	tw := tar.NewWriter(&out)
	put := func(name string, text []byte) {
		err = errors.Join(err, tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))}))
		_, werr := tw.Write(text)
		err = errors.Join(err, werr)
	}
	put("./oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	put("./index.json", index)
	for _, b := range blobs {
		put("./blobs/sha256/"+b.digest, b.text)
	}
	path := filepath.Join(dir, spec.Name+".tar")
	if err = errors.Join(err, tw.Close(), os.WriteFile(path, out.Bytes(), 0o644)); err != nil {
		return "", err
	}
	if said, err := exec.CommandContext(ctx, "xz", "-1", "-f", path).CombinedOutput(); err != nil {
		return "", fmt.Errorf("xz: %w: %s", err, said)
	}
	return path + ".xz", nil
}
