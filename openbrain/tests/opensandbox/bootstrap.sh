#!/bin/sh
# The first process of every sandbox container: starts the agent, then lives as long as the entrypoint.
if [ -n "$EXECD_BOOTSTRAP_PRE_SCRIPT" ]; then
    . "$EXECD_BOOTSTRAP_PRE_SCRIPT"
fi

# `/opt/opensandbox` is where the server puts the agent and this script.
"${EXECD:-/opt/opensandbox/execd}" &

"$@" &
entrypoint=$!
trap 'kill -TERM "$entrypoint" 2>/dev/null' TERM

# A signal ends `wait` early, hence the loop; the status that counts is the last one.
while kill -0 "$entrypoint" 2>/dev/null; do
    wait "$entrypoint"
    status=$?
done
exit "${status:-0}"
