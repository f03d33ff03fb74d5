#include "middlebox/daemon.h"

int main(int argc, char **argv)
{
	return mbx_daemon(argc, argv);
}
