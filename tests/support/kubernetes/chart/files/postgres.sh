# Makes the databases as ESS does, then runs the server. The superuser needs no password within the pod.
set -euo pipefail
export LC_COLLATE=C LC_CTYPE=C
if [[ ! -d $PGDATA ]]; then
    initdb --username=postgres --encoding=UTF8 --pgdata="$PGDATA.new" >/dev/null
    printf '%s\n' 'local all all trust' 'host all postgres 127.0.0.1/32 trust' 'host all postgres ::1/128 trust' \
        'host all all all scram-sha-256' >"$PGDATA.new/pg_hba.conf"
    mv "$PGDATA.new" "$PGDATA"
fi
make_database() {
    until psql -qU postgres -c 'SELECT 1' >/dev/null 2>&1; do sleep 0.2; done
    psql -qU postgres <<<"SELECT 'CREATE ROLE synapse_user LOGIN' WHERE NOT EXISTS
        (SELECT FROM pg_roles WHERE rolname = 'synapse_user') \gexec
        \set password \`printenv SYNAPSE_PASSWORD\`
        ALTER ROLE synapse_user PASSWORD :'password'"
    psql -qtAU postgres -c "SELECT FROM pg_database WHERE datname = 'synapse'" -c '\q' | wc -l | grep -qx 0 || return 0
    createdb -U postgres --encoding=UTF8 --locale=C --template=template0 --owner=synapse_user synapse
}
make_database &
exec postgres -c listen_addresses='*' -c fsync=off -c max_connections=100
