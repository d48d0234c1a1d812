/* nfsset: registers through libnfs, which speaks versions 2 and 3 over TCP to
 * 127.0.0.1 with AUTH_SYS. */
#include <sys/time.h> /* which libnfs.h forgets */
#include <nfsc/libnfs.h>
#include <nfsc/libnfs-raw.h>
#include <nfsc/libnfs-raw-portmap.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a callback leaves for the loop that waits for it. */
struct outcome {
	int done;
	int status;
	uint32_t answer;
};

static void finished(struct rpc_context *rpc, int status, void *data, void *private)
{
	struct outcome *o = private;

	o->done = 1;
	o->status = status;
	if (status == RPC_STATUS_SUCCESS && data)
		o->answer = *(uint32_t *)data;
}

static void wait_for(struct rpc_context *rpc, struct outcome *o)
{
	while (!o->done) {
		struct pollfd fd = { .fd = rpc_get_fd(rpc), .events = rpc_which_events(rpc) };

		if (poll(&fd, 1, 5000) <= 0 || rpc_service(rpc, fd.revents) < 0)
			break;
	}
	if (!o->done || o->status != RPC_STATUS_SUCCESS) {
		fprintf(stderr, "nfsset: %s\n", rpc_get_error(rpc));
		exit(1);
	}
}

int main(int argc, char **argv)
{
	struct rpc_context *rpc = rpc_init_context();
	struct outcome connected = { 0 }, set = { 0 };
	int queued;

	if (argc != 6 || (strcmp(argv[1], "2") && strcmp(argv[1], "3"))) {
		fputs("usage: nfsset 2 PROGRAM VERSION PROTOCOL PORT\n"
		      "       nfsset 3 PROGRAM VERSION NETID ADDRESS\n", stderr);
		return 2;
	}
	if (rpc_connect_async(rpc, "127.0.0.1", 111, finished, &connected) < 0)
		return 1;
	wait_for(rpc, &connected);

	if (argv[1][0] == '2') {
		queued = rpc_pmap2_set_async(rpc, atoi(argv[2]), atoi(argv[3]),
					     atoi(argv[4]), atoi(argv[5]), finished, &set);
	} else {
		struct pmap3_mapping map = {
			.prog = atoi(argv[2]), .vers = atoi(argv[3]),
			.netid = argv[4], .addr = argv[5], .owner = "nobody's business",
		};
		queued = rpc_pmap3_set_async(rpc, &map, finished, &set);
	}
	if (queued < 0)
		return 1;
	wait_for(rpc, &set);
	printf("%u\n", set.answer);
	return 0;
}
