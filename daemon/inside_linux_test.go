package daemon

// forkChains outlives its main process: that is refused on this system.
func forkChains(int) int { return 0 }

// flagOutput has no flags to set on this system.
func flagOutput() int { return 0 }
