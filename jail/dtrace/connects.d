/*
 * Where the processes of a jail connect to: process, program, errno, address. $1 is the jail's id.
 */
#pragma D option switchrate=10hz

syscall::connect:entry
/jid == $1 && arg2 >= 8/
{
	this->a = (uint8_t *)copyin(arg1, 8);
	/* Addresses of Linux programs have no length before the family. */
	self->family = this->a[1] ? this->a[1] : this->a[0];
	self->port = this->a[2] * 256 + this->a[3];
	self->ip = this->a[4] << 24 | this->a[5] << 16 | this->a[6] << 8 | this->a[7];
	self->path = arg1 + 2;
}

syscall::connect:return
/self->family == 2/
{
	printf("%6d %-16S %3d %d.%d.%d.%d:%d\n", pid, execname, errno, self->ip >> 24 & 255, self->ip >> 16 & 255,
	    self->ip >> 8 & 255, self->ip & 255, self->port);
}

syscall::connect:return
/self->family == 28 || self->family == 10/
{
	printf("%6d %-16S %3d IPv6, port %d\n", pid, execname, errno, self->port);
}

syscall::connect:return
/self->family == 1/
{
	printf("%6d %-16S %3d %S\n", pid, execname, errno, copyinstr(self->path));
}

syscall::connect:return
/self->family/
{
	self->family = 0;
	self->port = 0;
	self->ip = 0;
	self->path = 0;
}
