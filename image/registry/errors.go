package registry

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/internal/printable"
)

// ErrNotFound means that a registry, a layout or an archive has no such image.
var ErrNotFound = errdef.ErrNotFound

// plainError takes the query out of a URL that could not be read.
func plainError(err error) error {
	var u *url.Error
	if !errors.As(err, &u) {
		return err
	}
	where, perr := url.Parse(u.URL)
	if perr != nil {
		return fmt.Errorf("%s: %w", u.Op, u.Err)
	}
	where.RawQuery, where.User, where.Fragment = "", nil, ""
	return fmt.Errorf("%s %s: %w", strings.ToUpper(u.Op), where, u.Err)
}

// maxErrorText bounds what a registry can have said in an error of ours.
const maxErrorText = 1000

// Error is a failure with one reference. Its text can be shown on a terminal,
// whatever a registry has written.
type Error struct {
	Op  string // pull, push, copy, ...
	Ref string
	Err error
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s %s: %s", e.Op, e.Ref, bounded(explain(e.Err)))
}

func (e *Error) Unwrap() error { return e.Err }

// explain adds what to do about it.
func explain(err error) string {
	var answer *errcode.ErrorResponse
	switch {
	case errors.Is(err, auth.ErrBasicCredentialNotFound):
		return "authentication required, and no credentials are configured for this registry: see docs/registries.md"
	case errors.As(err, &answer) &&
		(answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusForbidden):
		return fmt.Sprintf("access denied (does it exist, and are the credentials right?): %v", err)
	case errors.As(err, &answer) && answer.Method != http.MethodGet && says(answer, errcode.ErrorCodeNameUnknown):
		return fmt.Sprintf("the registry has no such repository, and makes none: create it there first: %v", err)
	case errors.As(err, &answer) && says(answer, tagInvalid):
		return fmt.Sprintf("the tag is of another image, and must not be changed there: give another tag: %v", err)
	case errors.Is(err, errdef.ErrNotFound):
		return "no such image: " + err.Error()
	case err != nil && strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return err.Error() + ": to allow that, set plain_http"
	}
	return err.Error()
}

// tagInvalid is what registries with immutable tags say, which the specification has no code for.
const tagInvalid = "TAG_INVALID"

func says(answer *errcode.ErrorResponse, code string) bool {
	return slices.ContainsFunc(answer.Errors, func(e errcode.Error) bool { return e.Code == code })
}

// bounded is one line, of which a registry may have written all.
func bounded(s string) string {
	if s = printable.Flat(s); len(s) > maxErrorText {
		s = strings.ToValidUTF8(s[:maxErrorText], "") + "..."
	}
	return s
}

// final tells whether asking again would give the same answer.
func final(err error) bool {
	if errors.Is(err, layout.ErrNoRanges) {
		return true
	}
	var each nowhere
	if errors.As(err, &each) {
		return !slices.ContainsFunc(each, func(err error) bool { return !final(err) })
	}
	var answer *errcode.ErrorResponse
	if errors.As(err, &answer) {
		return answer.StatusCode < 500 && answer.StatusCode != http.StatusTooManyRequests &&
			answer.StatusCode != http.StatusRequestTimeout
	}
	return errors.Is(err, errdef.ErrNotFound) || errors.Is(err, auth.ErrBasicCredentialNotFound) ||
		errors.Is(err, errWithheld)
}
