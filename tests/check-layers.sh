#!/usr/bin/env bash
# Who may include whom, and what nobody may call (HACKING.md, "Layers"). Prints TAP.
set -u
src=${SRCDIR:-$(cd -- "$(dirname -- "$0")/.." && pwd -P)}
build=${BUILDDIR:-$src/build}
cd -- "$src" || exit 1
rooms=(common proto-simco middlebox agent)
n=0

ok() # TEXT OFFENDERS: a test passes when there are none
{
	n=$((n + 1))
	if [ -z "$2" ]; then
		echo "ok $n - $1"
	else
		echo "not ok $n - $1"
		printf '%s\n' "$2" | sed 's/^/# /'
	fi
}

sources() # DIRECTORY...: C files and headers
{
	find "$@" -name '*.[ch]' 2>/dev/null | sort
}

includes() # REGEX FILE...: the include lines that match
{
	local regex=$1
	shift
	[ $# = 0 ] || grep -HnE "^[[:space:]]*#[[:space:]]*include[[:space:]]*[<\"]$regex" "$@"
}

# --- who may include whom -----------------------------------------------------------------------

may_not() # ROOM FORBIDDEN-ROOMS: by the regular expression a|b
{
	local files
	mapfile -t files < <(sources "$1")
	ok "$1 includes nothing of $2" "$(includes "($2)/" ${files[@]+"${files[@]}"})"
}

may_not common 'proto-simco|middlebox|agent|client|ctl'
may_not proto-simco 'middlebox|agent|client|ctl'
may_not middlebox 'agent|client|ctl'
may_not agent 'middlebox|client|ctl'

mapfile -t files < <(sources "${rooms[@]}")
ok "every project header is included by its path from the top" \
	"$(grep -HnE '^#include "' "${files[@]}" |
		grep -vE '#include "((common|proto-simco|middlebox|agent)/|config\.h")')"

mapfile -t files < <(sources agent | grep -E '^agent/(rtsp|sip|sdp|socks)/')
ok "session protocols know bindings, not SIMCO" \
	"$(includes '(proto-simco/|agent/mb_client)' ${files[@]+"${files[@]}"})"

# --- files that touch bytes and events only -------------------------------------------------------

mapfile -t pure < <(sources "${rooms[@]}" | grep -v '/example-' | grep -E '^proto-simco/|_(msg|fsm)\.[ch]$')
ok "codecs and state machines include no loop, socket, time or log" \
	"$(includes '((common/(loop|stream|log|tls|rest|notify)\.h)|sys/(socket|time|epoll|select)\.h|poll\.h|time\.h|syslog\.h|event2?/)' ${pure[@]+"${pure[@]}"})"
ok "codecs and state machines ask for no time and do no input or output" \
	"$(grep -HnE '(^|[^>.[:alnum:]_])(time|gettimeofday|clock_gettime|printf|fprintf|read|write|send|recv|sendto|recvfrom|socket|open|fopen)[[:space:]]*\(' \
		${pure[@]+"${pure[@]}"} /dev/null |
		grep -vE ':[[:space:]]*(/?\*|/\*)' | grep -E '\.c:')"

# --- third-party headers in one file per room -----------------------------------------------------

third_party=(
	'json-c|json-c/|json\.h'
	'libmicrohttpd|microhttpd\.h'
	'OpenSSL|openssl/'
	'c-ares|ares\.h'
)
for entry in "${third_party[@]}"; do
	name=${entry%%|*}
	regex=${entry#*|}
	bad=
	for room in "${rooms[@]}"; do
		mapfile -t files < <(sources "$room")
		users=$(includes "($regex)" ${files[@]+"${files[@]}"} | cut -d: -f1 | sort -u)
		[ "$(printf '%s\n' "$users" | sed '/^$/d' | wc -l)" -le 1 ] || bad+="$users"$'\n'
		bad+=$(printf '%s\n' "$users" | grep -E '\.h$')
	done
	ok "$name is known to one source file per room, and to no header" "$(sed '/^$/d' <<<"$bad")"
done
mapfile -t files < <(sources "${rooms[@]}")
ok "libevent is known to common/loop.c (events) and common/stream.c (byte streams) only" \
	"$(includes 'event2/' "${files[@]}" | grep -vE '^common/(loop|stream)(_[a-z]+)?\.c:')"
ok "libnftnl and libmnl are known to middlebox/fw_*.c only" \
	"$(includes '(libnftnl/|libmnl/)' "${files[@]}" | grep -vE '^middlebox/fw_[a-z0-9_]*\.c:')"
ok "kernel netfilter headers are known to middlebox/fw_*.c and the stream layer only" \
	"$(includes '(linux/netfilter|linux/netlink)' "${files[@]}" |
		grep -vE '^(middlebox/fw_[a-z0-9_]*|common/stream[a-z0-9_]*)\.[ch]:')"

# --- functions nobody calls -----------------------------------------------------------------------

ok "no strcpy, strcat, sprintf, strtok, sscanf, atoi, gets or alloca" \
	"$(grep -HnE '\b(strcpy|strcat|sprintf|vsprintf|strtok|sscanf|atoi|atol|gets|alloca)[[:space:]]*\(' \
		"${files[@]}" | grep -vE ':[[:space:]]*(/?\*|/\*)')"
ok "no // comments" "$(grep -HnE '^([^"]*"[^"]*")*[^"]*[;{}[:space:]]//[^"]*$' "${files[@]}" /dev/null |
	grep -vE '://|/\*.*//|^[^:]*:[0-9]+:[[:space:]]*\*')"

# --- headers stand alone --------------------------------------------------------------------------

cc=${CC:-cc}
flags=$(pkg-config --cflags cmocka 2>/dev/null)
work=$(mktemp -d) || exit 1
trap 'rm -rf -- "$work"' EXIT
bad=
while read -r header; do
	# shellcheck disable=SC2086
	printf '#include "%s"\n' "$header" >"$work/alone.c"
	if ! $cc -std=gnu11 -D_GNU_SOURCE $flags -Wall -Wextra -Werror -fsyntax-only \
		-I"$src" -I"$build" "$work/alone.c" 2>"$work/errors"; then
		bad+="$header: $(grep -m1 error "$work/errors")"$'\n'
	fi
done < <(find "${rooms[@]}" -name '*.h' | sort)
ok "each header compiles alone" "${bad%$'\n'}"

# --- the build knows every file -------------------------------------------------------------------

bad=
while read -r file; do
	grep -rqF --include='*.inc' -- "$file" common proto-simco middlebox agent tests ||
		bad+="$file"$'\n'
done < <(sources "${rooms[@]}" tests/unit tests/fuzz tests/conformance tests/bench)
ok "every source is listed in a fragment of the Makefile" "${bad%$'\n'}"

# --- format ---------------------------------------------------------------------------------------

format=$(command -v clang-format-14)
if [ -n "$format" ]; then
	bad=$(sources "${rooms[@]}" tests | while read -r file; do
		"$format" --dry-run -Werror "$file" >/dev/null 2>&1 || echo "$file"
	done)
	ok "everything is formatted as .clang-format says" "$bad"
else
	n=$((n + 1))
	echo "ok $n # SKIP no clang-format-14 here"
fi

# --- size -----------------------------------------------------------------------------------------

ok "no source file is longer than 800 lines" \
	"$(wc -l "${files[@]}" | awk '$2 != "total" && $1 > 800 { print $2 ": " $1 " lines" }')"

echo "1..$n"
