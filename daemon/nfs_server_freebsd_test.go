package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testnfs"
)

// nfsHost is a second host, whose roots a daemon of this host exports.
type nfsHost struct {
	*testnfs.Server
	t        *testing.T
	exporter *client.Client
	file     string // that the exporter writes
}

func startNFSHost(t *testing.T) *nfsHost { return startNFSHostOn(t, "") }

// startNFSHostOn has its roots on a dataset, if one is named.
func startNFSHostOn(t *testing.T, dataset string) *nfsHost {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("jails need root")
	}
	s, err := testnfs.Start(shortDir(t))
	if errors.Is(err, testnfs.ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	dir := shortDir(t)
	h := &nfsHost{Server: s, t: t, file: filepath.Join(dir, "exports")}
	h.exporter, _ = daemonAt(t, dir, fmt.Sprintf("nfs {\n  export {\n    dir = %q\n    zfs_dataset = %q\n    clients "+
		"= [%q]\n    exports_file = %q\n  }\n}\n", s.Roots, dataset, testnfs.Network, h.file))
	return h
}

// must does what cannot fail to the second host.
func (h *nfsHost) must(f func() error) {
	h.t.Helper()
	if err := f(); err != nil {
		h.t.Fatal(err)
	}
}

// image exports an image and returns its digest.
func (h *nfsHost) image(path string) string {
	h.t.Helper()
	e, err := h.exporter.Export(h.t.Context(), client.ExportRequest{Image: path})
	if err != nil {
		h.t.Fatal(err)
	}
	h.must(func() error { return h.Export(h.file) })
	return e.Digest
}

// client runs a daemon that trusts the server.
func (h *nfsHost) client(dir, more string) (*client.Client, func(os.Signal)) {
	h.t.Helper()
	return daemonAt(h.t, dir, fmt.Sprintf("permit {\n  nfs = true\n}\nnfs {\n  servers = [%q]\n  timeout = \"5s\"\n  "+
		"every = \"500ms\"\n  keep = \"0s\"\n%s}\n", testnfs.URL, more))
}

// noSetuid wants a mount whose set-uid programs have no effect.
func noSetuid(t *testing.T, target string) {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(target, &st); err != nil || st.Flags&unix.MNT_NOSUID == 0 || st.Flags&unix.MNT_RDONLY == 0 {
		t.Errorf("%s: flags %#x, %v: want nosuid and read-only", target, st.Flags, err)
	}
}
