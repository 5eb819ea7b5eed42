module github.com/freejail/freejail/tools

go 1.26

require github.com/yuin/goldmark v1.8.7

require (
	github.com/anchore/go-struct-converter v0.1.0 // indirect
	github.com/spdx/tools-golang v0.5.7
)
