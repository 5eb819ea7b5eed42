package jail

import (
	"context"
	"testing"
)

// BenchmarkStart is a whole jail with one process that ends at once.
func BenchmarkStart(b *testing.B) {
	f := setup(b)
	for b.Loop() {
		name := f.name()
		if _, err := f.m.Create(context.Background(), Spec{Name: name, Root: f.root, Hostname: "bench"}); err != nil {
			b.Fatal(err)
		}
		pid, err := f.m.Start(context.Background(), name,
			Process{Args: []string{"/bin/prog", "inside-nothing"}, Dir: "/"})
		if err != nil {
			b.Fatal(err)
		}
		<-f.m.Wait(pid)
		if err := f.m.Remove(context.Background(), name); err != nil {
			b.Fatal(err)
		}
	}
}
