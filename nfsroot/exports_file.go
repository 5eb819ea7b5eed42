package nfsroot

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"unicode"

	"github.com/freejail/freejail/internal/durable"
)

// ExportConfig is how a host serves roots.
type ExportConfig struct {
	Dir     string   // of the roots; the root of a file system, or to be made one
	Dataset string   // of ZFS: mounted on Dir, each image a dataset below it
	Clients []string // networks, addresses and host names that may have the roots
	File    string   // the exports file, which is ours alone
	V4Root  string   // of the host's NFSv4 tree; as in the operator's own file
	Served  Served   // without Dataset and Clients
	// RemoveTree deletes a tree of an image.
	RemoveTree func(dir string) error
}

// Validate names what is wrong.
func (c ExportConfig) Validate() error {
	for name, p := range map[string]string{"dir": c.Dir, "exports_file": c.File, "v4_root": c.V4Root} {
		if !filepath.IsAbs(p) || filepath.Clean(p) != p || strings.ContainsFunc(p,
			func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) || r == '"' || r == '\\' }) {
			return fmt.Errorf("%s %q is not an absolute, clean path without blanks", name, p)
		}
	}
	if c.Dir == "/" {
		return errors.New("dir is the root of this host")
	}
	if c.V4Root != "/" && c.Dir != c.V4Root && !strings.HasPrefix(c.Dir, c.V4Root+"/") {
		return fmt.Errorf("dir %s is not below v4_root %s", c.Dir, c.V4Root)
	}
	if c.Served.elsewhere() {
		if c.Dataset != "" || len(c.Clients) > 0 {
			return errors.New("served_by is another host: it decides about clients, and zfs_dataset is of this one")
		}
		return nil
	}
	if len(c.Clients) == 0 {
		return errors.New("clients is empty: give networks (for example \"10.0.0.0/24\"), addresses or host names")
	}
	for _, client := range c.Clients {
		if _, err := clientOf(client); err != nil {
			return err
		}
	}
	return nil
}

// client is one of Clients: a network, or else a host.
type client struct {
	host    string
	network *net.IPNet
}

func clientOf(text string) (client, error) {
	if strings.Contains(text, "/") {
		ip, n, err := net.ParseCIDR(text)
		if err != nil || !ip.Equal(n.IP) {
			return client{}, fmt.Errorf("clients: %q is not a valid network (for example 10.0.0.0/24)", text)
		}
		if ones, _ := n.Mask.Size(); ones == 0 {
			return client{}, fmt.Errorf("clients: %q is everyone; name the networks that may have the roots", text)
		}
		return client{network: n}, nil
	}
	if text == "" || text[0] == '-' || strings.ContainsFunc(text, notHost) {
		return client{}, fmt.Errorf("clients: %q is not a valid network or host", text)
	}
	return client{host: text}, nil
}

// URL is what a client's configuration names this directory of roots by.
func (c ExportConfig) URL(host string) string {
	if c.Served.elsewhere() {
		return c.Served.By.String()
	}
	p := c.Dir
	if c.V4Root != "/" {
		p = strings.TrimPrefix(c.Dir, c.V4Root)
	}
	return Server{Host: host, Port: Port, Path: p}.String()
}

// writeExports says whether the file has changed.
func (e *Exporter) writeExports(text string) (bool, error) {
	was, err := os.ReadFile(e.cfg.File)
	if err == nil && string(was) == text {
		return false, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if err := os.MkdirAll(filepath.Dir(e.cfg.File), 0o755); err != nil {
		return false, err
	}
	return true, durable.WriteFile(e.cfg.File, []byte(text), 0o644)
}

const exportsHead = "# Written by freejail, which replaces it: your own exports belong in a file of yours.\n"

// freebsdExports is exports(5) for the directories, each the root of a file
// system.
func (c ExportConfig) freebsdExports(dirs []string) string {
	out := exportsHead + "V4: " + c.V4Root + "\n"
	for _, dir := range dirs {
		for _, text := range c.Clients {
			cl, err := clientOf(text)
			if err != nil {
				continue // Validate has refused it
			}
			to := cl.host
			if cl.network != nil {
				to = "-network " + cl.network.String()
			}
			out += dir + " -alldirs -ro -maproot=root " + to + "\n"
		}
	}
	return out
}

// linuxExports is exports(5) of Linux.
func (c ExportConfig) linuxExports() string {
	out := exportsHead + c.Dir
	for _, to := range c.Clients {
		out += " " + to + "(ro,no_root_squash,no_subtree_check)"
	}
	return out + "\n"
}
