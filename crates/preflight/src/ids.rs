//! Every id that a finding can have. The list in preflight(1) is generated from this one by a test.

use ess_document::Severity::{self, Blocker, Info, Warning};

/// An id: its worst severity, what it means, and what to do about it.
pub(crate) type Id = (&'static str, Severity, &'static str, &'static str);

/// Sorted by severity, then by id. An id with several severities is listed once, under the worst.
#[rustfmt::skip]
pub(crate) const IDS: &[Id] = &[
    ("client-programs", Blocker, "pg_dump or pg_restore is missing, is older than one of the servers, or is version 17 or newer while the target is version 16 or older.", "Install the postgresql-client package of the newer server's major version."),
    ("cluster-database-space", Blocker, "The volume of ESS's database is not larger than the source's database; a warning if it is less than twice as large.", "Resize the volume, or install ESS with a larger postgres.storage.size."),
    ("cluster-layout", Blocker, "The namespace contains no ESS that these tools support, or more than one.", "Name another namespace or a release, or give the database's URL instead."),
    ("cluster-mas", Blocker, "ESS delegates logins to Matrix Authentication Service (MAS), but the homeserver being migrated does not; a warning if it is the other way round or the source is unknown, otherwise informational.", "Install ESS without MAS, migrate, then run syn2mas."),
    ("cluster-media-space", Blocker, "The media volume is too small for the media store.", "Resize the volume, or install ESS with a larger synapse.media.storage.size."),
    ("cluster-rights", Blocker, "The account lacks permissions in the cluster that the migration needs; a warning if only later steps need them.", "Apply the Role in the hint."),
    ("cluster-unreachable", Blocker, "The cluster's API server cannot be reached.", "Check that kubectl works, or choose another --kube-context."),
    ("configuration", Blocker, "An option in Synapse's configuration has an invalid value.", "Correct it as the message describes."),
    ("duplicates", Blocker, "A unique index covers duplicate rows, so restore could not build it.", "Stop Synapse, delete the surplus rows, then REINDEX the index."),
    ("export-directory", Blocker, "The export directory cannot be created, is not a directory, belongs to another user, or is accessible to other users.", "Follow the hint, or choose another directory with --export."),
    ("export-space", Blocker, "The file system of the export may have too little space, or too few inodes, for the dump.", "Free some space, or choose another directory with --export."),
    ("foreign-users", Blocker, "Users in the source belong to another server name, so Synapse may refuse to start.", "Check that server_name and the database belong together."),
    ("matrix-media-repo", Blocker, "Media are in a Matrix Media Repo, whose store and database these tools do not migrate.", "Move the media back into Synapse first, or keep that media repo running alongside ESS."),
    ("media-missing", Blocker, "The media store is missing, or it contains none of the users' uploads.", "Give --working-directory or --path-map."),
    ("media-unreadable", Blocker, "The media store, or files or directories in it, cannot be read.", "Run as root, or as the user that Synapse runs as."),
    ("msc3861", Blocker, "experimental_features.msc3861 is set; the target's Synapse refuses to start with it.", "Replace it with matrix_authentication_service."),
    ("not-checked", Blocker, "A check could not be completed.", "Resolve what the message reports, then run preflight again."),
    ("orphans", Blocker, "Rows refer to missing rows by a foreign key, so restore could not add the key.", "Stop Synapse, then delete or correct the rows that the query in the hint returns."),
    ("same-database", Blocker, "Source and target are the same database.", "Check --target. This blocker cannot be accepted."),
    ("schema-incompatible", Blocker, "The target's Synapse is too old for the source's schema.", "Upgrade the target's Synapse first."),
    ("secrets", Blocker, "A secret that the configuration refers to is missing or unreadable; informational for those that can be read.", "Run as the user that Synapse runs as, or correct the path."),
    ("sequence-behind-stream", Blocker, "A sequence is behind its stream, so Synapse refuses to start.", "Stop Synapse, then run the SQL in the hint."),
    ("signing-key", Blocker, "The signing key is missing or invalid, or the running Synapse publishes another one; otherwise the key that was found.", "Check that -c names the configuration that Synapse was started with."),
    ("source-empty", Blocker, "The source contains no homeserver, or its schema version is not plausible.", "Check that -c or --source names the right database."),
    ("source-encoding", Blocker, "The source's encoding is not UTF-8.", "Copy it into a UTF-8 database first."),
    ("source-fenced", Blocker, "The source is fenced: it is the target of an unfinished migration.", "Check that -c and --target are not swapped."),
    ("source-locks", Blocker, "The source's lock table is too small for a dump, which locks all tables at once.", "Set max_locks_per_transaction on the source to the value in the hint, and restart the server."),
    ("source-parts", Blocker, "Something that is carried depends on something that is not, such as a view on a foreign table.", "Drop it on the source, or replace it with a table."),
    ("source-unreachable", Blocker, "Connecting to the source failed.", "Check database.args, or --source and --source-password-file."),
    ("source-unreadable", Blocker, "The role that connects to the source cannot read all of it.", "Connect as the role that owns the tables, which is the one that Synapse uses."),
    ("split-databases", Blocker, "Synapse's data is split across several databases.", "Merge them into one database first. This blocker cannot be accepted."),
    ("sqlite", Blocker, "Synapse uses SQLite.", "Port the database to PostgreSQL with synapse_port_db. This blocker cannot be accepted."),
    ("target-fenced", Blocker, "The target is fenced by a migration from another source, or its fence is incomplete; informational if the fence belongs to this migration.", "Check --target, or finish that migration first."),
    ("target-lacks", Blocker, "The target lacks something that the source's data need, such as an extension, a role or a collation.", "Create it on the target as the hint shows, or drop on the source what needs it."),
    ("target-locale", Blocker, "The target's encoding is not UTF8, its collation or character type is not C, or it sorts by ICU.", "Recreate the database."),
    ("target-locks", Blocker, "The target's lock table is too small to drop or load all tables at once.", "Set max_locks_per_transaction on the target to the value in the hint, and restart the server."),
    ("target-rights", Blocker, "The role that connects to the target lacks permissions that the migration needs.", "Connect as the role that Synapse uses there, or name it with --role."),
    ("target-server-name", Blocker, "The target serves another homeserver.", "Check --target, or install ESS with the old server name."),
    ("target-standby", Blocker, "The target is a standby, which is read-only.", "Name the primary server instead."),
    ("target-unreachable", Blocker, "Connecting to the target failed.", "Check --target and --target-password-file."),
    ("target-used", Blocker, "The target is in use: it contains more than a trial leaves behind.", "Check --target; accept this only if everything on the target can be erased."),
    ("target-version", Blocker, "The target's PostgreSQL is older than the source's.", "Use a server of the source's major version or newer."),
    ("unsound-rows", Blocker, "Rows violate a check constraint, or a constraint, index or generated column cannot be evaluated for them, so restore could not load the table.", "Correct the rows, schema-qualify the names in the functions that are called, or drop the constraint, index or column."),
    ("background-updates", Warning, "Synapse has not finished its background updates.", "Let Synapse run until they are finished."),
    ("carry-appservices", Warning, "Bridges and bots must be able to reach ESS, and ESS must be able to reach them.", "Put their registrations in synapse.appservices."),
    ("carry-cas", Warning, "Users log in with CAS, which MAS does not support.", "Install ESS without MAS."),
    ("carry-email", Warning, "Mail is sent through the old host itself; informational if it is sent through another server.", "Name a mail server that the cluster can reach."),
    ("carry-jwt", Warning, "Users log in with JSON Web Tokens, which MAS does not support.", "Install ESS without MAS."),
    ("carry-ldap", Warning, "Users log in with LDAP, which MAS does not support.", "Put an OpenID Connect provider in front of LDAP."),
    ("carry-mas", Warning, "Synapse delegates logins to Matrix Authentication Service (MAS).", "Migrate MAS's database and secrets at the same time."),
    ("carry-modules", Warning, "Synapse loads modules that ESS's image does not contain.", "Use an image that contains them, or do without them."),
    ("carry-oidc", Warning, "Users log in with OpenID Connect, which ESS's Synapse does not accept together with MAS.", "Install ESS without MAS at first; make the providers upstream providers of MAS later."),
    ("carry-saml", Warning, "Users log in with SAML, which MAS does not support.", "Install ESS without MAS, or move users to OpenID Connect first."),
    ("carry-templates", Warning, "Synapse uses custom templates.", "Mount them in ESS with synapse.extraVolumes."),
    ("clock", Warning, "A server's clock differs from this machine's by more than 30 seconds.", "Synchronise both clocks with NTP."),
    ("cluster-gitops", Warning, "A GitOps controller manages Synapse's workloads and may scale them back up.", "Suspend it before ess-scale down."),
    ("cluster-operator", Warning, "The operator of the older ESS scales Synapse back up; a warning if ess-scale down would refuse to stop Synapse.", "Stop Synapse with ess-scale, not with kubectl; restore the ElementDeployment, or name the operator's namespace."),
    ("cluster-versions", Warning, "The processes of ESS's Synapse run different images.", "Finish the upgrade of ESS first."),
    ("damage-hidden", Warning, "PostgreSQL reads damaged pages as empty, or despite a wrong checksum, without an error.", "As a superuser, set zero_damaged_pages and ignore_checksum_failure to off, then check the data for damage."),
    ("dns-no-address", Warning, "A name that should lead to the homeserver has no address.", "Correct public_baseurl, the .well-known documents or the SRV records."),
    ("dns-not-checked", Warning, "The DNS could not be queried.", "Run preflight where name servers can be reached, or name one with --resolver."),
    ("dns-ttl", Warning, "Resolvers cache DNS records of the public names for longer than --max-ttl.", "Lower their TTL, then wait until the old one has expired."),
    ("export-in-memory", Warning, "The export is on a file system in memory, and would be lost at a restart.", "Choose a place on disk."),
    ("export-locked", Warning, "Another run is using the export.", "Wait for it to finish, or stop it."),
    ("invalid-indexes", Warning, "An index is invalid because its build failed, and a dump does not contain it.", "Rebuild it with REINDEX INDEX CONCURRENTLY."),
    ("log-holds-rows", Warning, "The target's log will contain rows that are loaded by INSERT, and large objects.", "As a superuser, set log_statement to none and log_min_duration_statement to -1 for the role."),
    ("media", Warning, "What the media store contains, by kind; a warning if it is missing and a storage provider must have all media.", "Give ESS's volume enough room with synapse.media.storage.size."),
    ("media-files-missing", Warning, "Uploads in the database have no file: they are already lost.", "Find the files in a backup, or do without them."),
    ("media-partly-checked", Warning, "The media store could not be examined completely within --budget; its figures are estimates.", "Run preflight once with --budget none."),
    ("memory", Warning, "This machine has less than 512 MiB of memory available.", "Stop processes that are not needed."),
    ("no-tmux", Warning, "This is an SSH session without tmux or screen, so a lost connection would stop the migration.", "Run everything in tmux."),
    ("open-files", Warning, "The limit on open files is below 512 for each process.", "Raise it with ulimit -n."),
    ("other-sessions", Warning, "Roles other than Synapse's are connected to the source.", "End their sessions before pgdump-wrap, or give it --ignore-role."),
    ("prepared-transactions", Warning, "Prepared transactions hold locks, and a dump does not contain what they wrote.", "End each with COMMIT PREPARED or ROLLBACK PREPARED."),
    ("schema-newer", Warning, "The source's schema is newer than the target's, so the migration would downgrade Synapse.", "Upgrade the target's Synapse first."),
    ("source-collation", Warning, "The source does not sort by C, so an update of the operating system may have left duplicates; informational if its order equals that of C.", "Run pg_amcheck; the target sorts by C, which no update changes."),
    ("source-standby", Warning, "The source is a standby, which continues to change as its primary does.", "Name the primary server instead."),
    ("synapse-unwell", Warning, "Synapse responds, but does not report that it is healthy.", "Check Synapse's log."),
    ("temp-file-limit", Warning, "temp_file_limit is set on the target: restore fails if building an index needs more temporary files.", "As a superuser, set temp_file_limit to -1 for the role."),
    ("well-known-broken", Warning, "A .well-known/matrix document is not JSON, lacks a field, or cannot be read by browsers.", "Correct it, or let ESS serve it."),
    ("well-known-not-checked", Warning, "The .well-known/matrix documents could not be fetched.", "Check them from a machine that can reach the public names."),
    ("carry-captcha", Info, "Registration requires a captcha.", "Its keys belong in synapse.additional."),
    ("carry-listeners", Info, "Synapse has listeners that ESS does not have.", "Direct other servers from port 8448 to 443 with .well-known or SRV records."),
    ("carry-owned", Info, "Options that ESS sets itself, with the chart field that controls each.", "Set the chart field instead."),
    ("carry-pepper", Info, "Passwords are peppered; extract-secrets carries the pepper.", "It belongs in synapse.additional, or with MAS in passwords.schemes."),
    ("carry-retention", Info, "A retention policy deletes old messages.", "Leave it out of synapse.additional as long as old messages are needed for comparison."),
    ("carry-syn2mas", Info, "Options or accounts that would stop syn2mas, or that it would not migrate, when logins move to MAS later.", "Turn the options off, or configure the provider, before syn2mas."),
    ("carry-turn", Info, "Calls use a TURN server, which stays where it is.", "Its URIs and its secret belong in synapse.additional."),
    ("carry-workers", Info, "Synapse runs with workers, which ESS configures in its own way.", "Enable the worker types that you need in synapse.workers."),
    ("cluster", Info, "The ESS installation of the target, and the version of its Synapse.", ""),
    ("cluster-media", Info, "The volume for media, and the pod or workload that mounts it.", ""),
    ("configuration-note", Info, "A note on the configuration.", ""),
    ("delegation", Info, "Where other servers reach the homeserver, and which rule determines it.", "On the day of the migration, let .well-known/matrix/server name port 443."),
    ("dns", Info, "The DNS records of the public names, and their longest TTL.", ""),
    ("downtime", Info, "An estimate of how long Synapse will be down, step by step, from short samples of both servers.", "Copy media beforehand, so that only new files remain."),
    ("duplicates-tried", Info, "How many unique keys were checked for duplicates that an update of the collation may have left.", ""),
    ("export", Info, "The free space for the export.", ""),
    ("extensions", Info, "Extensions of the source, which are not carried.", ""),
    ("host", Info, "Memory, processors and limits of this machine.", ""),
    ("large-objects", Info, "The source contains large objects, which Synapse does not create.", ""),
    ("left-behind", Info, "What a dump does not contain: replication, foreign tables, privileges, settings of the database and the like.", "Recreate on the target what you still need there."),
    ("macaroon-secret", Info, "What Synapse uses in place of a missing macaroon_secret_key.", ""),
    ("media-elsewhere", Info, "Media are in a storage provider too.", "Give ESS the same media_storage_providers."),
    ("media-files-unknown", Info, "Files in local_content that have no row in the database.", ""),
    ("profile", Info, "Users, monthly active users, federation, and the ESS profile that fits.", "Choose the ESS profile accordingly."),
    ("replication-slots", Info, "Replication slots of the source, whose consumers will not follow the target.", "Set up replication on the target where it is needed."),
    ("schema", Info, "The version of the source's schema.", ""),
    ("schema-upgrade", Info, "The target's Synapse will upgrade the schema when it starts.", "For a large database, allow more time with synapse.startupProbe.failureThreshold."),
    ("schemas", Info, "The source has schemas that are not Synapse's, which are carried too.", ""),
    ("sequence-behind-table", Info, "Sequences are behind their tables; Synapse corrects them when it starts.", ""),
    ("source-server", Info, "The source's database and its version of PostgreSQL.", ""),
    ("source-size", Info, "The size of the source, its largest tables, and the estimated size of its dump.", ""),
    ("synapse-not-asked", Info, "Synapse has no plain HTTP listener to query.", ""),
    ("synapse-runs", Info, "Synapse is running and healthy; its version.", ""),
    ("synapse-sessions", Info, "Sessions of Synapse's role on the source.", "Stop Synapse before pgdump-wrap."),
    ("synapse-stopped", Info, "No Synapse responds.", ""),
    ("target-fresh", Info, "The target is unused, or has only been tried out.", ""),
    ("target-restored", Info, "The target is in the same state as the source, so it already contains this homeserver.", "Re-run the same command: each program skips what is already done."),
    ("target-server", Info, "The target's database and its version of PostgreSQL.", ""),
    ("target-sessions", Info, "Sessions on the target.", "Scale ESS down before ess-wipe."),
    ("target-synapse", Info, "What the target's Synapse reports about itself at --target-endpoint.", ""),
    ("unknown", Info, "An informational check could not be completed, such as the estimate of the downtime.", ""),
    ("unlogged-tables", Info, "Unlogged tables that are not Synapse's; a crash empties them.", ""),
    ("well-known", Info, "What the .well-known/matrix documents contain, and which server serves them.", "On the day of the migration, let m.server and base_url name the host of ESS."),
];

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::{env, fs};

    use clap::ValueEnum as _;

    use super::{Blocker, IDS, Info, Severity, Warning};
    use crate::finding;

    const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../man/preflight.1");
    const START: &str =
        ".\\\" The ids, as crates/preflight/src/ids.rs has them; UPDATE=1 makes its test write them here.\n";
    const END: &str = ".\\\" End of the ids.\n";

    fn page() -> String {
        let mut text = String::new();
        let sections = [
            (Blocker, "A blocker would stop the migration or lose something:"),
            (Warning, "A warning needs an action or a decision:"),
            (
                Info,
                "An info is for information only, and needs no action unless a remedy is named:",
            ),
        ];
        for (severity, heading) in sections {
            let _ = write!(text, "{heading}\n.Bl -tag -width Ds -compact\n");
            for (id, _, meaning, remedy) in IDS.iter().filter(|id| id.1 == severity) {
                let _ = writeln!(text, ".It Sy {id}");
                for line in meaning
                    .replace(". ", ".\n")
                    .lines()
                    .chain(remedy.replace(". ", ".\n").lines())
                {
                    let _ = writeln!(text, "{}", line.replace('-', "\\-"));
                }
            }
            let _ = writeln!(text, ".El{}", if severity == Info { "" } else { "\n.Pp" });
        }
        text
    }

    #[test]
    fn the_page_lists_every_id() {
        let is = fs::read_to_string(PAGE).expect("the page is there");
        let (before, rest) = is.split_once(START).expect("the list begins");
        let (_, after) = rest.split_once(END).expect("the list ends");
        let wanted = format!("{before}{START}{}{END}{after}", page());
        if env::var_os("UPDATE").is_some() && is != wanted {
            fs::write(PAGE, wanted).expect("the page is writable");
        } else {
            assert!(
                is == wanted,
                "man/preflight.1 is out of date; UPDATE=1 regenerates the list"
            );
        }
    }

    #[test]
    fn ids_are_sorted_and_every_blocker_is_one() {
        let order = |severity: Severity, id: &'static str| (severity, id);
        assert!(IDS.is_sorted_by(|a, b| order(a.1, a.0) < order(b.1, b.0)));
        for blocker in finding::Blocker::value_variants() {
            let id = blocker.id();
            assert!(
                IDS.iter().any(|known| known.0 == id && known.1 == Blocker),
                "{id} is not listed"
            );
        }
        for (id, severity, ..) in IDS.iter().filter(|id| id.1 == Blocker) {
            let known = finding::Blocker::value_variants()
                .iter()
                .any(|blocker| blocker.id() == *id);
            assert!(known, "{id} is not a variant of finding::Blocker ({severity:?})");
        }
    }
}
