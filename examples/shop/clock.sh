#!/bin/sh
# Print the time every $1 seconds (default 5) until told to end.
trap 'echo "stopped"; exit 0' TERM INT
while :; do
    date '+%Y-%m-%d %H:%M:%S'
    sleep "${1:-5}" &
    wait $!
done
