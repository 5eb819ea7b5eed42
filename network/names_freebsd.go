package network

import "fmt"

// linkName is the host's end of an epair, whose other end has a b for the a. The numbers are far from
// those that the kernel gives and operators use; 32767 is the greatest of if_clone.c (IF_MAXUNIT).
func linkName(n uint64) string { return fmt.Sprintf("epair%da", 16384+n%16384) }

// jailStack is the name of the jail that owns a stack.
func jailStack(_, stack string) string { return stack }
