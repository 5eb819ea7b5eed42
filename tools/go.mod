module github.com/freejail/freejail/tools

go 1.26

require github.com/yuin/goldmark v1.8.7
