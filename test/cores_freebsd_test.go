package test

import "testing"

func coresOfOthers(t *testing.T, _ *cluster) { t.Skip("Nomad reserves no cores on FreeBSD") }
