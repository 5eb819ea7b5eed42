package daemon

// flagOutput has no flags to set on this system.
func flagOutput() int { return 0 }
