package client

import (
	"context"
	"net/http"
	"net/url"
)

// Export has an image of the daemon's host served to others as a root over NFS.
func (c *Client) Export(ctx context.Context, r ExportRequest) (*Export, error) {
	return call[*Export](ctx, c, http.MethodPost, "/v1/exports", r)
}

// Exports lists what the host exports.
func (c *Client) Exports(ctx context.Context) ([]Export, error) {
	return get[[]Export](ctx, c, "/v1/exports")
}

// RemoveExport stops exporting an image, given by its name there or its digest.
func (c *Client) RemoveExport(ctx context.Context, ref string) error {
	_, err := call[any](ctx, c, http.MethodDelete, "/v1/exports?ref="+url.QueryEscape(ref), nil)
	return err
}
