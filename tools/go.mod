module github.com/freejail/freejail/tools

go 1.26
