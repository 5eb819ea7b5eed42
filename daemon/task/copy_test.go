package task

import (
	"strings"
	"testing"

	"github.com/freejail/freejail/daemon/client"
)

// A path is refused for its length before anything is told of it.
func TestCopyPathsAreBounded(t *testing.T) {
	long := strings.Repeat("x", maxCopyPath+1)
	for _, spec := range []client.CopySpec{{Path: long}, {Path: "/", Name: long, In: true}} {
		_, err := (&Manager{}).rootForCopy(&task{}, spec, Copier{Root: true})
		if client.AsError(err).Code != client.CodeInvalid {
			t.Errorf("%v", err)
		}
	}
}
