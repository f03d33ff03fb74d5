/*
 * Names of error codes and the one translation of errno.
 */
#include "common/errcode.h"

#include <errno.h>

#include "common/base.h"

static const char *const texts[] = {
	[-ERR_OK] = "success",
	[-ERR_MORE] = "incomplete input",
	[-ERR_MALFORMED] = "malformed input",
	[-ERR_TOOBIG] = "too big",
	[-ERR_NOMEM] = "out of memory",
	[-ERR_INVALID] = "invalid value",
	[-ERR_EXIST] = "already exists",
	[-ERR_NOENT] = "does not exist",
	[-ERR_AGAIN] = "try again later",
	[-ERR_CLOSED] = "connection closed",
	[-ERR_IO] = "input/output error",
	[-ERR_PERM] = "permission denied",
	[-ERR_LIMIT] = "limit reached",
	[-ERR_UNSUPPORTED] = "not supported",
	[-ERR_TIMEOUT] = "timed out",
	[-ERR_REFUSED] = "connection refused or reset",
	[-ERR_UNREACHABLE] = "unreachable",
	[-ERR_KERNEL] = "refused by the kernel",
};

const char *err_str(int err)
{
	if (err > 0 || err <= -(int)ARRAY_LEN(texts))
		return "unknown error";
	return texts[-err];
}

int err_from_errno(int e)
{
	switch (e) {
	case 0:
		return ERR_OK;
	case EAGAIN:
	case EINTR:
	case EINPROGRESS:
	case EBUSY:
		return ERR_AGAIN;
	case ENOMEM:
	case ENOBUFS:
		return ERR_NOMEM;
	case EINVAL:
	case EDOM:
	case ERANGE:
	case EADDRNOTAVAIL:
		return ERR_INVALID;
	case EEXIST:
	case EADDRINUSE:
		return ERR_EXIST;
	case ENOENT:
	case ESRCH:
		return ERR_NOENT;
	case EPIPE:
	case ENOTCONN:
	case ESHUTDOWN:
		return ERR_CLOSED;
	case EPERM:
	case EACCES:
		return ERR_PERM;
	case EMFILE:
	case ENFILE:
	case ENOSPC:
	case EDQUOT:
		return ERR_LIMIT;
	case EMSGSIZE:
	case EFBIG:
	case ENAMETOOLONG:
		return ERR_TOOBIG;
	case EOPNOTSUPP:
	case EAFNOSUPPORT:
	case EPROTONOSUPPORT:
	case ENOSYS:
	case ENOPROTOOPT:
		return ERR_UNSUPPORTED;
	case ETIMEDOUT:
		return ERR_TIMEOUT;
	case ECONNREFUSED:
	case ECONNRESET:
	case ECONNABORTED:
		return ERR_REFUSED;
	case EHOSTUNREACH:
	case ENETUNREACH:
	case EHOSTDOWN:
	case ENETDOWN:
		return ERR_UNREACHABLE;
	default:
		return ERR_IO;
	}
}
