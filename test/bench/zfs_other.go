//go:build !freebsd

package main

import "context"

func dataset() string { return "" }

func destroyDataset(string) error { return nil }

func (*bench) zfsStarts(context.Context) error { return nil }
