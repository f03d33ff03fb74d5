#!/usr/bin/env bash
# The installed face of libsimco: symbols, dependencies, header, pkg-config. Prints TAP.
set -u
src=${SRCDIR:-$(cd -- "$(dirname -- "$0")/../.." && pwd -P)}
build=${BUILDDIR:-$src/build}
lib=$build/.libs/libsimco.so
n=0

ok() # TEXT OFFENDERS: passes when there are none
{
	n=$((n + 1))
	if [ -z "$2" ]; then
		echo "ok $n - $1"
	else
		echo "not ok $n - $1"
		printf '%s\n' "$2" | sed 's/^/# /'
	fi
}

if [ ! -e "$lib" ]; then
	echo "1..0 # SKIP no shared library in this build"
	exit 0
fi
work=$(mktemp -d) || exit 1
trap 'rm -rf -- "$work"' EXIT

ok "only simco_* is exported" \
	"$(nm -D --defined-only "$lib" | awk '$3 !~ /^simco_/ && $2 != "A" { print $3 }')"
declared=$(grep -oE '\bsimco_[a-z_0-9]+\(' "$src/proto-simco/simco.h" | tr -d '(' | sort -u)
exported=$(nm -D --defined-only "$lib" | awk '$3 ~ /^simco_/ { print $3 }' | sort -u)
ok "everything exported is in the public header" \
	"$(comm -13 <(printf '%s\n' "$declared") <(printf '%s\n' "$exported"))"
ok "everything in the public header is exported" \
	"$(comm -23 <(printf '%s\n' "$declared") <(printf '%s\n' "$exported"))"
ok "no library but libc and the compiler's is needed" \
	"$(readelf -d "$lib" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p' |
		grep -vE '^(libc|libm|libasan|libubsan|libgcc_s|ld-linux.*)\.so')"
ok "the public header includes only the standard library" \
	"$(grep '^#include' "$src/proto-simco/simco.h" | grep -vE '<std(bool|def|int)\.h>')"
export PKG_CONFIG_PATH=$build/proto-simco
ok "pkg-config knows simco" "$(pkg-config --cflags --libs simco 2>&1 >/dev/null)"
ok "and what to link" "$(pkg-config --libs simco | grep -q -- '-lsimco' || echo 'no -lsimco')"
printf '#include "simco.h"\nint main(void) { return simco_type_name(0x0101) == 0; }\n' >"$work/a.c"
ok "the header is valid C99" "$(${CC:-cc} -std=c99 -pedantic -Wall -Wextra -Werror -fsyntax-only \
	-I"$src/proto-simco" "$work/a.c" 2>&1)"
if command -v c++ >/dev/null; then
	cp "$work/a.c" "$work/a.cc"
	ok "and valid C++" "$(c++ -std=c++11 -Wall -Wextra -Werror -fsyntax-only \
		-I"$src/proto-simco" "$work/a.cc" 2>&1)"
fi
echo "1..$n"
