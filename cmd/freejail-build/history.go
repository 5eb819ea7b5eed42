package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/docker/go-units"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/freejail/freejail/image"
)

// step is one of an image's history, with the layer that it has made.
type step struct {
	Created   *time.Time          `json:"created,omitempty"`
	CreatedBy string              `json:"createdBy,omitempty"`
	Author    string              `json:"author,omitempty"`
	Comment   string              `json:"comment,omitempty"`
	Layer     *ocispec.Descriptor `json:"layer,omitempty"`
}

func (a *commands) historyCmd() *cobra.Command {
	c := a.imageCommand("history IMAGE", "show how an image was made, the first step first", "", 1,
		func(ctx context.Context, f *imageFlags, args []string) error {
			img, err := f.describe(ctx, args[0])
			if err != nil {
				return err
			}
			steps := history(img)
			return a.Print(steps, func(w io.Writer) { printHistory(w, steps) })
		})
	return c
}

// history gives each step its layer; layers that no step tells of come last.
func history(img *image.Image) []step {
	out, next := []step{}, 0
	layer := func() *ocispec.Descriptor {
		if next >= len(img.Layers) {
			return nil
		}
		next++
		return &img.Layers[next-1]
	}
	for _, h := range img.Config.History {
		s := step{Created: h.Created, CreatedBy: h.CreatedBy, Author: h.Author, Comment: h.Comment}
		if !h.EmptyLayer {
			s.Layer = layer()
		}
		out = append(out, s)
	}
	for next < len(img.Layers) {
		out = append(out, step{Layer: layer()})
	}
	return out
}

func printHistory(w io.Writer, steps []step) {
	p := newPage(w)
	p.line("CREATED\tLAYER\tSIZE\tBY")
	for _, s := range steps {
		created, layer, size := "-", "-", "-"
		if s.Created != nil {
			created = s.Created.UTC().Format(time.RFC3339)
		}
		if s.Layer != nil {
			layer, size = fmt.Sprintf("%.19s", s.Layer.Digest), units.BytesSize(float64(s.Layer.Size))
		}
		p.line("%s\t%s\t%s\t%q", created, layer, size, s.CreatedBy)
	}
	p.end()
}
