package main

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/freejail/freejail/cmd/freejail-build/buildjail"
	"github.com/freejail/freejail/image/build"
	"github.com/freejail/freejail/internal/printable"
)

// cacheFlags choose the cache of a build.
type cacheFlags struct {
	cache string
	none  bool
}

func (f *cacheFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.cache, "cache", "", "the directory of what earlier builds made (default: "+defaultCacheText+")")
	c.Flags().BoolVar(&f.none, "no-cache", false, "execute every instruction, and remember nothing")
}

const defaultCacheText = "/var/cache/freejail-build for root, else freejail-build in $XDG_CACHE_HOME or ~/.cache"

// dir is empty for no cache.
func (f *cacheFlags) dir() (string, error) {
	switch {
	case f.none && f.cache != "":
		return "", usagef("--cache and --no-cache cannot both be meant")
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
			return "", usagef("where is the cache to be? Add --cache DIRECTORY or --no-cache: %v", err)
		}
		dir = filepath.Join(home, ".cache")
	}
	return filepath.Join(dir, "freejail-build"), nil
}

func (a *commands) cacheCmd() *cobra.Command {
	c := &cobra.Command{Use: "cache", Short: "look after what earlier builds made"}
	c.AddCommand(a.pruneCmd())
	return c
}

func (a *commands) pruneCmd() *cobra.Command {
	f := &cacheFlags{}
	var age time.Duration
	var keep string
	var all bool
	c := &cobra.Command{Use: "prune [flags]", Short: "remove from the cache what is old, or more than a size",
		Long: `Remove from the cache what no build has used for --older-than, and of the rest
the least recently used until it is within --keep. Every build does this with
the defaults when it ends. It waits for builds that run.`,
		Args: exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := f.dir()
			if err != nil {
				return err
			}
			bytes, err := units.RAMInBytes(keep)
			if err != nil || bytes < 0 || age < 0 {
				return usagef("--keep %s, --older-than %s: want a size such as 10g and a time such as 168h", keep, age)
			}
			if all {
				bytes = 0
			}
			freed, err := build.Prune(cmd.Context(), dir, age, bytes, buildjail.CleanUp)
			if os.IsNotExist(err) {
				err = nil // nothing was ever built
			}
			if err == nil {
				_, err = printable.Fprintf(a.out, "%s freed\n", strings.ReplaceAll(units.BytesSize(float64(freed)), "iB", " iB"))
			}
			return err
		}}
	c.Flags().StringVar(&f.cache, "cache", "", "the cache (default: "+defaultCacheText+")")
	c.Flags().DurationVar(&age, "older-than", build.DefaultCacheAge, "remove what was not used for so long")
	c.Flags().StringVar(&keep, "keep", "20g", "how much may stay")
	c.Flags().BoolVar(&all, "all", false, "remove everything")
	return c
}
