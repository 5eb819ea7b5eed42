package daemon

import (
	"fmt"
	"os"
	"testing"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testimage"
)

// BenchmarkStart is one task's start over the API, until its process runs; the
// image is unpacked before. BenchmarkStop is its end. FreeBSD's base system has
// some hundred links.
func BenchmarkStart(b *testing.B) { benchmarkTask(b, true) }
func BenchmarkStop(b *testing.B)  { benchmarkTask(b, false) }

func benchmarkTask(b *testing.B, start bool) {
	for _, driver := range []string{"", "readonly"} {
		for _, links := range []int{0, 200, 1500} {
			b.Run(fmt.Sprintf("storage=%s,links=%d", driver, links), func(b *testing.B) {
				c, _ := daemonAt(b, shortDir(b), "log_level = \"error\"\n")
				spec := testimage.Spec{Name: "prog", Manifest: greeting, Cmd: []string{"inside"},
					Links: map[string]string{}}
				for i := range links {
					spec.Links[fmt.Sprintf("/dir%d/lib%d.so", i%8, i)] = fmt.Sprintf("libsomething.so.%d", i)
				}
				path, err := testimage.Write(b.Context(), b.TempDir(), spec)
				if err != nil {
					b.Fatal(err)
				}
				timed := func(n int, on bool, do func() error) {
					if on && n > 0 {
						b.StartTimer()
						defer b.StopTimer()
					}
					if err := do(); err != nil {
						b.Fatal(err)
					}
				}
				b.StopTimer()
				b.ResetTimer()
				for n := range b.N + 1 { // the first unpacks
					id := fmt.Sprintf("b%d-%d", os.Getpid(), n)
					timed(n, start, func() error {
						_, err := c.Start(b.Context(), client.TaskSpec{ID: id, Owner: "cli", Image: path,
							Storage: driver, Args: []string{"echo"}, Parameters: map[string]string{"GREETING": "x"}})
						return err
					})
					timed(n, !start, func() error { return c.Destroy(b.Context(), id, true) })
				}
			})
		}
	}
}
