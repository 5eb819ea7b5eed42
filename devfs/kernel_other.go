//go:build !freebsd

package devfs

// OpenKernel returns rulesets in memory: this system has no devfs(5).
func OpenKernel() (Kernel, error) { return NewMemory(), nil }
