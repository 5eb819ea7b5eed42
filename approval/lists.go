package approval

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/freejail/freejail/image/sign"
	"github.com/freejail/freejail/internal/cafile"
	"github.com/freejail/freejail/internal/durable"
	"github.com/freejail/freejail/internal/keylock"
	"github.com/freejail/freejail/internal/regular"
	"github.com/freejail/freejail/internal/strictjson"
)

// Source is where a host has an approver's list from, and what it makes of it.
type Source struct {
	Key *sign.PublicKey
	// From is an address (https://, http://) or the absolute path of a file. Empty is no list: nothing is
	// revoked.
	From string
	// CAFile has certificates in PEM by which an address is trusted, beside the system's. It is read for each fetch.
	CAFile string
	// MaxAge is how old a list may be, by its own date, to count as current.
	MaxAge time.Duration
	// Keep honours approvals by the newest list that is known, or without one, where there
	// is no current one; else they are refused.
	Keep bool
}

// State is what a host knows of a list.
type State struct {
	List    *List     // the newest that there was; nil is none
	Others  []List    // that revoke what it does not: that counts too
	Full    bool      // there were more of those than are kept: no approval counts
	Fetched time.Time // when that was had, or had again
	Tried   time.Time // when it was last asked for
	Err     error     // of that; nil is none
}

// Bounds of the lists by one key that are kept beside the newest. There is one more each time that somebody goes
// on from an older copy, until a list has them all.
const (
	maxOthers     = 50
	maxOthersText = 8 * MaxListText // bytes together
)

// errFull is of a key that has signed more lists than are kept: what was revoked may not be known.
var errFull = errors.New("the revocation list: too many lists lack revocations of each other, so that some are not " +
	"known here: sign one that has all (freejail policy revoke --merge)")

// Lacks counts the revocations that the newest list has not, and others have.
func (st *State) Lacks() int {
	if st.List == nil {
		return 0
	}
	all := *st.List
	for _, o := range st.Others {
		all = all.With(o)
	}
	return len(all.Revoked) - len(st.List.Revoked)
}

func (st *State) find(a *Approval) (r Revoked, found bool) {
	if st.List != nil {
		r, found = st.List.Find(a)
	}
	for i := range st.Others {
		if !found {
			r, found = st.Others[i].Find(a)
		}
	}
	return r, found
}

// Lists keeps the newest list of each key in a directory, so that an older one never counts
// again, and those that have revocations which it lacks: what was revoked once stays so.
type Lists struct {
	dir string
	mu  sync.Mutex  // of known
	one keylock.Map // of fetches, by key
	of  map[string]*held
}

// OpenLists keeps lists in a directory, which is made when there is the first.
func OpenLists(dir string) *Lists { return &Lists{dir: dir, of: map[string]*held{}} }

// signedList is a list as it was signed.
type signedList struct {
	List
	text json.RawMessage
}

// held is what is known of a key's lists: the newest first.
type held struct {
	lists          []signedList
	fetched, tried time.Time
	began          time.Time // when that was asked for
	from           string    // where the last was asked for
	full           bool      // one of the lists is lost, of which nothing that comes can tell that it has all
	err            error
}

func (h *held) newest() *List {
	if len(h.lists) == 0 {
		return nil
	}
	return &h.lists[0].List
}

// kept is a list with when it was fetched, as the directory has it.
type kept struct {
	Fetched time.Time         `json:"fetched"`
	List    json.RawMessage   `json:"list"`
	Others  []json.RawMessage `json:"others,omitempty"`
	Full    bool              `json:"full,omitempty"`
}

// maxKept bounds that, in bytes.
const maxKept = 2*MaxListText + maxOthersText

func (l *Lists) path(key *sign.PublicKey) string {
	return filepath.Join(l.dir, key.Fingerprint()+".json")
}

// State is what is known of a source's list.
func (l *Lists) State(s Source) State {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.known(s.Key)
	out := State{List: h.newest(), Fetched: h.fetched, Tried: h.tried, Full: h.full, Err: h.err}
	if h.from != "" && h.from != s.From { // what came of another place says nothing of this one
		out.Tried, out.Err = time.Time{}, l.fullError(h, s.Key)
	}
	for i := range h.lists {
		if i > 0 {
			out.Others = append(out.Others, h.lists[i].List)
		}
	}
	return out
}

// known reads what an earlier daemon has kept. What cannot be read is as no list, with the
// error.
func (l *Lists) known(key *sign.PublicKey) *held {
	name := key.Fingerprint()
	if h, ok := l.of[name]; ok {
		return h
	}
	h := &held{}
	l.of[name] = h
	b, err := readFile(l.path(key), maxKept)
	if errors.Is(err, fs.ErrNotExist) {
		return h
	}
	var k kept
	if err == nil {
		err = strictjson.Unmarshal(b, &k, strictjson.Rules{Bytes: maxKept, Values: 10 * (1 + maxOthers)})
	}
	var lists []signedList
	for _, text := range append([]json.RawMessage{k.List}, k.Others...) {
		one := signedList{text: text}
		if err == nil {
			one.List, err = ReadList(text, key)
		}
		lists = append(lists, one)
	}
	if err != nil {
		h.err = fmt.Errorf("the revocation list that was kept: %w", err)
		return h
	}
	h.lists, h.fetched, h.full = lists, k.Fetched, k.Full
	h.err = l.fullError(h, key)
	return h
}

func readFile(path string, limit int64) ([]byte, error) {
	f, _, err := regular.Open(path)
	if err != nil {
		return nil, err
	}
	b, err := regular.Read(f, path, limit)
	return b, errors.Join(err, f.Close())
}

// Refresh fetches a source's list. It tells whether there is a newer one than before, or one with revocations that
// were not known; an error leaves the newest that was there. What another call has asked for meanwhile is not asked for
// again: that one tells what is new, and the error is in State. That ctx ended says nothing of the source, and leaves
// State as it is.
func (l *Lists) Refresh(ctx context.Context, s Source) (news bool, err error) {
	if s.From == "" {
		return false, nil
	}
	came := time.Now()
	release, err := l.one.Lock(ctx, s.Key.Fingerprint())
	if err != nil {
		return false, err
	}
	defer release()
	if l.begin(s, came) {
		return false, nil
	}
	got := signedList{}
	if got.text, err = fetch(ctx, s); err == nil {
		got.List, err = ReadList(got.text, s.Key)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	h, now := l.known(s.Key), time.Now()
	if err != nil && ctx.Err() != nil { // those that wait have to ask themselves
		h.began = time.Time{}
		return false, err
	}
	h.from, h.tried = s.From, now
	if err == nil {
		news, err = h.take(got, now)
	}
	if err == nil {
		h.fetched = now
	}
	h.err = errors.Join(err, l.fullError(h, s.Key))
	if news { // it counts, also where the disk is full
		if kerr := l.keep(s.Key, h); kerr != nil {
			h.err = errors.Join(h.err, kerr)
		}
	}
	return news, h.err
}

// begin notes that a source's list is asked for, unless that was done after a time.
func (l *Lists) begin(s Source, came time.Time) (done bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.known(s.Key)
	if h.from == s.From && h.began.After(came) {
		return true
	}
	h.began = time.Now()
	return false
}

// fullError tells the end of that a key's lists were too many, which is the operator's word.
func (l *Lists) fullError(h *held, key *sign.PublicKey) error {
	if !h.full {
		return nil
	}
	return fmt.Errorf("%w, put it where hosts read it, and then remove %s and start the daemon anew", errFull,
		l.path(key))
}

func (l *Lists) keep(key *sign.PublicKey, h *held) error {
	k := kept{Fetched: h.fetched, List: h.lists[0].text, Full: h.full}
	for _, o := range h.lists[1:] {
		k.Others = append(k.Others, o.text)
	}
	b, err := json.Marshal(k)
	if err == nil {
		err = durable.MkdirAll(l.dir, 0o700)
	}
	if err != nil {
		return err
	}
	return durable.WriteFile(l.path(key), b, 0o600)
}

var errFuture = errors.New("in the future by this host's clock")

// take has a list count as the newest, or tells why it does not. Its revocations count in any case, but for a list
// from the future.
func (h *held) take(l signedList, now time.Time) (news bool, err error) {
	known := h.newest()
	if known != nil && equal(&l.List, known) {
		return false, nil
	}
	if err = newer(&l.List, known, now); errors.Is(err, errFuture) {
		return false, err
	}
	lists := append([]signedList{l}, h.lists...)
	if err != nil {
		lists = append(slices.Clone(h.lists), l)
	}
	slices.SortStableFunc(lists[1:], func(a, b signedList) int { return cmp.Compare(b.Serial, a.Serial) })
	keep, all := lists[:1:1], lists[0].List
	for _, o := range lists[1:] {
		if len(all.lacks(&o.List)) > 0 {
			keep, all = append(keep, o), all.With(o.List)
		}
	}
	size := 0
	for _, o := range keep[1:] {
		size += len(o.text)
	}
	if len(keep) > 1+maxOthers || size > maxOthersText {
		news, h.full = !h.full, true
		return news, err
	}
	news = !slices.EqualFunc(keep, h.lists, func(a, b signedList) bool { return bytes.Equal(a.text, b.text) })
	h.lists = keep
	return news, err
}

// newer refuses a list that may not come after one that is known.
func newer(list, known *List, now time.Time) error {
	switch {
	case list.Issued.After(now.Add(skew)):
		return fmt.Errorf("the revocation list: it is dated %s, which is %w", stamp(list.Issued), errFuture)
	case known == nil || list.Serial > known.Serial && !list.Issued.Before(known.Issued):
		return nil
	case list.Serial < known.Serial:
		return fmt.Errorf("the revocation list: serial %d is older than %d, which was there before: an old list again",
			list.Serial, known.Serial)
	case list.Serial > known.Serial:
		return fmt.Errorf("the revocation list: serial %d is dated before serial %d", list.Serial, known.Serial)
	case !equal(list, known):
		return fmt.Errorf("the revocation list: serial %d is not the list that had that serial before: it was made of "+
			"an older copy, and revocations may be missing (%d of the %d known here are). Those of both count here: "+
			"sign a list that has both (freejail policy revoke --merge)", list.Serial, len(list.lacks(known)),
			len(known.Revoked))
	}
	return nil
}

func equal(a, b *List) bool {
	x, err := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err == nil && err2 == nil && string(x) == string(y)
}

// fetchTimeout bounds one fetch of a list.
const fetchTimeout = 10 * time.Second

// client follows no redirect: the operator has named where the list is.
func (s Source) client() (*http.Client, error) {
	out := &http.Client{Timeout: fetchTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if s.CAFile == "" {
		return out, nil
	}
	pool, err := cafile.Pool(s.CAFile)
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	out.Transport = &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	return out, nil
}

// fetch reads a file or an address.
func fetch(ctx context.Context, s Source) ([]byte, error) {
	from := s.From
	if s.IsFile() {
		return readFile(from, MaxListText)
	}
	client, err := s.client()
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "freejail")
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", from, resp.Status)
		if to := resp.Header.Get("Location"); to != "" {
			err = fmt.Errorf("%w to %.200s: give that address instead", err, to)
		}
		return nil, errors.Join(err, resp.Body.Close())
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, MaxListText+1))
	if err == nil && len(b) > MaxListText {
		err = fmt.Errorf("%s: it has more than %d bytes", from, MaxListText)
	}
	return b, errors.Join(err, resp.Body.Close())
}

// IsFile tells whether the list is in a file of the host.
func (s Source) IsFile() bool { return filepath.IsAbs(s.From) }

// CheckSource refuses what no list can be had from. It reads no file.
func CheckSource(from, caFile string) error {
	if caFile != "" && !strings.HasPrefix(from, "https://") {
		return errors.New("ca_file is for an address with https://")
	}
	if from == "" || filepath.IsAbs(from) || strings.HasPrefix(from, "https://") || strings.HasPrefix(from, "http://") {
		return nil
	}
	return fmt.Errorf("%q is neither an absolute path nor an address (https://HOST/PATH)", from)
}

// RevokedError tells that an approval was revoked.
type RevokedError struct{ Revoked }

func (e *RevokedError) Error() string {
	text := "it was revoked on " + e.At.UTC().Format(time.DateOnly)
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	return text
}

// Check tells why an approval does not count by its approver's list; nil where it does.
func (l *Lists) Check(s Source, a *Approval, now time.Time) error {
	if s.From == "" {
		return nil
	}
	st := l.State(s)
	if r, found := st.find(a); found {
		return &RevokedError{r}
	}
	if s.Keep && !st.Full {
		return nil
	}
	return s.Current(st, now)
}

// Current tells why a list is not one that counts as current; nil where it is.
func (s Source) Current(st State, now time.Time) error {
	why := ""
	if st.Err != nil {
		why = fmt.Sprintf(" (%v)", st.Err)
	}
	switch {
	case st.Full:
		return errFull
	case st.List == nil:
		return fmt.Errorf("there is no revocation list of the approver%s", why)
	case now.Sub(st.List.Issued) > s.MaxAge:
		return fmt.Errorf("the revocation list, serial %d, is of %s: older than max_age = %s%s", st.List.Serial,
			stamp(st.List.Issued), s.MaxAge, why)
	case st.List.Issued.After(now.Add(skew)):
		return fmt.Errorf("the revocation list is dated %s, which is in the future by this host's clock",
			stamp(st.List.Issued))
	}
	return nil
}
