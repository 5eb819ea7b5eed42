package main

import (
	"bytes"
	"os"
	"testing"
)

func TestDashboardIsUpToDate(t *testing.T) {
	want, err := build()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../example/grafana/freejail.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("make it again: cd tools/grafana && go run .")
	}
}
