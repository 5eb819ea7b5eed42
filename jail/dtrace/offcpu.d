/*
 * How long the threads of a jail's processes were off the processor, by where in the kernel they waited; shown
 * at the end. $1 is the jail's id.
 */
sched:::off-cpu
/jid == $1/
{
	self->left = timestamp;
}

sched:::on-cpu
/self->left/
{
	@waited[execname, stack(8)] = sum(timestamp - self->left);
	self->left = 0;
}

END
{
	trunc(@waited, 30);
	printa("%-16S %k %@d ns\n\n", @waited);
}
