/*
 * System calls of the processes of a jail that took 10 ms or more, and at the end how long each of them took.
 * $1 is the jail's id.
 */
#pragma D option switchrate=10hz

syscall:::entry
/jid == $1/
{
	self->begun = timestamp;
}

syscall:::return
/self->begun/
{
	@["ns", probefunc] = quantize(timestamp - self->begun);
}

syscall:::return
/self->begun && timestamp - self->begun >= 10000000/
{
	printf("%6d %-16S %6d ms %s\n", pid, execname, (timestamp - self->begun) / 1000000, probefunc);
}

syscall:::return
/self->begun/
{
	self->begun = 0;
}
