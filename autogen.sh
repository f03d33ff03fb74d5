#!/bin/sh
# Makes ./configure from a git checkout.
set -e
cd "$(dirname "$0")"
mkdir -p build-aux m4
cp "$(automake --print-libdir)/tap-driver.sh" build-aux/
autoreconf --install --force --warnings=all
