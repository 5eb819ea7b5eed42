//go:build !freebsd

package main

import "context"

func (*bench) onZFS() (undo func() error) { return func() error { return nil } }

func (*bench) zfsStarts(context.Context) error { return nil }
