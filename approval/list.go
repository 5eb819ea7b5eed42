package approval

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/image/sign"
	"github.com/freejail/freejail/internal/strictjson"
)

// MaxListText bounds a signed list as a file or an answer has it, in bytes.
const MaxListText = 2 * maxList

// maxSerial is the largest number that every reader of JSON reads alike.
const maxSerial = 1<<53 - 1

// List is what an approver has signed of approvals that hold no more. A later list has a
// higher serial number, and has what the earlier ones have.
type List struct {
	Type    string    `json:"type"`
	Serial  uint64    `json:"serial"`
	Issued  time.Time `json:"issued"`
	Revoked []Revoked `json:"revoked"`
}

// Revoked is one approval by its ID, or with Image all approvals of that digest which were
// issued until At.
type Revoked struct {
	Approval digest.Digest `json:"approval"`
	Image    digest.Digest `json:"image"`
	At       time.Time     `json:"at"`
	Reason   string        `json:"reason"`
}

// Next is the list after this one, with more in it.
func (l List) Next(now time.Time, more ...Revoked) List {
	at := now.UTC().Truncate(time.Second)
	out := List{Type: typeList, Serial: l.Serial + 1, Issued: at, Revoked: append([]Revoked{}, l.Revoked...)}
	for _, r := range more {
		r.At = at
		out.Revoked = append(out.Revoked, r)
	}
	return out
}

// With is the list with what another one has and it has not, and with the higher serial number and later date.
func (l List) With(other List) List {
	out := List{Type: typeList, Serial: max(l.Serial, other.Serial), Issued: l.Issued,
		Revoked: append(slices.Clone(l.Revoked), l.lacks(&other)...)}
	if other.Issued.After(l.Issued) {
		out.Issued = other.Issued
	}
	return out
}

// lacks are the lines of another list that revoke what this one does not.
func (l *List) lacks(other *List) (out []Revoked) {
	type what struct{ approval, image digest.Digest }
	until := map[what]time.Time{}
	for _, r := range l.Revoked {
		if at, there := until[what{r.Approval, r.Image}]; !there || at.Before(r.At) {
			until[what{r.Approval, r.Image}] = r.At
		}
	}
	for _, r := range other.Revoked {
		if at, there := until[what{r.Approval, r.Image}]; !there || r.Image != "" && at.Before(r.At) {
			out = append(out, r)
		}
	}
	return out
}

// Sign writes the list as a file for hosts to fetch.
func (l List) Sign(key *sign.PrivateKey) ([]byte, error) {
	if err := l.check(); err != nil {
		return nil, err
	}
	b, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	if len(b) > maxList {
		return nil, fmt.Errorf("the list has %d bytes: at most %d are allowed", len(b), maxList)
	}
	s, err := key.SignDocument(b)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(s)
	return append(text, '\n'), err
}

// ReadList reads a list that a key has signed. Nothing is said about whether it is new.
func ReadList(text []byte, key *sign.PublicKey) (l List, err error) {
	var s sign.Signature
	if err := strictjson.Unmarshal(text, &s, strictjson.Rules{Bytes: MaxListText, Values: 10}); err != nil {
		return l, fmt.Errorf("the revocation list: %w", err)
	}
	if !key.Signed(s) {
		return l, fmt.Errorf("the revocation list: %w", errSignature)
	}
	r := strictjson.Rules{Bytes: maxList, Values: 5*MaxRevoked + 10}
	if err := parse(s.Payload, &l, typeList, r); err != nil {
		return l, fmt.Errorf("the revocation list: %w", err)
	}
	return l, l.check()
}

func (l *List) check() error {
	switch {
	case l.Serial == 0 || l.Serial > maxSerial:
		return fmt.Errorf("the revocation list: serial %d: want 1 to %d", l.Serial, uint64(maxSerial))
	case l.Issued.IsZero() || !whole(l.Issued):
		return errors.New("the revocation list: issued: missing, or not in whole seconds of UTC")
	case l.Revoked == nil || len(l.Revoked) > MaxRevoked:
		return fmt.Errorf("the revocation list: revoked: missing, or more than %d", MaxRevoked)
	}
	for _, r := range l.Revoked {
		named, both := cmp.Or(r.Approval, r.Image), r.Approval != "" && r.Image != ""
		if document.CheckDigest(named) != nil || both || !whole(r.At) || len(r.Reason) > maxText {
			return fmt.Errorf("the revocation list: revoked: %.100q: want the digest of an approval or of an image, "+
				"a time and a reason of at most %d bytes", named, maxText)
		}
	}
	return nil
}

// Find tells whether an approval is revoked, and how.
func (l *List) Find(a *Approval) (Revoked, bool) {
	i := slices.IndexFunc(l.Revoked, func(r Revoked) bool {
		return r.Approval != "" && r.Approval == a.id || r.Image == a.Digest && !a.Issued.After(r.At)
	})
	if i < 0 {
		return Revoked{}, false
	}
	return l.Revoked[i], true
}
