package approval

import (
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
	Fetched time.Time // when that was had, or had again
	Tried   time.Time // when it was last asked for
	Err     error     // of that; nil is none
}

// Lists keeps the newest list of each key in a directory, so that an older one never counts
// again.
type Lists struct {
	dir string
	mu  sync.Mutex  // of known
	one keylock.Map // of fetches, by key
	of  map[string]*State
}

// OpenLists keeps lists in a directory, which is made when there is the first.
func OpenLists(dir string) *Lists { return &Lists{dir: dir, of: map[string]*State{}} }

// kept is a list with when it was fetched, as the directory has it.
type kept struct {
	Fetched time.Time       `json:"fetched"`
	List    json.RawMessage `json:"list"`
}

func (l *Lists) path(key *sign.PublicKey) string {
	return filepath.Join(l.dir, key.Fingerprint()+".json")
}

// State is what is known of a source's list.
func (l *Lists) State(s Source) State {
	l.mu.Lock()
	defer l.mu.Unlock()
	return *l.known(s.Key)
}

// known reads what an earlier daemon has kept. What cannot be read is as no list, with the
// error.
func (l *Lists) known(key *sign.PublicKey) *State {
	name := key.Fingerprint()
	if st, ok := l.of[name]; ok {
		return st
	}
	st := &State{}
	l.of[name] = st
	b, err := readFile(l.path(key), 2*MaxListText)
	if errors.Is(err, fs.ErrNotExist) {
		return st
	}
	var k kept
	if err == nil {
		err = strictjson.Unmarshal(b, &k, strictjson.Rules{Bytes: 2 * MaxListText, Values: 10})
	}
	var list List
	if err == nil {
		list, err = ReadList(k.List, key)
	}
	if err != nil {
		st.Err = fmt.Errorf("the revocation list that was kept: %w", err)
		return st
	}
	st.List, st.Fetched = &list, k.Fetched
	return st
}

func readFile(path string, limit int64) ([]byte, error) {
	f, _, err := regular.Open(path)
	if err != nil {
		return nil, err
	}
	b, err := regular.Read(f, path, limit)
	return b, errors.Join(err, f.Close())
}

// Refresh fetches a source's list. It tells whether there is a newer one than before; an
// error leaves the one that was there.
func (l *Lists) Refresh(ctx context.Context, s Source) (news bool, err error) {
	if s.From == "" {
		return false, nil
	}
	release, err := l.one.Lock(ctx, s.Key.Fingerprint())
	if err != nil {
		return false, err
	}
	defer release()
	text, err := fetch(ctx, s)
	var list List
	if err == nil {
		list, err = ReadList(text, s.Key)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	st := l.known(s.Key)
	st.Tried = time.Now()
	if err == nil {
		err = newer(&list, st.List, time.Now())
	}
	if st.Err = err; err != nil {
		return false, err
	}
	news = st.List == nil || st.List.Serial < list.Serial
	now := time.Now()
	b, err := json.Marshal(kept{now, text})
	if err == nil && news {
		if err = durable.MkdirAll(l.dir, 0o700); err == nil {
			err = durable.WriteFile(l.path(s.Key), b, 0o600)
		}
	}
	st.List, st.Fetched, st.Err = &list, now, err // it counts, also where the disk is full
	return news, err
}

// newer refuses a list that may not come after one that is known.
func newer(list, known *List, now time.Time) error {
	switch {
	case list.Issued.After(now.Add(skew)):
		return fmt.Errorf("the revocation list: it is dated %s, which is in the future by this host's clock",
			stamp(list.Issued))
	case known == nil || list.Serial > known.Serial && !list.Issued.Before(known.Issued):
		return nil
	case list.Serial < known.Serial:
		return fmt.Errorf("the revocation list: serial %d is older than %d, which was there before: an old list again",
			list.Serial, known.Serial)
	case list.Serial > known.Serial:
		return fmt.Errorf("the revocation list: serial %d is dated before serial %d", list.Serial, known.Serial)
	case !equal(list, known):
		return fmt.Errorf("the revocation list: serial %d is not the list that had that serial before: it was made of "+
			"an older copy, and revocations may be missing (%d of the %d known here are): add them to the newest list",
			list.Serial, missing(list, known), len(known.Revoked))
	}
	return nil
}

// missing counts what a list lacks of another.
func missing(list, known *List) (n int) {
	for _, r := range known.Revoked {
		if !slices.ContainsFunc(list.Revoked, func(o Revoked) bool {
			return o.Approval == r.Approval && o.Image == r.Image && !o.At.Before(r.At)
		}) {
			n++
		}
	}
	return n
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
	return fmt.Sprintf("it was revoked on %s: %s", e.At.UTC().Format(time.DateOnly), e.Reason)
}

// Check tells why an approval does not count by its approver's list; nil where it does.
func (l *Lists) Check(s Source, a *Approval, now time.Time) error {
	if s.From == "" {
		return nil
	}
	st := l.State(s)
	if st.List != nil {
		if r, found := st.List.Find(a); found {
			return &RevokedError{r}
		}
	}
	if s.Keep {
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
