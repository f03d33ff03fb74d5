/*
 * Runs a fuzz target over its corpus where libFuzzer is not linked in, and
 * prints TAP. The program fuzz_X reads $SRCDIR/tests/fuzz/corpus/X, or the
 * files and directories that it is given.
 */
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define FILE_MAX (16u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned count, failed;

static int run_file(const char *path)
{
	FILE *f = fopen(path, "rb");
	struct stat st;
	uint8_t *mem = NULL;
	size_t n = 0;

	if (f == NULL)
		return -1;
	if (fstat(fileno(f), &st) != 0 || st.st_size > FILE_MAX) {
		fclose(f);
		return -1;
	}
	/* Exactly as big as the input, so that a sanitizer sees over-reads. */
	mem = malloc(st.st_size > 0 ? (size_t)st.st_size : 1);
	if (mem != NULL)
		n = fread(mem, 1, (size_t)st.st_size, f);
	fclose(f);
	if (mem == NULL)
		return -1;
	LLVMFuzzerTestOneInput(mem, n);
	free(mem);
	return 0;
}

static void report(int err, const char *path)
{
	const char *base = strrchr(path, '/');

	count++;
	failed += err != 0;
	printf("%s %u - %s\n", err != 0 ? "not ok" : "ok", count, base != NULL ? base + 1 : path);
	fflush(stdout);
}

static void run_path(const char *path)
{
	struct dirent **names;
	int n = scandir(path, &names, NULL, alphasort);
	char file[4096];

	if (n < 0) {
		report(errno == ENOTDIR ? run_file(path) : -1, path);
		return;
	}
	for (int i = 0; i < n; i++) {
		if (names[i]->d_name[0] != '.') {
			snprintf(file, sizeof(file), "%s/%s", path, names[i]->d_name);
			report(run_file(file), file);
		}
		free(names[i]);
	}
	free(names);
}

/* libtool may have put "lt-" in front of the program's name. */
static const char *target_name(const char *argv0)
{
	const char *hit = strstr(argv0, "fuzz_"), *next;

	while (hit != NULL && (next = strstr(hit + 1, "fuzz_")) != NULL)
		hit = next;
	return hit != NULL ? hit + strlen("fuzz_") : argv0;
}

int main(int argc, char **argv)
{
	const char *srcdir = getenv("SRCDIR");
	char path[4096];

	for (int i = 1; i < argc; i++)
		run_path(argv[i]);
	if (argc <= 1) {
		snprintf(path, sizeof(path), "%s/tests/fuzz/corpus/%s",
			 srcdir != NULL ? srcdir : ".", target_name(argv[0]));
		run_path(path);
	}
	if (count == 0) /* an empty corpus proves nothing */
		report(-1, path);
	printf("1..%u\n", count);
	return failed != 0;
}
