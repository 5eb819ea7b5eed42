//go:build !freebsd

package image

// hostRelease is empty: any FreeBSD's image can be looked at here.
func hostRelease() string { return "" }
