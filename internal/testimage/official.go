package testimage

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
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
	a := newArchive()
	l := a.blob(ocispec.MediaTypeImageLayerGzip, packed.Bytes())
	config := fmt.Appendf(nil, `{"created":"2025-06-01T00:00:00Z","architecture":%q,"os":%q,"config":{"cmd":[%q,%q]},`+
		`"rootfs":{"type":"layers","diff_ids":["%s"]}}`, runtime.GOARCH, runtime.GOOS, Program, spec.Cmd[0],
		digest.FromBytes(plain))
	path := filepath.Join(dir, spec.Name+".tar")
	if err := a.write(path, spec.Name, config, l); err != nil {
		return "", err
	}
	if said, err := exec.CommandContext(ctx, "xz", "-1", "-f", path).CombinedOutput(); err != nil {
		return "", fmt.Errorf("xz: %w: %s", err, said)
	}
	return path + ".xz", nil
}
