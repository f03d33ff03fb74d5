#!/usr/bin/env bash
# The Wireshark dissector on a capture of every SIMCO message. Prints TAP.
set -u
src=${SRCDIR:-$(cd -- "$(dirname -- "$0")/../.." && pwd -P)}
build=${BUILDDIR:-$src/build}

if ! command -v tshark >/dev/null; then
	echo "1..0 # SKIP tshark is not installed"
	exit 0
fi
work=$(mktemp -d) || exit 1
trap 'rm -rf -- "$work"' EXIT
n=0
pcap=$work/simco.pcap

ok() # TEXT STATUS
{
	n=$((n + 1))
	if [ "$2" = 0 ]; then
		echo "ok $n - $1"
	else
		echo "not ok $n - $1"
	fi
}

shark() # ARGUMENT...
{
	HOME=$work tshark -X "lua_script:$src/proto-simco/simco.lua" -r "$pcap" "$@" 2>>"$work/errors"
}

has() # TEXT REGEX: the full dissection has a line like that
{
	grep -qE -- "$2" "$work/full"
	ok "$1" $?
}

count() # TEXT WANT FILTER: so many frames match
{
	local got
	got=$(shark -Y "$3" -T fields -e frame.number | wc -l)
	[ "$got" = "$2" ]
	ok "$1" $?
	[ "$got" = "$2" ] || echo "# $got frames"
}

values() # TEXT WANT FIELD: all values of a field in the segment that holds every request
{
	local got
	got=$(shark -Y "simco and frame.len == $requests" -T fields -E aggregator=, -e "$3")
	[ "$got" = "$2" ]
	ok "$1" $?
	[ "$got" = "$2" ] || echo "# $got"
}

"$build/tests/unit/simco_pcap" "$pcap"
ok "a capture is written" $?
shark -V -O simco >"$work/full"
ok "tshark reads it" $?
grep -qiE 'lua|error' <(grep -v 'Running as user' "$work/errors")
ok "without a complaint about the script" $((1 - $?))
! grep -qiE 'lua error|dissector bug|Malformed Packet' "$work/full"
ok "and without an error in it" $?

# --- every message, by its name --------------------------------------------------------------------

for name in SE SA ST PRR PER PEA PDR PLC PRS PRL; do
	has "$name request" "^SIMCO, $name request"
done
for name in SE SA ST PRR PER PDR PLC PRD PRS PRL PES PDS; do
	has "$name reply" "^SIMCO, $name reply"
done
for name in BFM AST ARE; do
	has "$name notification" "^SIMCO, $name notification"
done
has "a negative reply" "^SIMCO, badly formed request"

# --- attributes and their bits ---------------------------------------------------------------------

has "version" "SIMCO protocol version: 3\.0"
has "challenge" "Challenge: a1b2c3"
has "token" "Token: 746f6b656e"
has "middlebox type" "\.1\.\. \.\.\.\. = Network address translator: True"
has "port translation" "\.\.\.\. \.\.\.1 = Port translation: True"
has "capability bits" "\.\.1\. \.\.\.\. = Port wildcards: True"
has "IP version sets" "\.\.\.\. \.\.10 = External IP versions: IPv6"
has "longest lifetime" "Max Policy Rule Lifetime: 3600 s"
has "NAT mode" "01\.\. \.\.\.\. = NAT Mode: traditional"
has "parity" "\.\.10 \.\.\.\. = Port Parity: even"
has "inside IP version" "\.\.\.\. 01\.\. = Inside IP Version: IPv4"
has "direction" "PER parameter set: bi-directional"
has "IPv4 tuple with a port range" "internal \(A0\): UDP 10\.1\.0\.2 port 5000-5001"
has "tuple with wildcards" "external \(A3\): UDP 198\.51\.100\.0/24 port any"
has "IPv6 tuple" "IPv6 Address: 2001:db8::2"
has "protocols only" "external \(A3\): UDP, any address"
has "owner" "policy rule owner: agent"
has "extensions" "= Activity in PES replies: True"
has "activity" "Inbound Octets: 4294967296"

# --- reassembly ------------------------------------------------------------------------------------

requests=$(shark -Y simco -T fields -e frame.len -e simco.type |
	awk '{ if (split($2, t, ",") > 5 && $2 ~ /^0x0101/) print $1 }')
values "many requests in one segment" \
	"0x0101,0x0101,0x0102,0x0102,0x0103,0x0111,0x0111,0x0112,0x0112,0x0113,0x0114,0x0115,0x0121,0x0122" \
	simco.type
count "messages cut into segments are put together" 3 "simco and tcp.segments"
count "PRS requests: alone, among others, an octet a segment, malformed" 7 "simco.type == 0x0121"
count "all PIDs of a PRL reply" 2 "simco.pid == 3735928559"

# --- what is wrong is said -------------------------------------------------------------------------

count "negative replies are marked" 4 "simco.negative"
count "the end of a session is marked" 3 "simco.ended"
count "malformed messages are marked" 5 "simco.malformed"
count "undefined values are marked" 4 "simco.undefined"
echo "1..$n"
