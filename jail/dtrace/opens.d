/*
 * Files that the processes of a jail open: process, program, descriptor, errno, path. $1 is the jail's id.
 */
#pragma D option switchrate=10hz

syscall::open:entry
/jid == $1/
{
	self->path = arg0;
}

syscall::openat:entry
/jid == $1/
{
	self->path = arg1;
}

/* The path is read here: it may not be in memory before. */
syscall::open:return, syscall::openat:return
/self->path/
{
	printf("%6d %-16S %4d %3d %S\n", pid, execname, errno == 0 ? (int)arg1 : -1, errno, copyinstr(self->path));
	self->path = 0;
}
