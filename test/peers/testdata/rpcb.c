/* rpcb: the version 3 and 4 client calls of libtirpc, rpcbind(3), one each.
 *
 * It prints what the call returned, and ends with 0 whatever that was. */
#include <netconfig.h>
#include <rpc/rpc.h>
#include <rpc/rpcb_clnt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static const char usage[] =
	"usage: rpcb set PROGRAM VERSION NETID ADDRESS\n"
	"       rpcb unset PROGRAM VERSION [NETID]\n"
	"       rpcb getaddr HOST NETID PROGRAM VERSION\n"
	"       rpcb getmaps HOST NETID\n"
	"       rpcb gettime HOST\n";

static struct netconfig *transport(const char *netid)
{
	struct netconfig *nc = getnetconfigent(netid);

	if (!nc) {
		fprintf(stderr, "rpcb: no such netid: %s\n", netid);
		exit(2);
	}
	return nc;
}

static void set(char **arg)
{
	struct netconfig *nc = transport(arg[2]);
	struct netbuf *addr = uaddr2taddr(nc, arg[3]);

	if (!addr) {
		fprintf(stderr, "rpcb: not an address of %s: %s\n", arg[2], arg[3]);
		exit(2);
	}
	printf("%d\n", rpcb_set(atol(arg[0]), atol(arg[1]), nc, addr));
}

static void getaddr(char **arg)
{
	struct netconfig *nc = transport(arg[1]);
	struct sockaddr_storage room;
	struct netbuf addr = { .maxlen = sizeof room, .len = 0, .buf = &room };

	if (rpcb_getaddr(atol(arg[2]), atol(arg[3]), nc, &addr, arg[0]))
		printf("%s\n", taddr2uaddr(nc, &addr));
	else
		printf("%s\n", clnt_sperrno(rpc_createerr.cf_stat));
}

static void getmaps(char **arg)
{
	for (rpcblist *p = rpcb_getmaps(transport(arg[1]), arg[0]); p; p = p->rpcb_next)
		printf("%u %u %s %s %s\n", (unsigned)p->rpcb_map.r_prog, (unsigned)p->rpcb_map.r_vers,
		       p->rpcb_map.r_netid, p->rpcb_map.r_addr, p->rpcb_map.r_owner);
}

static void gettime(char **arg)
{
	time_t now = 0;

	if (rpcb_gettime(arg[0], &now))
		printf("%ld\n", (long)now);
	else
		printf("%s\n", clnt_sperrno(rpc_createerr.cf_stat));
}

int main(int argc, char **argv)
{
	const char *call = argc > 1 ? argv[1] : "";
	char **arg = argv + 2;

	if (!strcmp(call, "set") && argc == 6)
		set(arg);
	else if (!strcmp(call, "unset") && (argc == 4 || argc == 5))
		printf("%d\n", rpcb_unset(atol(arg[0]), atol(arg[1]), argc == 5 ? transport(arg[2]) : NULL));
	else if (!strcmp(call, "getaddr") && argc == 6)
		getaddr(arg);
	else if (!strcmp(call, "getmaps") && argc == 4)
		getmaps(arg);
	else if (!strcmp(call, "gettime") && argc == 3)
		gettime(arg);
	else {
		fputs(usage, stderr);
		return 2;
	}
	return 0;
}
