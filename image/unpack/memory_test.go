package unpack

import (
	"bufio"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/blob"
)

// take reserves memory as if something else were read.
func take(t *testing.T, n int64) (release func()) {
	t.Helper()
	soon, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	release, err := blob.Reserve(soon, bufio.NewReader(strings.NewReader("")), n)
	if err != nil {
		t.Fatalf("%d bytes: %v", n, err)
	}
	return release
}

// Unpackings wait for memory, and one that waits can be cancelled.
func TestUnpackingsWaitForMemory(t *testing.T) {
	layer := layerOf(t, file("f", "x"))
	s := newStore(t, image.Limits{})
	img := putLayers(t, s, "test", layer)
	release := take(t, blob.MaxMemory-memory+1)
	waiting, cancel := context.WithCancel(ctx)
	done := make(chan error)
	go func() { done <- Image(waiting, s, img, t.TempDir(), nil) }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("without memory: %v", err)
	}
	release()
	if err := Image(ctx, s, img, t.TempDir(), nil); err != nil {
		t.Error(err)
	}
	take(t, blob.MaxMemory)() // all of it was given back
}
