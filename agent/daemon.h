/*
 * The program sluice-agent behind its main().
 */
#ifndef SLUICE_AGENT_DAEMON_H
#define SLUICE_AGENT_DAEMON_H

/* The exit status: 0, 1 (could not start), 2 (usage, bad policy). */
int agent_daemon(int argc, char **argv);

#endif
