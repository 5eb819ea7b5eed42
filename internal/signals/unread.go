package signals

import (
	"os"
	"os/signal"
	"syscall"
)

// OutliveReaders has what this process writes to standard output and error be lost where nobody reads it any more, as
// of a log's reader that was killed: the signal that comes then would end the process. It is caught and not ignored,
// as programs that are started from here would ignore it too.
func OutliveReaders() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }
