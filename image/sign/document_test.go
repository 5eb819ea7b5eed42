package sign

import (
	"fmt"
	"testing"

	"github.com/opencontainers/go-digest"
)

// However many documents one key has signed, those of another stay, and a payload counts once of each key.
func TestDocumentsOfManyKeys(t *testing.T) {
	var kept Documents
	by := map[string]string{} // by the payload
	trusted := func(s Signature) string { return by[string(s.Payload)] }
	one := func(key, text string, n int) Signature {
		by[text] = key
		return Signature{Payload: []byte(text), Signature: []byte(fmt.Sprint("signature ", n))}
	}
	count := func() map[string]int {
		t.Helper()
		out := map[string]int{}
		b, err := kept.MarshalText()
		if err == nil {
			err = kept.UnmarshalText(b)
		}
		if err != nil || len(b) > MaxDocumentsText {
			t.Fatal(err, len(b))
		}
		for _, s := range kept {
			out[by[string(s.Payload)]]++
		}
		return out
	}
	kept.Merge(Documents{one("b", "b's", 0)}, trusted)
	for i := range 3 {
		var more Documents
		for n := range 2 * maxDocuments {
			more = append(more, one("a", fmt.Sprint("a's ", n), i), one("", fmt.Sprint("nobody's ", n), i))
		}
		kept.Merge(more, trusted)
	}
	if got := count(); got["b"] != 1 || got["a"] != maxDocuments || got[""] != 0 {
		t.Errorf("got %v", got)
	}
	seen := map[digest.Digest]bool{}
	for _, s := range kept {
		if d := digest.FromBytes(s.Payload); seen[d] {
			t.Errorf("%s is kept twice", s.Payload)
		} else {
			seen[d] = true
		}
	}
	for i := range 4 * maxShares {
		key := fmt.Sprint("key ", i)
		var more Documents
		for n := range 2 * maxDocuments {
			more = append(more, one(key, fmt.Sprint(key, " ", n), 0))
		}
		kept.Merge(more, trusted)
	}
	for key, n := range count() {
		if n < 1 || n > maxShares*maxDocuments/(4*maxShares) {
			t.Errorf("of %s there are %d", key, n)
		}
	}
	if len(kept) > maxShares*maxDocuments || count()["b"] != 1 {
		t.Errorf("%d are kept: %v", len(kept), count())
	}
}
