/*
 * Programs that the processes of a jail execute, and those that end: process, parent, program. Arguments are not
 * shown: they may be secret. $1 is the jail's id.
 */
#pragma D option switchrate=10hz

proc:::exec-success
/jid == $1/
{
	printf("%6d %6d exec %S\n", pid, ppid, execname);
}

proc:::exec-failure
/jid == $1/
{
	printf("%6d %6d exec failed, errno %d, in %S\n", pid, ppid, (int)arg0, execname);
}

proc:::exit
/jid == $1/
{
	printf("%6d %6d exit %S\n", pid, ppid, execname);
}
