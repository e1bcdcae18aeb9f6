#!/bin/sh
# Renders this region's model repository, then is its server. Arguments: those of `wanspec render`, but for --output.
set -eu
output=$(mktemp -d "${TMPDIR:-/tmp}/wanspec.XXXXXX")
wanspec render --output "$output" "$@"
exec sh "$output/launch.sh"  # where /tmp is mounted noexec, too
