/*
 * The program sluice-middlebox behind its main().
 */
#ifndef SLUICE_MIDDLEBOX_DAEMON_H
#define SLUICE_MIDDLEBOX_DAEMON_H

/* The exit status. */
int mbx_daemon(int argc, char **argv);

#endif
