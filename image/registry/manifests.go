package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/freejail/freejail/image/document"
)

const digestHeader = "Docker-Content-Digest"

// accepted are the types of documents that are asked for.
var accepted = strings.Join([]string{ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex,
	document.DockerManifest, document.DockerList}, ", ")

// url of a part of the repository.
func (p *place) url(path string) string {
	scheme := "https"
	if p.PlainHTTP {
		scheme = "http"
	}
	return fmt.Sprintf("%s://%s/v2/%s/%s", scheme, p.Reference.Host(), p.Reference.Repository, path)
}

// ask is a request that reads.
func (p *place) ask(ctx context.Context, method, path string, header http.Header) (*http.Response, error) {
	ctx = auth.AppendRepositoryScope(ctx, p.Reference, auth.ActionPull)
	req, err := http.NewRequestWithContext(ctx, method, p.url(path), nil)
	if err != nil {
		return nil, err
	}
	req.Header = header
	return p.do.Do(req)
}

// answer is the error of an answer, with what the registry says in it.
func answer(resp *http.Response) error {
	out := &errcode.ErrorResponse{Method: resp.Request.Method, URL: resp.Request.URL, StatusCode: resp.StatusCode}
	var said struct {
		Errors errcode.Errors `json:"errors"`
	}
	// What there is of it counts: a decoder passes over what follows its value.
	if b, _ := refusal(resp); json.NewDecoder(bytes.NewReader(b)).Decode(&said) == nil {
		out.Errors = said.Errors
	}
	return out
}

// manifest reads a manifest or an index by tag or digest. What it returns is
// what its descriptor says, and what was asked for if that was a digest. Its type is
// what it says of itself; what the registry says of it is no more than a hint, as is
// the caller's.
func (p *place) manifest(ctx context.Context, version, hint string) (d ocispec.Descriptor, b []byte, err error) {
	r := &reader{ctx: ctx} // for its patience
	for {
		var header string
		if b, header, err = p.document(ctx, version); err == nil {
			return describeManifest(b, version, header, hint)
		}
		var broken *brokenError
		if !errors.As(err, &broken) || isHasty(ctx) {
			return d, nil, err
		}
		if err = r.again(err); err != nil {
			return d, nil, err
		}
	}
}

func describeManifest(b []byte, version, header, hint string) (ocispec.Descriptor, []byte, error) {
	d := ocispec.Descriptor{Digest: digest.FromBytes(b), Size: int64(len(b))}
	if want := digest.Digest(version); want.Validate() == nil && want != d.Digest {
		return d, nil, fmt.Errorf("the manifest %s: the registry has sent %s", version, d.Digest)
	}
	said, _, err := mime.ParseMediaType(header)
	if err != nil {
		said = ""
	}
	if hint == "" {
		hint = said
	}
	if d.MediaType, err = document.Type(b, hint); err != nil {
		return d, nil, fmt.Errorf("%s is of the type %.100q, and neither an image manifest nor an index: %w",
			version, header, err)
	}
	if err = document.Check(b, d.MediaType); err != nil {
		return d, nil, fmt.Errorf("the manifest %s: %w", version, err)
	}
	return d, b, nil
}

// document is one request for a manifest.
func (p *place) document(ctx context.Context, version string) (b []byte, mediaType string, err error) {
	resp, err := p.ask(ctx, http.MethodGet, "manifests/"+version, http.Header{"Accept": {accepted}})
	if err != nil {
		return nil, "", err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	switch {
	case resp.StatusCode == http.StatusNotFound:
		sep := ":"
		if strings.Contains(version, ":") { // it is a digest
			sep = "@"
		}
		return nil, "", fmt.Errorf("%s%s%s: %w", p.ref.Identity(), sep, version, errdef.ErrNotFound)
	case resp.StatusCode != http.StatusOK:
		return nil, "", answer(resp)
	case resp.ContentLength > maxManifest:
		return nil, "", tooLarge(version, resp.ContentLength)
	}
	if b, err = io.ReadAll(io.LimitReader(resp.Body, maxManifest+1)); err != nil {
		return nil, "", &brokenError{err}
	}
	if len(b) > maxManifest {
		return nil, "", tooLarge(version, int64(len(b)))
	}
	said := digest.Digest(resp.Header.Get(digestHeader))
	if said.Validate() == nil && said.Algorithm() == digest.SHA256 && said != digest.FromBytes(b) {
		return nil, "", fmt.Errorf("the manifest %s: %s is not what the registry says: %s",
			version, digest.FromBytes(b), said)
	}
	return b, resp.Header.Get("Content-Type"), nil
}

func tooLarge(version string, size int64) error {
	return fmt.Errorf("the manifest %s has %d bytes: at most %d are allowed", version, size, maxManifest)
}

// brokenError is an answer that ended early.
type brokenError struct{ error }

func (e *brokenError) Unwrap() error { return e.error }

// Exists tells whether the repository has a blob or a manifest. Where a registry does
// not say so, it is as if it had not: it is sent then.
func (p *place) Exists(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	kind, header := "blobs", http.Header{}
	if document.IsManifest(d.MediaType) {
		kind = "manifests"
		header.Set("Accept", d.MediaType)
	}
	resp, err := p.ask(ctx, http.MethodHead, kind+"/"+d.Digest.String(), header)
	if err != nil {
		return false, err
	}
	if err := resp.Body.Close(); err != nil {
		return false, err
	}
	if passing(resp.StatusCode) {
		return false, answer(resp)
	}
	said := resp.Header.Get(digestHeader)
	return resp.StatusCode == http.StatusOK && (resp.ContentLength < 0 || resp.ContentLength == d.Size) &&
		(said == "" || said == d.Digest.String()), nil
}

// putManifest sends a manifest, whose type and digest are verified, under a tag or
// its digest.
func (p *place) putManifest(ctx context.Context, d ocispec.Descriptor, b []byte, version string) error {
	f, err := readFacts(b, d.MediaType)
	if err != nil {
		return err
	}
	if f.subject != "" { // a registry without referrers has a tag for them
		return p.PushReference(ctx, d, bytes.NewReader(b), version)
	}
	ctx = auth.AppendRepositoryScope(ctx, p.Reference, auth.ActionPull, auth.ActionPush)
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, p.url("manifests/"+version), bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", d.MediaType)
	resp, err := p.do.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	said := resp.Header.Get(digestHeader)
	switch {
	case resp.StatusCode == http.StatusCreated, resp.StatusCode/100 == 2 && said != "":
	case resp.StatusCode/100 == 2: // what is no registry may answer anything with 200
		return fmt.Errorf("%w: neither 201 nor the header %s, with which registries tell that they have it",
			answer(resp), digestHeader)
	default:
		return answer(resp)
	}
	if said != "" && said != d.Digest.String() {
		return fmt.Errorf("the registry keeps the manifest as %.100s instead of %s: it has changed it", said, d.Digest)
	}
	return nil
}
