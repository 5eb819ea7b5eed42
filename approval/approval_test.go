package approval

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/freejail/freejail/image/sign"
	"github.com/freejail/freejail/policy"
)

var (
	some  = digest.FromString("an image")
	other = digest.FromString("another image")
	noon  = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantError(t *testing.T, err error, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("got %v, want %q in it", err, text)
		}
	}
}

func newKey(t testing.TB) *sign.PrivateKey {
	t.Helper()
	text, _, err := sign.Generate(nil)
	check(t, err)
	key, err := sign.ReadPrivate(text, nil)
	check(t, err)
	return key
}

var raw = policy.Request{Privilege: policy.Allow("raw_sockets"), Source: policy.FromImage}

func someApproval() Approval {
	a := New(some, "registry.example/web:1", []policy.Request{raw, raw}, noon,
		noon.AddDate(0, 0, 30))
	a.By, a.Reason = "alice", "seen <twice> & more"
	return a
}

func TestApprovals(t *testing.T) {
	key := newKey(t)
	a := someApproval()
	doc, err := a.Sign(key)
	check(t, err)
	got, err := Read(doc, key.Public())
	check(t, err)
	if len(got.Requests) != 1 || got.Approved()[0].Key() != "allow:raw_sockets" || got.By != "alice" ||
		got.ID() != digest.FromBytes(doc.Payload) || got.ID() != a.ID() {
		t.Errorf("got %+v", got)
	}
	for name, c := range map[string]struct {
		digest digest.Digest
		now    time.Time
		want   string
	}{"it holds": {some, noon.Add(time.Hour), ""}, "stolen": {other, noon, "for another image, " + some.String()},
		"expired":          {some, a.Expires, "it has expired: it was valid until 2026-06-03T12:00:00Z"},
		"a clock too slow": {some, noon.Add(-time.Hour), "dated 2026-05-04T12:00:00Z, which is in the future"},
		"nearly":           {some, noon.Add(-time.Minute), ""}} {
		err := got.Holds(c.digest, c.now)
		if c.want == "" && err != nil {
			t.Errorf("%s: %v", name, err)
		} else if c.want != "" {
			wantError(t, err, c.want)
		}
	}
	if err := got.Holds(some, a.Expires); !errors.Is(err, ErrExpired) {
		t.Error(err)
	}
	later := someApproval()
	later.NotBefore = noon.Add(24 * time.Hour)
	wantError(t, later.Holds(some, noon), "not valid before 2026-05-05")
}

// What was signed is read in one way, and only as what it is.
func TestEditedApprovals(t *testing.T) {
	key := newKey(t)
	a := someApproval()
	doc, err := a.Sign(key)
	check(t, err)
	_, err = Read(doc, newKey(t).Public())
	wantError(t, err, "not signed by this key")
	text := string(doc.Payload)
	edit := func(old, new string) []byte {
		if !strings.Contains(text, old) {
			t.Fatalf("%q is not in %s", old, text)
		}
		return []byte(strings.Replace(text, old, new, 1))
	}
	edited := sign.Signature{Payload: edit("raw_sockets", "mount"), Signature: doc.Signature}
	_, err = Read(edited, key.Public())
	wantError(t, err, "not signed by this key, or was edited")
	list, err := List{}.Next(noon).Sign(key)
	check(t, err)
	var signedList sign.Signature
	check(t, json.Unmarshal(list, &signedList))
	for name, c := range map[string]struct {
		payload []byte
		want    string
	}{
		"an unknown field":        {edit(`"by"`, `"also":1,"by"`), "unknown field"},
		"a duplicate field":       {edit(`"by"`, `"by":"eve","by"`), "duplicate key"},
		"another case":            {edit(`"by"`, `"BY"`), `some programs take it for "by"`},
		"a space":                 {edit(`"by"`, ` "by"`), "not in canonical form"},
		"a missing field":         {edit(`"by":"alice",`, ``), "not in canonical form"},
		"an escape":               {edit(`alice`, `\u0061lice`), "not in canonical form"},
		"more behind it":          {append([]byte(text), '{', '}'), "after"},
		"another zone":            {edit("2026-05-04T12:00:00Z", "2026-05-04T12:00:00+00:00"), ""},
		"fractions":               {edit("2026-05-04T12:00:00Z", "2026-05-04T12:00:00.5Z"), "whole seconds"},
		"another type":            {edit(" v1", " v2"), `want "freejail approval v1"`},
		"a list of revocations":   {signedList.Payload, "unknown field"},
		"no requests":             {edit(`[{"kind":"allow","name":"allow.raw_sockets","value":"true"}]`, "[]"), "0 of them"},
		"null for requests":       {edit(`[{"kind":"allow","name":"allow.raw_sockets","value":"true"}]`, "null"), "0 of them"},
		"no reason":               {edit(`"seen \u003ctwice\u003e \u0026 more"`, `""`), "reason: missing"},
		"no end":                  {edit("2026-06-03", "0001-01-01"), "expires: missing"},
		"a signature's exemption": {edit(`"allow"`, `"signature"`), "not for approvals of a fleet"},
		"no digest":               {edit(some.String(), "sha256:00"), "is not one of SHA-256"},
		"another hash":            {edit(some.String(), "sha512:"+strings.Repeat("0", 128)), "is not one of SHA-256"},
	} {
		again, err := key.SignDocument(c.payload)
		check(t, err)
		if _, err = Read(again, key.Public()); err == nil {
			t.Errorf("%s is accepted", name)
		} else if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	// Nor is it taken for what else a key signs, or that for it.
	if _, err := key.Public().Verify(doc); err == nil {
		t.Error("an approval is a signature of an image")
	}
	sig, err := key.Sign(sign.Statement{Identity: "registry.example/web", Digest: some})
	check(t, err)
	if _, err := Read(sig, key.Public()); err == nil {
		t.Error("a signature of an image is an approval")
	}
	if _, err := ReadList(mustMarshal(t, doc), key.Public()); err == nil {
		t.Error("an approval is a list of revocations")
	}
}

func mustMarshal(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	check(t, err)
	return b
}

// What is accepted has one way of being written.
func FuzzRead(f *testing.F) {
	key := newKey(f)
	a := someApproval()
	doc, err := a.Sign(key)
	check(f, err)
	f.Add(doc.Payload)
	f.Add(bytes.Replace(doc.Payload, []byte(`"by"`), []byte(`"by":"","by"`), 1))
	f.Add([]byte(`{"type":"freejail approval v1","requests":[{}]}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		a, err := Parse(payload)
		if err != nil {
			return
		}
		again, err := a.Sign(key)
		if err != nil || !bytes.Equal(again.Payload, payload) {
			t.Errorf("%s is read as what is written %s: %v", payload, again.Payload, err)
		}
	})
}
