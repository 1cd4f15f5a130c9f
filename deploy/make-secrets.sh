#!/bin/sh
# Makes the secrets that deploy/compose.yaml hands out, each service its own and no more. What exists is kept, so that a second
# call never locks a running system out.
set -eu
umask 077
cd "$(dirname "$0")"
mkdir -p secrets models
chmod 700 secrets
# Models are data, and the worker's container reads them as a user of its own.
chmod 755 models

secret() { head -c 24 /dev/urandom | base64 | tr '+/' '-_'; }
keep() { [ -s "$1" ] || printf '%s\n' "$2" >"$1"; }

keep secrets/admin.key "hf_admin_$(secret)"
keep secrets/worker.token "hf_worker_$(secret)"
keep secrets/postgres.password "$(secret)"
keep secrets/grafana.password "$(secret)"
# Grafana runs as a user of its own and reads the file itself; the folder around it stays closed to others on this host.
chmod 644 secrets/grafana.password

printf 'POSTGRES_PASSWORD=%s\n' "$(cat secrets/postgres.password)" >secrets/postgres.env
printf 'HOLDFAST_WORKER_TOKEN=%s\n' "$(cat secrets/worker.token)" >secrets/worker.env
{
  printf 'DATABASE_URL=postgres://holdfast:%s@postgres:5432/holdfast\n' "$(cat secrets/postgres.password)"
  printf 'HOLDFAST_ADMIN_KEY=%s\n' "$(cat secrets/admin.key)"
  printf 'HOLDFAST_WORKER_TOKEN=%s\n' "$(cat secrets/worker.token)"
} >secrets/coordinator.env
echo "Secrets are in $(pwd)/secrets."
