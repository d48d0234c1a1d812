/* gssrpc: registers through MIT Kerberos' libgssrpc, which still speaks
 * version 2 over UDP to 127.0.0.1, from a reserved port when it is root. */
#include <gssrpc/rpc.h>
#include <gssrpc/pmap_clnt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
	if (argc == 6 && !strcmp(argv[1], "set"))
		printf("%d\n", pmap_set(atol(argv[2]), atol(argv[3]), atoi(argv[4]), atoi(argv[5])));
	else if (argc == 4 && !strcmp(argv[1], "unset"))
		printf("%d\n", pmap_unset(atol(argv[2]), atol(argv[3])));
	else {
		fputs("usage: gssrpc set PROGRAM VERSION PROTOCOL PORT | unset PROGRAM VERSION\n", stderr);
		return 2;
	}
	return 0;
}
