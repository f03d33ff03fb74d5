/*
 * Tells the service manager how a daemon is doing (the sd_notify protocol:
 * datagrams to the socket named by NOTIFY_SOCKET). Without a manager every call
 * does nothing.
 */
#ifndef SLUICE_COMMON_NOTIFY_H
#define SLUICE_COMMON_NOTIFY_H

#include "common/base.h"

/* Listeners are open and work goes on; `status` is one line for the operator. */
void notify_ready(const char *status);
/* A reload begins (MONOTONIC_USEC included); notify_ready() ends it. */
void notify_reloading(void);
void notify_stopping(void);
/* Milliseconds after which the manager wants to hear from us, 0: not at all. */
uint64_t notify_watchdog_ms(void);
void notify_watchdog(void);

#endif
