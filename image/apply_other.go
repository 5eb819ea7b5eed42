//go:build !freebsd

package image

import (
	"archive/tar"
	"io/fs"
	"os"
)

// This system has no file flags.

func flagsOf(*tar.Header) int { return 0 }

func frozen(fs.FileInfo) bool { return false }

func melt(*os.File, fs.FileInfo) (int, error) { return 0, nil }

func setFlags(*os.File, int) error { return nil }

func removeAll(root *os.Root, name string) error { return root.RemoveAll(name) }
