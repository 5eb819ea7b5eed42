package mount

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// BenchmarkUnmountUnder unmounts one file system among a thousand, as a host with many tasks has.
func BenchmarkUnmountUnder(b *testing.B) {
	if os.Getuid() != 0 {
		b.Skip("mounting takes root")
	}
	dir := b.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	make := func(name string) {
		err := errors.Join(os.Mkdir(at(name), 0o700), Do(Mount{Type: "nullfs", Source: "/etc", Target: at(name)}))
		if err != nil {
			b.Fatal(err)
		}
	}
	b.Cleanup(func() {
		if err := UnmountUnder(dir); err != nil {
			b.Error(err)
		}
	})
	for n := range 1000 {
		make(strconv.Itoa(n))
	}
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		b.StopTimer()
		make("x" + strconv.Itoa(n))
		b.StartTimer()
		if err := UnmountUnder(at("x" + strconv.Itoa(n))); err != nil {
			b.Fatal(err)
		}
	}
}
