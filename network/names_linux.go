package network

import (
	"fmt"
	"path/filepath"
	"regexp"
)

// linkName is the host's end of a pair of veth.
func linkName(n uint64) string { return fmt.Sprintf("fj%010x", n&0xffffffffff) }

var linkForm = regexp.MustCompile(`^fj[0-9a-f]{10}$`)

func isLinkName(name string) bool { return linkForm.MatchString(name) }

// jailStack is the file on which the network namespace of a stack is mounted.
func jailStack(stateDir, stack string) string { return filepath.Join(stateDir, "netns", stack) }
