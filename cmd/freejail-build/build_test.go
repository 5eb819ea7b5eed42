package main

import (
	"os"
	"slices"
	"strings"
	"testing"
)

func TestBuildArgs(t *testing.T) {
	t.Setenv("FREEJAIL_TEST_ARG", "of the environment")
	var warned []string
	args, err := buildArgs([]string{"A=b=c", "B=", "FREEJAIL_TEST_ARG", "NOT_SET_ANYWHERE"},
		func(text string) { warned = append(warned, text) })
	if err != nil {
		t.Fatal(err)
	}
	if _, set := args["NOT_SET_ANYWHERE"]; set || len(args) != 3 || args["A"] != "b=c" || args["B"] != "" ||
		args["FREEJAIL_TEST_ARG"] != "of the environment" {
		t.Errorf("%q", args)
	}
	if want := "--build-arg NOT_SET_ANYWHERE: no such variable in the environment, so it is not set"; !slices.Equal(warned,
		[]string{want}) {
		t.Errorf("%q", warned)
	}
}

// A Dockerfile of the standard input is one, and takes files of the context.
func TestContainerfileOfStdin(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"f": "x", "recipe": "FROM scratch\nCOPY f /\nCMD run it\n"} {
		if err := os.WriteFile(dir+"/"+name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	in, err := os.Open(dir + "/recipe")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	old := os.Stdin
	os.Stdin = in
	defer func() { os.Stdin = old }()
	ok(t, "build", "-q", "--no-cache", "-f", "-", "-o", dir+"/image.tar", dir)
	if printed := ok(t, "inspect", dir+"/image.tar"); !strings.Contains(printed, "/bin/sh") {
		t.Error(printed)
	}
}
