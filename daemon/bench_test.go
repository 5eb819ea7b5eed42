package daemon

import (
	"fmt"
	"os"
	"testing"

	"github.com/freejail/freejail/daemon/client"
)

// BenchmarkStart is one task's start over the API, until its process runs; the
// image is unpacked before. The task's end is not counted.
func BenchmarkStart(b *testing.B) {
	for _, driver := range []string{"", "readonly"} {
		b.Run("storage="+driver, func(b *testing.B) {
			c, _ := daemonAt(b, shortDir(b), "log_level = \"error\"\n")
			path := archive(b, greeting)
			n := 0
			for b.Loop() {
				id := fmt.Sprintf("b%d-%d", os.Getpid(), n)
				n++
				_, err := c.Start(b.Context(), client.TaskSpec{ID: id, Owner: "cli", Image: path, Storage: driver, Args: []string{"echo"}, Parameters: map[string]string{"GREETING": "x"}})
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := c.Destroy(b.Context(), id, true); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
