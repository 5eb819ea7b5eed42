// Package approval has the approvals of a fleet: signed documents about a digest, which
// hosts honour that name the key, and signed lists of those that are revoked.
package approval

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/image/sign"
	"github.com/freejail/freejail/internal/strictjson"
	"github.com/freejail/freejail/policy"
)

// The first field of what is signed says what it is.
const (
	typeApproval = "freejail approval v1"
	typeList     = "freejail revocations v1"
)

// Bounds of one document.
const (
	MaxRequests = 500
	maxText     = 1000 // bytes of each text in it
	maxList     = 1 << 20
	MaxRevoked  = 4000
)

// skew is how far the clock of who signs may be ahead of the host's.
const skew = 5 * time.Minute

// Approval is what an approver has signed: exactly these requests, for exactly this digest of
// an image's manifest, within a time.
type Approval struct {
	Type     string        `json:"type"`
	Digest   digest.Digest `json:"digest"`
	Image    string        `json:"image"` // by which name it was approved; the digest counts
	Requests []Request     `json:"requests"`
	By       string        `json:"by"` // who used the key, by their own word
	Reason   string        `json:"reason"`
	Issued   time.Time     `json:"issued"`
	// NotBefore is from when it holds; Expires is until when.
	NotBefore time.Time `json:"notBefore"`
	Expires   time.Time `json:"expires"`

	id digest.Digest
}

// Request is a request as approvals of a host keep it, without who asks.
type Request struct {
	Kind  policy.Kind `json:"kind"`
	Name  string      `json:"name"`
	Value string      `json:"value"`
}

// ID names an approval: the SHA-256 of what was signed.
func (a *Approval) ID() digest.Digest { return a.id }

// New is an approval that holds from now on, in the form in which it is signed: times are of
// whole seconds in UTC.
func New(d digest.Digest, image string, reqs []policy.Request, now, expires time.Time) Approval {
	at := now.UTC().Truncate(time.Second)
	a := Approval{Type: typeApproval, Digest: d, Image: image, Issued: at, NotBefore: at,
		Expires: expires.UTC().Truncate(time.Second), Requests: []Request{}}
	seen := map[Request]bool{}
	for _, r := range reqs {
		var own Request
		own.Kind, own.Name, own.Value = r.Form()
		if !seen[own] {
			a.Requests = append(a.Requests, own)
		}
		seen[own] = true
	}
	return a
}

// Sign signs what Check finds nothing wrong with.
func (a *Approval) Sign(key *sign.PrivateKey) (sign.Signature, error) {
	if err := a.Check(); err != nil {
		return sign.Signature{}, err
	}
	b, err := json.Marshal(a)
	if err != nil {
		return sign.Signature{}, err
	}
	if len(b) > sign.MaxPayload {
		return sign.Signature{}, fmt.Errorf("the approval has %d bytes: at most %d are allowed", len(b),
			sign.MaxPayload)
	}
	a.id = digest.FromBytes(b)
	return key.SignDocument(b)
}

// errSignature is of what the key has not signed.
var errSignature = errors.New("it is not signed by this key, or was edited")

// Read reads an approval that a key has signed. It is not said whether it holds.
func Read(s sign.Signature, key *sign.PublicKey) (a Approval, err error) {
	if !key.Signed(s) {
		return a, errSignature
	}
	return Parse(s.Payload)
}

// Parse reads what is signed, by whomever. It has one form alone: that in which Sign writes it.
func Parse(payload []byte) (a Approval, err error) {
	if err := parse(payload, &a, typeApproval, strictjson.Rules{Bytes: sign.MaxPayload, Values: 5000}); err != nil {
		return a, fmt.Errorf("the approval: %w", err)
	}
	a.id = digest.FromBytes(payload)
	return a, a.Check()
}

// parse reads a document that is the one way of writing what is in it.
func parse[T any](payload []byte, into *T, kind string, r strictjson.Rules) error {
	if err := strictjson.Check(payload, reflect.TypeFor[T](), r); err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(payload))
	dec.DisallowUnknownFields() // what is not understood must not be passed over
	if err := dec.Decode(into); err != nil {
		return err
	}
	if own := reflect.ValueOf(into).Elem().FieldByName("Type").String(); own != kind {
		return fmt.Errorf("type: %.100q, want %q", own, kind)
	}
	again, err := json.Marshal(into)
	if err == nil && !bytes.Equal(again, payload) {
		err = errors.New("it is not in canonical form")
	}
	return err
}

// Check finds what no approval may be.
func (a *Approval) Check() error {
	switch {
	case document.CheckDigest(a.Digest) != nil:
		return fmt.Errorf("digest: %.100q is not one of SHA-256", a.Digest)
	case len(a.Requests) == 0 || len(a.Requests) > MaxRequests:
		return fmt.Errorf("requests: %d of them: want 1 to %d", len(a.Requests), MaxRequests)
	case a.Reason == "":
		return errors.New("reason: missing")
	case a.Expires.IsZero() || !a.Expires.After(a.NotBefore):
		return errors.New("expires: missing, or not after notBefore")
	case a.Issued.IsZero() || a.NotBefore.IsZero():
		return errors.New("issued or notBefore: missing")
	case !whole(a.Issued, a.NotBefore, a.Expires):
		return errors.New("a time is not in whole seconds of UTC")
	}
	for _, r := range a.Requests {
		if r.Kind == policy.KindSignature {
			return errors.New("requests: what a host requires to be signed is not for approvals of a fleet")
		}
		if len(r.Kind)+len(r.Name)+len(r.Value) > 4*maxText {
			return errors.New("requests: one is too long")
		}
	}
	for _, text := range []string{a.Image, a.By, a.Reason} {
		if len(text) > maxText {
			return fmt.Errorf("a text has %d bytes: at most %d are allowed", len(text), maxText)
		}
	}
	return nil
}

func whole(times ...time.Time) bool {
	for _, t := range times {
		if t.Nanosecond() != 0 || t.Location() != time.UTC {
			return false
		}
	}
	return true
}

// ErrExpired is in the error of Holds for an approval whose time is over.
var ErrExpired = errors.New("it has expired")

// Holds tells why an approval is not one of an image at a time by the host's clock; nil where
// it is.
func (a *Approval) Holds(d digest.Digest, now time.Time) error {
	switch {
	case a.Digest != d:
		return fmt.Errorf("it is for another image, %s", a.Digest)
	case a.Issued.After(now.Add(skew)):
		return fmt.Errorf("it is dated %s, which is in the future by this host's clock", stamp(a.Issued))
	case a.NotBefore.After(now.Add(skew)):
		return fmt.Errorf("it is not valid before %s", stamp(a.NotBefore))
	case !now.Before(a.Expires):
		return fmt.Errorf("%w: it was valid until %s", ErrExpired, stamp(a.Expires))
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Approved are the requests as the policy compares them. One of a kind that this version
// does not know equals none that is asked for.
func (a *Approval) Approved() (out []policy.Request) {
	for _, r := range a.Requests {
		out = append(out, policy.RequestOf(r.Kind, r.Name, r.Value))
	}
	return out
}

// About tells whether a document is an approval of an image, whoever has signed it.
func About(d digest.Digest, s sign.Signature) bool {
	a, err := Parse(s.Payload)
	return err == nil && a.Digest == d
}

// Signer is the fingerprint of the first of the keys that has signed a document, where that is an approval of an image;
// else it is empty.
func Signer(d digest.Digest, s sign.Signature, keys []*sign.PublicKey) string {
	i := slices.IndexFunc(keys, func(k *sign.PublicKey) bool { return k.Signed(s) })
	if i < 0 || !About(d, s) {
		return ""
	}
	return keys[i].Fingerprint()
}
