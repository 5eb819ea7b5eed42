package jail

import "testing"

// Who only wants to know that a process ends neither loses its word when the
// process becomes known to others, nor takes theirs.
func TestWatchBesideWait(t *testing.T) {
	var p procs
	ended, isNew := p.watch(7, "fj-one")
	if ended == nil || !isNew {
		t.Fatal("it is not watched")
	}
	p.add(7, proc{jail: "fj-one"}) // as an exec does for its child
	again, isNew := p.watch(7, "fj-one")
	if again == nil || isNew {
		t.Error("it is new again")
	}
	p.tell(7, Exit{Known: true, Code: 3})
	<-ended
	<-again
	if c, _ := p.watch(7, "fj-one"); c != nil {
		t.Error("what has ended is watched")
	}
	if e := <-p.wait(7); !e.Known || e.Code != 3 {
		t.Errorf("who asks for it is told %+v", e)
	}
	ended, _ = p.watch(8, "fj-one")
	p.tell(8, Exit{Known: true})
	<-ended
	if _, has := p.m[8]; has {
		t.Error("what nobody asks for is kept")
	}
}
