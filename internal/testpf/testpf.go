// Package testpf has a FreeBSD host forward packets, and its pf lead to freejail's anchors, for the time of a test.
// It is empty elsewhere.
package testpf
