package nfsroot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/freejail/freejail/internal/testnfs"
)

// The protocol's side of a client, against the kernel's server.
func TestProtocol(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("jails need root")
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	check(t, err)
	host, err := testnfs.Start(dir)
	if errors.Is(err, testnfs.ErrUnavailable) {
		t.Skip(err)
	}
	check(t, err)
	t.Cleanup(func() { check(t, host.Close()) })
	img := writeExport(t, host.Roots, "web", "the config")
	big := writeExport(t, host.Roots, "big", string(make([]byte, 3*readChunk+17)))
	exports := filepath.Join(t.TempDir(), "exports")
	cfg := ExportConfig{Dir: host.Roots, Clients: []string{testnfs.Network}, V4Root: "/"}
	check(t, os.WriteFile(exports, []byte(cfg.freebsdExports([]string{host.Roots})), 0o600))
	check(t, host.Export(exports))
	s, err := ParseServer(testnfs.URL)
	check(t, err)
	for _, version := range []int{4, 3} {
		t.Run(fmt.Sprintf("version %d", version), func(t *testing.T) { testFind(t, s, host.Roots, img, big, version) })
	}
}
