package approval

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/freejail/freejail/image/sign"
	"github.com/freejail/freejail/internal/testhost"
)

func file(t *testing.T, b []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "list")
	check(t, os.WriteFile(name, b, 0o644))
	return name
}

func signed(t *testing.T, l List, key *sign.PrivateKey) []byte {
	t.Helper()
	b, err := l.Sign(key)
	check(t, err)
	return b
}

// A list that was there before does not count again, after a restart either, nor does
// another with the same number.
func TestOldLists(t *testing.T) {
	key, dir, now := newKey(t), t.TempDir(), time.Now()
	lists := OpenLists(filepath.Join(dir, "lists"))
	a := someApproval()
	doc, err := a.Sign(key)
	check(t, err)
	a, err = Read(doc, key.Public())
	check(t, err)
	first := List{}.Next(now.Add(-time.Hour))
	second := first.Next(now, Revoked{Approval: a.ID(), Reason: "a mistake"})
	evil := first.Next(now)
	path := filepath.Join(dir, "list")
	s := Source{Key: key.Public(), From: path, MaxAge: time.Hour * 24}
	put := func(b []byte) (bool, error) {
		check(t, os.WriteFile(path, b, 0o644))
		return lists.Refresh(t.Context(), s)
	}
	wantError(t, lists.Check(s, &a, now), "there is no revocation list")
	if news, err := put(signed(t, first, key)); err != nil || !news {
		t.Fatal(news, err)
	}
	check(t, lists.Check(s, &a, now))
	if news, err := put(signed(t, second, key)); err != nil || !news {
		t.Fatal(news, err)
	}
	for range 2 {
		wantError(t, lists.Check(s, &a, now), "it was revoked on", "a mistake")
		if news, err := put(signed(t, second, key)); err != nil || news {
			t.Error(news, err)
		}
		_, err := put(signed(t, first, key))
		wantError(t, err, "serial 1 is older than 2", "an old list again")
		_, err = put(signed(t, evil, key))
		wantError(t, err, "serial 2 is not the list that had that serial", "(1 of the 1 known here are)", "--merge")
		_, err = put(signed(t, second.Next(now.Add(-2*time.Hour)), key))
		wantError(t, err, "serial 3 is dated before serial 2")
		_, err = put(signed(t, second.Next(now.Add(time.Hour)), key))
		wantError(t, err, "in the future by this host's clock")
		_, err = put(signed(t, second.Next(now), newKey(t)))
		wantError(t, err, "not signed by this key")
		_, err = put([]byte("{}"))
		wantError(t, err, "not signed by this key")
		if st := lists.State(s); st.List == nil || st.List.Serial != 2 || st.Err == nil {
			t.Errorf("got %+v", st)
		}
		lists = OpenLists(filepath.Join(dir, "lists"))
	}
	// What was kept is verified when it is read again.
	kept, err := filepath.Glob(filepath.Join(dir, "lists", "*"))
	if err != nil || len(kept) != 1 {
		t.Fatal(kept, err)
	}
	check(t, os.WriteFile(kept[0], []byte(`{"fetched":"2026-05-04T12:00:00Z","list":`+
		string(signed(t, first, newKey(t)))+`}`), 0o600))
	lists = OpenLists(filepath.Join(dir, "lists"))
	wantError(t, lists.Check(s, &a, now), "there is no revocation list", "that was kept", "not signed by this key")
}

// What one list revokes stays revoked where a later one lacks it, as it was made of an older copy: over restarts, in
// whatever order they come, and until a list has all.
func TestListsThatLackEachOther(t *testing.T) {
	key, now, dir := newKey(t), time.Now(), t.TempDir()
	var ids []Approval
	for i := range 4 {
		a := someApproval()
		a.Reason = fmt.Sprint(i)
		_, err := a.Sign(key)
		check(t, err)
		ids = append(ids, a)
	}
	revoked := func(i int) Revoked { return Revoked{Approval: ids[i].ID(), Reason: "CVE"} }
	first := List{}.Next(now.Add(-time.Hour), revoked(0))
	a := first.Next(now.Add(-time.Minute), revoked(1))
	b := first.Next(now.Add(-time.Minute), revoked(2)) // of an older copy
	c := b.Next(now)                                   // and dated anew, which hosts take
	all := c.With(a).Next(now)
	if all.Serial != 4 || len(all.Revoked) != 3 {
		t.Fatalf("merged: %+v", all)
	}
	lists := OpenLists(dir)
	s := Source{Key: key.Public(), From: filepath.Join(t.TempDir(), "list"), MaxAge: time.Hour * 24}
	for i, step := range []struct {
		list    List
		news    bool
		err     string
		serial  uint64
		revoked string
		lacks   int
	}{
		{first, true, "", 1, "0", 0}, {a, true, "", 2, "01", 0}, {b, true, "has that serial", 2, "012", 1},
		{b, false, "has that serial", 2, "012", 1}, {first, false, "old list again", 2, "012", 1},
		{c, true, "", 3, "012", 1}, {a, false, "old list again", 3, "012", 1}, {all, true, "", 4, "012", 0},
		{c, false, "old list again", 4, "012", 0},
	} {
		check(t, os.WriteFile(s.From, signed(t, step.list, key), 0o644))
		news, err := lists.Refresh(t.Context(), s)
		if news != step.news || (err == nil) != (step.err == "") {
			t.Errorf("step %d: news %v, %v", i, news, err)
		}
		for range 2 {
			for n := range ids {
				if gone := lists.Check(s, &ids[n], now) != nil; gone != strings.Contains(step.revoked, fmt.Sprint(n)) {
					t.Errorf("step %d: %d is revoked: %v", i, n, gone)
				}
			}
			if st := lists.State(s); st.List.Serial != step.serial || st.Lacks() != step.lacks {
				t.Errorf("step %d: serial %d, which lacks %d", i, st.List.Serial, st.Lacks())
			}
			lists = OpenLists(dir)
		}
	}
}

// However many lists go on from an older copy, what each revokes counts, over restarts; and where they are more than
// are kept nothing by the key counts any more.
func TestManyListsThatLackEachOther(t *testing.T) {
	key, now, dir := newKey(t), time.Now().Add(-time.Hour), t.TempDir()
	lists := OpenLists(dir)
	s := Source{Key: key.Public(), From: filepath.Join(t.TempDir(), "list"), MaxAge: time.Hour * 24, Keep: true}
	put := func(i int) error {
		l := List{Serial: uint64(i)}.Next(now, Revoked{Approval: digest.FromString(fmt.Sprint(i)), Reason: "x"})
		check(t, os.WriteFile(s.From, signed(t, l, key), 0o644))
		_, err := lists.Refresh(t.Context(), s)
		return err
	}
	for i := range 1 + maxOthers {
		check(t, put(i))
	}
	fine := someApproval()
	for range 2 {
		for i := range 1 + maxOthers {
			wantError(t, lists.Check(s, &Approval{id: digest.FromString(fmt.Sprint(i))}, now), "it was revoked on")
		}
		check(t, lists.Check(s, &fine, now))
		lists = OpenLists(dir)
	}
	wantError(t, put(1+maxOthers), "too many lists", "--merge", dir)
	for range 2 {
		wantError(t, lists.Check(s, &fine, now), "too many lists")
		wantError(t, lists.State(s).Err, "too many lists")
		if st := lists.State(s); s.Current(st, now) == nil {
			t.Error("it is current")
		}
		lists = OpenLists(dir)
	}
	// A list that has all that are kept need not have the one that was not.
	wantError(t, put(1+maxOthers), "too many lists")
	all := lists.State(s)
	merged := *all.List
	for _, o := range all.Others {
		merged = merged.With(o)
	}
	check(t, os.WriteFile(s.From, signed(t, merged.Next(now), key), 0o644))
	_, err := lists.Refresh(t.Context(), s)
	wantError(t, err, "too many lists")
	wantError(t, lists.Check(s, &fine, now), "too many lists")
}

// Why a list could not be had of one place says nothing of another one, which the host names since.
func TestListOfAnotherPlace(t *testing.T) {
	key := newKey(t)
	lists := OpenLists(t.TempDir())
	before := Source{Key: key.Public(), From: filepath.Join(t.TempDir(), "none")}
	_, err := lists.Refresh(t.Context(), before)
	wantError(t, err, "no such file")
	wantError(t, lists.State(before).Err, "no such file")
	now := Source{Key: key.Public(), From: file(t, signed(t, List{}.Next(time.Now()), key))}
	if st := lists.State(now); st.Err != nil || !st.Tried.IsZero() {
		t.Errorf("of the other place: %v, tried at %s", st.Err, st.Tried)
	}
	_, err = lists.Refresh(t.Context(), now)
	check(t, err)
	if st := lists.State(now); st.Err != nil || st.List == nil || st.Tried.IsZero() {
		t.Errorf("got %+v", st)
	}
}

// A list that is too old is as none, unless the host says otherwise.
func TestAgeOfLists(t *testing.T) {
	key, now := newKey(t), time.Now()
	a := someApproval()
	_, err := a.Sign(key)
	check(t, err)
	s := Source{Key: key.Public(), MaxAge: 24 * time.Hour,
		From: file(t, signed(t, List{}.Next(now.Add(-25*time.Hour)), key))}
	lists := OpenLists(t.TempDir())
	_, err = lists.Refresh(t.Context(), s)
	check(t, err)
	wantError(t, lists.Check(s, &a, now), "serial 1", "older than max_age = 24h0m0s")
	wantError(t, lists.Check(s, &a, now.Add(-48*time.Hour)), "in the future by this host's clock")
	check(t, lists.Check(s, &a, now.Add(-2*time.Hour)))
	s.Keep = true
	check(t, lists.Check(s, &a, now))
	check(t, lists.Check(Source{Key: newKey(t).Public(), From: "/nowhere", Keep: true}, &a, now))
	check(t, lists.Check(Source{Key: newKey(t).Public()}, &a, now))
}

// All approvals of a digest can be revoked, and one be given again.
func TestRevokedImages(t *testing.T) {
	key := newKey(t)
	old, fresh := someApproval(), someApproval()
	fresh.Issued = noon.Add(2 * time.Hour)
	l := List{}.Next(noon.Add(time.Hour), Revoked{Image: some, Reason: "CVE"})
	_, err := ReadList(signed(t, l, key), key.Public())
	check(t, err)
	if _, found := l.Find(&old); !found {
		t.Error("it is not revoked")
	}
	if _, found := l.Find(&fresh); found {
		t.Error("one that came later is revoked")
	}
	_, err = l.Next(noon, Revoked{Image: some, Approval: other}).Sign(key)
	wantError(t, err, "of an approval or of an image")
}

func TestFetchedLists(t *testing.T) {
	key := newKey(t)
	good := signed(t, List{}.Next(time.Now()), key)
	mux := http.NewServeMux()
	mux.HandleFunc("/good", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(good) })
	mux.HandleFunc("/elsewhere", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/good", http.StatusFound)
	})
	mux.HandleFunc("/large", func(w http.ResponseWriter, _ *http.Request) {
		for range MaxListText/1000 + 2 {
			fmt.Fprint(w, strings.Repeat(" ", 1000))
		}
	})
	srv := httptest.NewServer(mux)
	defer srv.Close()
	for path, want := range map[string]string{"/good": "", "/elsewhere": "to /good: give that address", "/none": "404",
		"/large": "more than"} {
		news, err := OpenLists(t.TempDir()).Refresh(t.Context(), Source{Key: key.Public(), From: srv.URL + path})
		if want == "" && (err != nil || !news) {
			t.Error(path, err)
		} else if want != "" {
			wantError(t, err, want)
		}
	}
	secure := httptest.NewTLSServer(mux)
	defer secure.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	check(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}), 0o600))
	s := Source{Key: key.Public(), From: secure.URL + "/good"}
	_, err := OpenLists(t.TempDir()).Refresh(t.Context(), s)
	wantError(t, err, "certificate")
	s.CAFile = ca
	if news, err := OpenLists(t.TempDir()).Refresh(t.Context(), s); err != nil || !news {
		t.Error("with its CA:", err)
	}
	check(t, os.Remove(ca))
	_, err = OpenLists(t.TempDir()).Refresh(t.Context(), s)
	wantError(t, err, "ca_file: open")
	wantError(t, CheckSource("http://deploy.example/list", ca), "is for an address with https://")
	fifo := filepath.Join(t.TempDir(), "fifo")
	check(t, syscall.Mkfifo(fifo, 0o600))
	_, err = OpenLists(t.TempDir()).Refresh(t.Context(), Source{Key: key.Public(), From: fifo})
	wantError(t, err, "not a regular file")
}

func FuzzReadList(f *testing.F) {
	key := newKey(f)
	doc, err := key.SignDocument([]byte(`{"type":"freejail revocations v1","serial":1,"issued":"2026-05-04T12:00:00Z",` +
		`"revoked":[]}`))
	check(f, err)
	f.Add(doc.Payload)
	f.Fuzz(func(t *testing.T, payload []byte) {
		doc, err := key.SignDocument(payload)
		check(t, err)
		l, err := ReadList(mustMarshal(t, doc), key.Public())
		if err != nil {
			return
		}
		if again, err := l.Sign(key); err != nil {
			t.Errorf("%s: %v", payload, err)
		} else if l2, err := ReadList(again, key.Public()); err != nil || !equal(&l, &l2) {
			t.Errorf("%s: %v", payload, err)
		}
	})
}

// Twenty starts that want a list of a server that does not answer ask it once together, or twice where one had begun.
func TestListIsAskedForOnce(t *testing.T) {
	key := newKey(t)
	lists := OpenLists(t.TempDir())
	s := Source{Key: key.Public(), From: "https://lists.example/list"}
	asked := 0
	testhost.Answer(t, func(req *http.Request) (*http.Response, error) {
		asked++
		<-req.Context().Done()
		return nil, req.Context().Err()
	})
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		first := make(chan error, 1)
		go func() { _, err := lists.Refresh(t.Context(), s); first <- err }()
		synctest.Wait()
		time.Sleep(time.Second)
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() { _, _ = lists.Refresh(t.Context(), s) })
		}
		all.Wait()
		wantError(t, <-first, "lists.example")
		if took := time.Since(began); asked != 2 || took > 2*fetchTimeout {
			t.Errorf("asked %d times, for %s", asked, took)
		}
		wantError(t, lists.State(s).Err, "lists.example")
	})
}

// A start that is given up while it asks for a list has not asked for those that come, or wait.
func TestListThatNobodyWaitedFor(t *testing.T) {
	key := newKey(t)
	text, err := List{}.Next(time.Date(1999, 12, 31, 0, 0, 0, 0, time.UTC)).Sign(key) // a bubble's time begins then
	check(t, err)
	lists := OpenLists(t.TempDir())
	s := Source{Key: key.Public(), From: "https://lists.example/list"}
	asked := 0
	testhost.Answer(t, func(req *http.Request) (*http.Response, error) {
		if asked++; asked <= 2 {
			<-req.Context().Done()
			return nil, req.Context().Err()
		}
		return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(text)), Request: req}, nil
	})
	synctest.Test(t, func(t *testing.T) {
		ask := func(ctx context.Context) (end func(), result chan error) {
			ctx, end = context.WithCancel(ctx)
			result = make(chan error, 1)
			go func() { _, err := lists.Refresh(ctx, s); result <- err }()
			synctest.Wait()
			time.Sleep(time.Second)
			return end, result
		}
		endFirst, first := ask(t.Context())
		endSecond, second := ask(t.Context())
		endThird, third := ask(t.Context())
		defer endThird()
		endFirst()
		wantError(t, <-first, "canceled")
		if st := lists.State(s); !st.Tried.IsZero() || st.Err != nil {
			t.Errorf("nobody has waited: %+v", st)
		}
		synctest.Wait()
		endSecond()
		wantError(t, <-second, "canceled")
		check(t, <-third)
		if st := lists.State(s); asked != 3 || st.List == nil || st.Tried.IsZero() {
			t.Errorf("asked %d times: %+v", asked, st)
		}
	})
}
