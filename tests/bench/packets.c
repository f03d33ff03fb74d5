/*
 * Sends UDP datagrams as complete Ethernet frames, many per system call, and
 * counts its own CPU time: what the frames cause in the receiving namespaces
 * happens in this process's context, so that this is the cost of forwarding.
 *
 *   packets DEVICE TO-MAC SRC SPORT DST DPORT FLOWS SECONDS [PAUSE-US]
 *
 * Flow i has source port SPORT + i. With a pause one datagram at a time is
 * sent, numbered; without, as fast as it goes, 172 octets of payload.
 */
#define _GNU_SOURCE /* sendmmsg() */
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PAYLOAD 172 /* 20 ms of G.711 with an RTP header */
#define FRAME (14 + 20 + 8 + PAYLOAD)
#define BURST 64

static uint8_t frame[BURST][FRAME];

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static double clock_us(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void put16(uint8_t *p, unsigned v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static uint16_t header_sum(const uint8_t *p)
{
	uint32_t sum = 0;

	for (int i = 0; i < 20; i += 2)
		sum += (uint32_t)(p[i] << 8 | p[i + 1]);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

/* UDP without a checksum, which IPv4 allows; NAT leaves that alone. */
static void build(uint8_t *f, const uint8_t *to, const uint8_t *from, char **v)
{
	uint8_t *ip = f + 14, *udp = f + 34;

	memcpy(f, to, 6);
	memcpy(f + 6, from, 6);
	put16(f + 12, ETH_P_IP);
	ip[0] = 0x45;
	put16(ip + 2, FRAME - 14);
	ip[8] = 64;
	ip[9] = IPPROTO_UDP;
	if (inet_pton(AF_INET, v[0], ip + 12) != 1 || inet_pton(AF_INET, v[2], ip + 16) != 1)
		exit(2);
	put16(ip + 10, header_sum(ip));
	put16(udp, (unsigned)strtoul(v[1], NULL, 10));
	put16(udp + 2, (unsigned)strtoul(v[3], NULL, 10));
	put16(udp + 4, 8 + PAYLOAD);
}

static int open_device(const char *name, uint8_t mac[6], struct sockaddr_ll *sa)
{
	int fd = socket(AF_PACKET, SOCK_RAW, 0), yes = 1;
	struct ifreq r = {0};

	snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", name);
	if (fd < 0 || ioctl(fd, SIOCGIFHWADDR, &r) < 0)
		die(name);
	memcpy(mac, r.ifr_hwaddr.sa_data, 6);
	*sa = (struct sockaddr_ll){
		.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(name), .sll_halen = 6};
	setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &yes, sizeof(yes));
	return fd;
}

static void parse_mac(const char *text, uint8_t mac[6])
{
	for (int i = 0; i < 6; i++)
		mac[i] = (uint8_t)strtoul(text + 3 * i, NULL, 16);
}

int main(int argc, char **argv)
{
	uint8_t to[6], from[6];
	struct sockaddr_ll sa;
	struct mmsghdr m[BURST];
	struct iovec iov[BURST];
	unsigned flows, sport, burst = BURST, next = 0;
	useconds_t pause;
	double seconds, began, cpu;
	size_t sent = 0;
	int fd;

	if (argc < 9 || strlen(argv[2]) != 17)
		return 2;
	fd = open_device(argv[1], from, &sa);
	parse_mac(argv[2], to);
	memcpy(sa.sll_addr, to, 6);
	sport = (unsigned)strtoul(argv[4], NULL, 10);
	flows = (unsigned)strtoul(argv[7], NULL, 10);
	seconds = strtod(argv[8], NULL);
	pause = argc > 9 ? (useconds_t)strtoul(argv[9], NULL, 10) : 0;
	if (pause)
		burst = 1;
	memset(m, 0, sizeof(m));
	for (unsigned i = 0; i < BURST; i++) {
		build(frame[i], to, from, argv + 3);
		iov[i] = (struct iovec){frame[i], FRAME};
		m[i].msg_hdr = (struct msghdr){.msg_name = &sa,
					       .msg_namelen = sizeof(sa),
					       .msg_iov = &iov[i],
					       .msg_iovlen = 1};
	}
	began = clock_us(CLOCK_MONOTONIC);
	cpu = clock_us(CLOCK_PROCESS_CPUTIME_ID);
	while (clock_us(CLOCK_MONOTONIC) - began < seconds * 1e6) {
		for (unsigned i = 0; i < burst; i++) {
			put16(frame[i] + 34, sport + next);
			next = (next + 1) % flows;
			if (pause)
				memcpy(frame[i] + 42, &sent, sizeof(sent));
		}
		int n = sendmmsg(fd, m, burst, 0);

		if (n < 0)
			die("sendmmsg");
		sent += (size_t)n;
		if (pause)
			usleep(pause);
	}
	cpu = clock_us(CLOCK_PROCESS_CPUTIME_ID) - cpu;
	printf("sent=%zu ns=%.1f pps=%.0f\n", sent, cpu * 1e3 / (double)sent,
	       (double)sent / (clock_us(CLOCK_MONOTONIC) - began) * 1e6);
	return 0;
}
