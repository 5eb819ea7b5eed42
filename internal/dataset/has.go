//go:build !freebsd

package dataset

// Has tells whether a dataset or a snapshot is there. That it cannot be told is
// an error, not an answer.
func Has(name string) (bool, error) { return has(name) }
