#include "agent/daemon.h"

int main(int argc, char **argv)
{
	return agent_daemon(argc, argv);
}
