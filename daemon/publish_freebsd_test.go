package daemon

import "testing"

// ownNetwork is the host's: a stack of its own would have another pf(4).
func ownNetwork(t *testing.T) { ownHost(t) }
