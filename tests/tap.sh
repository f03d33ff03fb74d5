#!/bin/sh
# Runs a test program. cmocka 1.1 prints a skipped test as "not ok N # SKIP", which in TAP is a
# failure; this makes it "ok N # SKIP".
exec 3>&1
status=$({
	{
		"$@" 4>&-
		echo $? >&4
	} | sed 's/^not ok \([0-9]*\) # SKIP/ok \1 # SKIP/' >&3
} 4>&1)
exit "$status"
