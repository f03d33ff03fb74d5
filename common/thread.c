/*
 * Starting a thread, and its last word.
 */
#include "common/thread.h"

#include <errno.h>
#include <signal.h>
#include <unistd.h>

#include "common/errcode.h"

int thread_start(pthread_t *thread, void *(*fn)(void *), void *arg)
{
	sigset_t all, before;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	err = pthread_create(thread, NULL, fn, arg);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return err ? ERR_NOMEM : 0;
}

void thread_ring(int eventfd)
{
	static const uint64_t one = 1;

	while (write(eventfd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}
