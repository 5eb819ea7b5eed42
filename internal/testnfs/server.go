// Package testnfs is a second host for tests and benchmarks: a jail with a
// network of its own, in which the base system's NFS server runs.
package testnfs

import "errors"

// ErrUnavailable means that this host cannot have a second one.
var ErrUnavailable = errors.New("there can be no second host with an NFS server")

// The second host's network.
const (
	Network = "10.213.97.0/24"
	ours    = "10.213.97.1/24"
	address = "10.213.97.2"
)

// Root is the directory of the roots, by the second host's own paths.
const root = "/mnt"

// URL is what a client's configuration names the roots by.
const URL = "nfs://" + address + root
