/*
 * Error codes of every fallible function in Sluice: 0 or a negative enum err.
 * errno and library codes are translated at the border where they appear.
 */
#ifndef SLUICE_COMMON_ERRCODE_H
#define SLUICE_COMMON_ERRCODE_H

enum err {
	ERR_OK = 0,
	ERR_MORE = -1,	    /* input is a prefix of something valid: need more octets */
	ERR_MALFORMED = -2, /* input can never become valid */
	ERR_TOOBIG = -3,    /* a configured or protocol limit on size was exceeded */
	ERR_NOMEM = -4,	    /* allocation failed */
	ERR_INVALID = -5,   /* argument or configuration value makes no sense */
	ERR_EXIST = -6,	    /* already there */
	ERR_NOENT = -7,	    /* not there */
	ERR_AGAIN = -8,	    /* would block, try later */
	ERR_CLOSED = -9,    /* the peer or we ended the connection */
	ERR_IO = -10,	    /* the operating system refused, see the log */
	ERR_PERM = -11,	    /* missing privilege */
	ERR_LIMIT = -12,    /* a configured cap on a container was reached */
	ERR_UNSUPPORTED = -13,
	ERR_TIMEOUT = -14,
	ERR_REFUSED = -15, /* connection refused or reset */
	ERR_UNREACHABLE = -16,
	ERR_KERNEL = -17, /* the kernel refused a firewall operation */
};

/* English text for an enum err; never NULL. */
const char *err_str(int err);

/* Translates a positive errno value. */
int err_from_errno(int e);

#endif
