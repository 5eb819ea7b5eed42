package network

import (
	"fmt"
	"testing"
)

// BenchmarkLoad loads the rules of one task more, and of it no longer, among others.
func BenchmarkLoad(b *testing.B) {
	for _, n := range []int{0, 100, 300} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			web, tasks := manyTasks(n + 1)
			f, err := newFilter(Config{StateDir: b.TempDir()})
			if err == nil {
				err = f.load([]Network{web}, tasks[:n])
			}
			if err != nil {
				b.Skip(err)
			}
			b.Cleanup(func() {
				if err := f.load(nil, nil); err != nil {
					b.Error(err)
				}
			})
			for b.Loop() {
				if err := f.load([]Network{web}, tasks); err != nil {
					b.Fatal(err)
				}
				if err := f.load([]Network{web}, tasks[:n]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
