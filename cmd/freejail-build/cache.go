package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/freejail/freejail/cmd/freejail-build/buildjail"
	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/image/build"
	"github.com/freejail/freejail/internal/printable"
)

// cacheFlags choose the cache of a build.
type cacheFlags struct {
	cache string
	none  bool
}

func (f *cacheFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.cache, "cache", "", "the cache directory (default: "+defaultCacheText+")")
	c.Flags().BoolVar(&f.none, "no-cache", false, "execute every instruction, and cache nothing")
}

const defaultCacheText = "/var/cache/freejail-build for root, else freejail-build in $XDG_CACHE_HOME or ~/.cache"

// dir is empty for no cache.
func (f *cacheFlags) dir() (string, error) {
	switch {
	case f.none && f.cache != "":
		return "", app.Usagef("--cache and --no-cache exclude each other")
	case f.none:
		return "", nil
	case f.cache != "":
		return f.cache, nil
	case os.Geteuid() == 0 && os.Getenv("XDG_CACHE_HOME") == "":
		return "/var/cache/freejail-build", nil
	}
	dir := os.Getenv("XDG_CACHE_HOME")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", app.Usagef("no directory for the cache: add --cache DIRECTORY or --no-cache: %v", err)
		}
		dir = filepath.Join(home, ".cache")
	}
	return filepath.Join(dir, "freejail-build"), nil
}

func (a *commands) cacheCmd() *cobra.Command {
	c := &cobra.Command{Use: "cache", Short: "manage the cache of builds"}
	c.AddCommand(a.pruneCmd())
	return c
}

func (a *commands) pruneCmd() *cobra.Command {
	f := &cacheFlags{}
	var age time.Duration
	var keep string
	var all bool
	c := app.Command("prune [flags]", "remove old entries from the cache, and keep it within a size", cobra.NoArgs,
		func(ctx context.Context, _ []string) error {
			dir, err := f.dir()
			if err != nil {
				return err
			}
			bytes, err := units.RAMInBytes(keep)
			if err != nil || bytes < 0 || age < 0 {
				return app.Usagef("--keep %s, --older-than %s: not a valid size and time (for example 10g and 168h)",
					keep, age)
			}
			if all {
				bytes = 0
			}
			freed, err := build.Prune(ctx, dir, age, bytes, buildjail.CleanUp)
			if os.IsNotExist(err) {
				err = nil // nothing was ever built
			}
			if err != nil {
				return err
			}
			return a.Print(map[string]int64{"freed": freed}, func(w io.Writer) {
				printable.Fprintf(w, "%s freed\n", units.BytesSize(float64(freed)))
			})
		})
	c.Long = `Remove from the cache what no build has used for --older-than, and of the rest
the least recently used until it is within --keep. Every build does this with
the defaults when it ends. It waits for builds that run.`
	c.Flags().StringVar(&f.cache, "cache", "", "the cache (default: "+defaultCacheText+")")
	c.Flags().DurationVar(&age, "older-than", build.DefaultCacheAge, "remove entries that were not used for this time")
	c.Flags().StringVar(&keep, "keep", "20g", "the size that may stay")
	c.Flags().BoolVar(&all, "all", false, "remove everything")
	return c
}
