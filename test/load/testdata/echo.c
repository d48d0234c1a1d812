/* The ceiling: what one core can do that answers each datagram without looking
 * at it. recvmmsg, the packet's information, sendmmsg from the address that was
 * asked, and nothing else. The reply has the transaction id of its call, which
 * the client needs, and the size that the second argument says. With a network
 * (the first address of a /24) only that and 127.0.0.0/8 are answered: the
 * ceiling for refusing.
 *
 *	gcc -O2 -o echo echo.c && ./echo PORT REPLY-SIZE [NETWORK]
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { BATCH = 64, ROOM = 2048 };

struct slot {
	char in[ROOM], out[ROOM];
	struct sockaddr_in from;
	char control[CMSG_SPACE(sizeof(struct in_pktinfo))];
	struct iovec iov;
};

static struct slot slots[BATCH];
static struct mmsghdr msgs[BATCH];

static void receive_into(int i)
{
	struct slot *s = &slots[i];
	struct msghdr *h = &msgs[i].msg_hdr;

	s->iov.iov_base = s->in;
	s->iov.iov_len = ROOM;
	h->msg_name = &s->from;
	h->msg_namelen = sizeof s->from;
	h->msg_iov = &s->iov;
	h->msg_iovlen = 1;
	h->msg_control = s->control;
	h->msg_controllen = sizeof s->control;
}

static int refused(int i, in_addr_t network)
{
	in_addr_t from = ntohl(slots[i].from.sin_addr.s_addr);

	return network && from >> 24 != 127 && from >> 8 != network >> 8;
}

/* The answer to message i becomes message at. */
static void answer(int i, int at, size_t size)
{
	struct slot *s = &slots[i];
	struct cmsghdr *c = CMSG_FIRSTHDR(&msgs[i].msg_hdr);

	if (c) { /* the answer leaves from where the call came to, by any interface */
		struct in_pktinfo *p = (struct in_pktinfo *)CMSG_DATA(c);
		p->ipi_ifindex = 0;
	}
	memcpy(s->out, s->in, 4); /* the transaction id */
	s->iov.iov_base = s->out;
	s->iov.iov_len = size;
	msgs[at].msg_hdr = msgs[i].msg_hdr;
}

int main(int argc, char **argv)
{
	struct sockaddr_in any = {.sin_family = AF_INET};
	int on = 1, fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (argc < 3)
		return fprintf(stderr, "usage: echo PORT REPLY-SIZE [NETWORK]\n"), 1;
	size_t size = strtoul(argv[2], NULL, 10);
	in_addr_t network = argc > 3 ? ntohl(inet_addr(argv[3])) : 0;
	if (size < 4 || size > ROOM)
		return fprintf(stderr, "echo: a reply has 4 to %d bytes\n", ROOM), 1;
	any.sin_port = htons(atoi(argv[1]));
	setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof on);
	if (bind(fd, (struct sockaddr *)&any, sizeof any) < 0)
		return perror("echo: bind"), 1;
	for (int i = 0; i < BATCH; i++)
		slots[i].out[7] = 1; /* REPLY; the rest is 0: accepted, no verifier, success */
	for (;;) {
		int i, n, answers = 0, sent;

		for (i = 0; i < BATCH; i++)
			receive_into(i);
		n = recvmmsg(fd, msgs, BATCH, MSG_WAITFORONE, NULL);
		for (i = 0; i < n; i++)
			if (!refused(i, network))
				answer(i, answers++, size);
		for (sent = 0; sent < answers;) {
			int k = sendmmsg(fd, msgs + sent, answers - sent, 0);
			sent += k > 0 ? k : 1;
		}
	}
}
