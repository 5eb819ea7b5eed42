// Package bsd asks FreeBSD's kernel what golang.org/x/sys/unix does not: sysctls
// by number and of any type, processes and what they have open, and the system
// calls that take named parameters. It is empty elsewhere.
package bsd
