package network

import (
	"fmt"
	"strconv"
	"strings"
)

// linkName is the host's end of an epair, whose other end has a b for the a. The numbers are far from
// those that the kernel gives and operators use; 32767 is the greatest of if_clone.c (IF_MAXUNIT).
func linkName(n uint64) string { return fmt.Sprintf("epair%da", 16384+n%16384) }

func isLinkName(name string) bool {
	n, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(name, "epair"), "a"), 10, 16)
	return err == nil && name == linkName(n)
}

// jailStack is the name of the jail that owns a stack.
func jailStack(_, stack string) string { return stack }
