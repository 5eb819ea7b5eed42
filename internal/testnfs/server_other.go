//go:build !freebsd

package testnfs

import "fmt"

// Server is FreeBSD's alone.
type Server struct{ Roots string }

// Start fails.
func Start(string) (*Server, error) {
	return nil, fmt.Errorf("%w: it needs FreeBSD", ErrUnavailable)
}

// Export, and all else, has nothing to do.
func (*Server) Export(string) error { return nil }
func (*Server) Unexport() error     { return nil }
func (*Server) StartNFSD() error    { return nil }
func (*Server) StopNFSD() error     { return nil }
func (*Server) Unplug() error       { return nil }
func (*Server) Plug() error         { return nil }
func (*Server) Close() error        { return nil }
