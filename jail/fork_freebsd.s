// Empty: it allows the functions without a body in fork_freebsd.go.
