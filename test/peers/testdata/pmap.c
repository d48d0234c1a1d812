/* pmap: the version 2 client calls of libtirpc, pmap_getport(3), one each.
 *
 * It prints what the call returned, and ends with 0 whatever that was. */
#include <arpa/inet.h>
#include <rpc/rpc.h>
#include <rpc/pmap_clnt.h>
#include <rpc/pmap_rmt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
	"usage: pmap set PROGRAM VERSION PROTOCOL PORT\n"
	"       pmap unset PROGRAM VERSION\n"
	"       pmap getport HOST PROGRAM VERSION PROTOCOL\n"
	"       pmap getmaps HOST\n"
	"       pmap rmtcall HOST PROGRAM VERSION PROCEDURE\n";

static struct sockaddr_in port_mapper(const char *host)
{
	struct sockaddr_in sin = { .sin_family = AF_INET, .sin_port = htons(PMAPPORT) };

	if (inet_pton(AF_INET, host, &sin.sin_addr) != 1) {
		fprintf(stderr, "pmap: not an IPv4 address: %s\n", host);
		exit(2);
	}
	return sin;
}

static void getport(char **arg)
{
	struct sockaddr_in sin = port_mapper(arg[0]);
	unsigned short port = pmap_getport(&sin, atol(arg[1]), atol(arg[2]), atoi(arg[3]));

	printf("%d\n", port);
	if (port == 0)
		clnt_pcreateerror("pmap: getport");
}

static void getmaps(char **arg)
{
	struct sockaddr_in sin = port_mapper(arg[0]);

	for (struct pmaplist *p = pmap_getmaps(&sin); p; p = p->pml_next)
		printf("%lu %lu %lu %lu\n", p->pml_map.pm_prog, p->pml_map.pm_vers,
		       p->pml_map.pm_prot, p->pml_map.pm_port);
}

static void rmtcall(char **arg)
{
	struct sockaddr_in sin = port_mapper(arg[0]);
	struct timeval wait = { .tv_sec = 2 };
	unsigned long port = 0;
	enum clnt_stat stat = pmap_rmtcall(&sin, atol(arg[1]), atol(arg[2]), atol(arg[3]),
		(xdrproc_t)xdr_void, NULL, (xdrproc_t)xdr_void, NULL, wait, &port);

	if (stat == RPC_SUCCESS)
		printf("port %lu\n", port);
	else
		printf("%s\n", clnt_sperrno(stat));
}

int main(int argc, char **argv)
{
	const char *call = argc > 1 ? argv[1] : "";
	char **arg = argv + 2;

	if (!strcmp(call, "set") && argc == 6)
		printf("%d\n", pmap_set(atol(arg[0]), atol(arg[1]), atoi(arg[2]), atoi(arg[3])));
	else if (!strcmp(call, "unset") && argc == 4)
		printf("%d\n", pmap_unset(atol(arg[0]), atol(arg[1])));
	else if (!strcmp(call, "getport") && argc == 6)
		getport(arg);
	else if (!strcmp(call, "getmaps") && argc == 3)
		getmaps(arg);
	else if (!strcmp(call, "rmtcall") && argc == 6)
		rmtcall(arg);
	else {
		fputs(usage, stderr);
		return 2;
	}
	return 0;
}
