package devfs

import (
	"errors"
	"os"
	"slices"
	"testing"
)

// The real kernel, in a ruleset that nobody has.
func TestKernel(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("rulesets need root")
	}
	k, err := OpenKernel()
	if err != nil {
		t.Fatal(err)
	}
	before, err := k.Sets()
	if err != nil {
		t.Fatal(err)
	}
	set := uint16(64321)
	if slices.Contains(before, set) {
		t.Skipf("ruleset %d is someone's", set)
	}
	t.Cleanup(func() {
		if err := k.Delete(set); err != nil {
			t.Error(err)
		}
		if after, err := k.Sets(); err != nil || !slices.Equal(before, after) {
			t.Errorf("rulesets before %v, after %v, %v", before, after, err)
		}
	})
	if rules, err := k.Rules(set); err != nil || len(rules) != 0 {
		t.Errorf("a set that is not there: %v %v", rules, err)
	}
	want := []Rule{{Hide: true}, parse(t, "path null unhide"),
		parse(t, "path 'bpf*' type tty unhide user 5 group 7 mode 640")}
	for i, r := range want {
		if err := k.Add(set, uint16(i+1), r); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.Add(set, 1, want[1]); !errors.Is(err, ErrTaken) {
		t.Errorf("a number that is taken: %v", err)
	}
	got, err := k.Rules(set)
	if err != nil || len(got) != len(want) {
		t.Fatalf("read back: %v %v", got, err)
	}
	for i := range want {
		if got[i].String() != want[i].String() {
			t.Errorf("rule %d: wrote %q, read %q", i+1, want[i], got[i])
		}
	}
	if sets, err := k.Sets(); err != nil || !slices.Contains(sets, set) {
		t.Errorf("sets: %v %v", sets, err)
	}
}
