//go:build !freebsd

package main

import "context"

type onZFS struct{}

func (*bench) withZFS() (undo func() error) { return func() error { return nil } }

func (*bench) zfsStarts(context.Context) error { return nil }
