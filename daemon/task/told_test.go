package task

import (
	"slices"
	"testing"
	"time"

	"github.com/freejail/freejail/image"
)

// An unpacking that takes long is told of, and not with every byte.
func TestUnpackingIsTold(t *testing.T) {
	first, every := firstTold, toldEvery
	t.Cleanup(func() { firstTold, toldEvery = first, every })
	firstTold, toldEvery = 0, time.Hour
	var told []string
	tell := ToldNowAndThen("web", func(text string) { told = append(told, text) })
	for done := range int64(3) {
		tell(image.Progress{Layers: 4, LayersDone: 1, Size: 3 << 20, Done: (done + 1) << 20})
	}
	if want := []string{"unpacking web: 1 of 4 layers, 1MiB of 3MiB"}; !slices.Equal(told, want) {
		t.Errorf("got %q, want %q", told, want)
	}
	firstTold, told = time.Hour, nil
	tell = ToldNowAndThen("web", func(text string) { told = append(told, text) })
	if tell(image.Progress{Size: 2, Done: 1}); told != nil {
		t.Errorf("a short one is told: %q", told)
	}
}
