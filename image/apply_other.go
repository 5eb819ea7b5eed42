//go:build !freebsd

package image

import (
	"archive/tar"
	"os"
)

// setFlags does nothing: this system has no file flags.
func setFlags(*os.File, *tar.Header) error { return nil }

func removeAll(root *os.Root, name string) error { return root.RemoveAll(name) }
