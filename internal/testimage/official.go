package testimage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
)

// WriteOfficial makes an image in the form that FreeBSD's own have: an OCI
// layout in a tar within xz, one gzip layer, no os.version, no manifest of
// freejail's, and the config's Cmd in lower case. It needs xz(1).
func WriteOfficial(ctx context.Context, dir string, spec Spec) (_ string, err error) {
	spec.Gzip = true
	l, err := newLayer(dir, spec)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	config := fmt.Appendf(nil, `{"created":"2025-06-01T00:00:00Z","architecture":%q,"os":%q,"config":{"cmd":[%q,%q]},`+
		`"rootfs":{"type":"layers","diff_ids":["%s"]}}`, runtime.GOARCH, runtime.GOOS, Program, spec.Cmd[0], l.plain)
	path := filepath.Join(dir, spec.Name+".tar")
	if err := newArchive(path).write(spec.Name, json.RawMessage(config), l); err != nil {
		return "", err
	}
	if said, err := exec.CommandContext(ctx, "xz", "-1", "-f", path).CombinedOutput(); err != nil {
		return "", fmt.Errorf("xz: %w: %s", err, said)
	}
	return path + ".xz", nil
}
