#!/bin/sh
# Installs the dependencies when they are missing or older than what package.json asks for. `npm install`, not `npm ci`:
# registries may lack platform binaries that a lock file from another platform lists.
set -eu
cd "$(dirname "$0")/.."
stamp=node_modules/.package-lock.json
if [ -e "$stamp" ] && [ ! package.json -nt "$stamp" ]; then exit 0; fi
echo "Installing dependencies (once; about a minute)."
npm install --no-audit --no-fund --loglevel=error
touch "$stamp"
