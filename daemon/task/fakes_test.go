package task

import "syscall"

// noJails are jails of which nothing is asked but to be left alone.
type noJails struct{ Jails }

func (noJails) Signal(string, int, syscall.Signal) error { return nil }
