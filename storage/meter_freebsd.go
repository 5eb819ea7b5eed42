package storage

import (
	"os"

	"github.com/freejail/freejail/internal/bsd"
)

// dirHandle is a directory that is not held open, whatever its path becomes.
type dirHandle struct{ h bsd.Handle }

func handleOf(f *os.File) (dirHandle, error) {
	h, err := bsd.HandleOf(f)
	return dirHandle{h}, err
}

func (h dirHandle) open(*os.File) (*os.File, error) { return h.h.OpenDir() }
