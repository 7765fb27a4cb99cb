//! Every id that a finding can have. The list in preflight(1) is generated from this one by a test.

use ess_document::Severity::{self, Blocker, Info, Warning};

/// What a finding is about.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Id {
    /// The name that scripts and `--accept` use; it never changes.
    pub(crate) name: &'static str,
    /// The severity of a finding with this id, at worst.
    pub(crate) worst: Severity,
    /// Whether `--accept` can accept it: no review can make a migration succeed with those that it cannot.
    pub(crate) acceptable: bool,
    /// What it means.
    pub(crate) meaning: &'static str,
    /// What to do about it; empty if nothing.
    pub(crate) remedy: &'static str,
}

/// Declares a constant for each id, and the list of all.
macro_rules! ids {
    (@worst acceptable) => { (Blocker, true) };
    (@worst blocker) => { (Blocker, false) };
    (@worst warning) => { (Warning, false) };
    (@worst info) => { (Info, false) };
    ($($kind:ident $constant:ident $name:literal $meaning:literal $remedy:literal;)*) => {
        $(
            #[doc = $meaning]
            pub(crate) const $constant: Id = Id {
                name: $name,
                worst: ids!(@worst $kind).0,
                acceptable: ids!(@worst $kind).1,
                meaning: $meaning,
                remedy: $remedy,
            };
        )*
        /// All ids, in the order of preflight(1).
        pub(crate) const ALL: &[&Id] = &[$(&$constant),*];
    };
}

// Sorted by severity, then by id. An id with several severities is listed once, under the worst. A blocker that is not
// `acceptable` cannot be accepted.
ids! {
    acceptable CLIENT_PROGRAMS "client-programs" "pg_dump or pg_restore is missing, is older than one of the servers, or is version 17 or newer while the target is version 16 or older." "Install the postgresql-client package of the newer server's major version.";
    acceptable CLUSTER_DATABASE_SPACE "cluster-database-space" "The volume of ESS's database is not larger than the source's database; a warning if it is less than twice as large." "Resize the volume, or install ESS with a larger postgres.storage.size.";
    acceptable CLUSTER_LAYOUT "cluster-layout" "The namespace contains no ESS that these tools support, or more than one." "Name another namespace or a release, or give the database's URL instead.";
    acceptable CLUSTER_MAS "cluster-mas" "ESS delegates logins to Matrix Authentication Service (MAS), but the homeserver being migrated does not; a warning if it is the other way round or the source is unknown, otherwise informational." "Install ESS without MAS, migrate, then run syn2mas.";
    acceptable CLUSTER_MEDIA_SPACE "cluster-media-space" "The media volume is too small for the media store." "Resize the volume, or install ESS with a larger synapse.media.storage.size.";
    acceptable CLUSTER_RIGHTS "cluster-rights" "The account lacks permissions in the cluster that the migration needs; a warning if only later steps need them." "Apply the Role in the hint.";
    acceptable CLUSTER_UNREACHABLE "cluster-unreachable" "The cluster's API server cannot be reached." "Check that kubectl works, or choose another --kube-context.";
    acceptable CONFIGURATION "configuration" "An option in Synapse's configuration has an invalid value." "Correct it as the message describes.";
    acceptable CONNECTIONS "connections" "The source or the target accepts too few connections for a dump or a restore; informational if it accepts fewer than the programs would use." "Raise the limit of the server, the database or the role, or end other sessions.";
    acceptable DUPLICATES "duplicates" "A unique index covers duplicate rows, so restore could not build it." "Stop Synapse, delete the surplus rows, then REINDEX the index.";
    acceptable EXPORT_DIRECTORY "export-directory" "The export directory cannot be created, is not a directory, belongs to another user, or is accessible to other users." "Follow the hint, or choose another directory with --export.";
    acceptable EXPORT_SPACE "export-space" "The file system of the export may have too little space, or too few inodes, for the dump." "Free some space, or choose another directory with --export.";
    acceptable FOREIGN_USERS "foreign-users" "Users in the source belong to another server name, so Synapse may refuse to start." "Check that server_name and the database belong together.";
    acceptable MATRIX_MEDIA_REPO "matrix-media-repo" "Media are in a Matrix Media Repo, whose store and database these tools do not migrate." "Move the media back into Synapse first, or keep that media repo running alongside ESS.";
    acceptable MEDIA_MISSING "media-missing" "The media store is missing, or it contains none of the users' uploads." "Give --working-directory or --path-map.";
    acceptable MEDIA_UNREADABLE "media-unreadable" "The media store, or files or directories in it, cannot be read." "Run as root, or as the user that Synapse runs as.";
    acceptable MSC3861 "msc3861" "experimental_features.msc3861 is set; the target's Synapse refuses to start with it." "Replace it with matrix_authentication_service.";
    acceptable NOT_CHECKED "not-checked" "A check could not be completed." "Resolve what the message reports, then run preflight again.";
    acceptable ORPHANS "orphans" "Rows refer to missing rows by a foreign key, so restore could not add the key." "Stop Synapse, then delete or correct the rows that the query in the hint returns.";
    blocker SAME_DATABASE "same-database" "Source and target are the same database." "Check --target. This blocker cannot be accepted.";
    acceptable SCHEMA_INCOMPATIBLE "schema-incompatible" "The target's Synapse is too old for the source's schema." "Upgrade the target's Synapse first.";
    acceptable SECRETS "secrets" "A secret that the configuration refers to is missing or unreadable; informational for those that can be read." "Run as the user that Synapse runs as, or correct the path.";
    acceptable SEQUENCE_BEHIND_STREAM "sequence-behind-stream" "A sequence is behind its stream, so Synapse refuses to start." "Stop Synapse, then run the SQL in the hint.";
    acceptable SIGNING_KEY "signing-key" "The signing key is missing or invalid, or the running Synapse publishes a different one; otherwise informational: the key that was found." "Check that -c names the configuration that Synapse was started with.";
    acceptable SOURCE_EMPTY "source-empty" "The source contains no homeserver, or its schema version is not plausible." "Check that -c or --source names the right database.";
    acceptable SOURCE_ENCODING "source-encoding" "The source's encoding is not UTF-8." "Copy it into a UTF-8 database first.";
    acceptable SOURCE_FENCED "source-fenced" "The source is fenced: it is the target of an unfinished migration." "Check that -c and --target are not swapped.";
    acceptable SOURCE_LOCKS "source-locks" "The source's lock table is too small for a dump, which locks all tables at once." "Set max_locks_per_transaction on the source to the value in the hint, and restart the server.";
    acceptable SOURCE_PARTS "source-parts" "Something that is carried depends on something that is not, such as a view on a foreign table." "Drop it on the source, or replace it with a table.";
    acceptable SOURCE_SUBSCRIPTIONS "source-subscriptions" "Logical replication writes to the source." "Disable each subscription with ALTER SUBSCRIPTION ... DISABLE.";
    acceptable SOURCE_UNREACHABLE "source-unreachable" "Connecting to the source failed." "Check database.args, or --source and --source-password-file.";
    acceptable SOURCE_UNREADABLE "source-unreadable" "The role that connects to the source cannot read all of it." "Connect as the role that owns the tables, which is the one that Synapse uses.";
    blocker SPLIT_DATABASES "split-databases" "Synapse's data is split across several databases." "Merge them into one database first. This blocker cannot be accepted.";
    blocker SQLITE "sqlite" "Synapse uses SQLite." "Port the database to PostgreSQL with synapse_port_db. This blocker cannot be accepted.";
    acceptable TARGET_FENCED "target-fenced" "The target is fenced by a migration from another source, or its fence is incomplete; informational if the fence belongs to this migration." "Check --target, or finish that migration first.";
    acceptable TARGET_LACKS "target-lacks" "The target lacks something that the source's data need, such as an extension, a role or a collation." "Create it on the target as the hint shows, or drop on the source what needs it.";
    acceptable TARGET_LOCALE "target-locale" "The target's encoding is not UTF8, its collation or character type is not C, or its locale provider is ICU." "Recreate the database.";
    acceptable TARGET_LOCKS "target-locks" "The target's lock table is too small to drop or load all tables at once." "Set max_locks_per_transaction on the target to the value in the hint, and restart the server.";
    acceptable TARGET_RIGHTS "target-rights" "The role that connects to the target lacks permissions that the migration needs." "Connect as the role that Synapse uses there, or name it with --role.";
    acceptable TARGET_SERVER_NAME "target-server-name" "The target serves another homeserver." "Check --target, or install ESS with the old server name.";
    acceptable TARGET_STANDBY "target-standby" "The target is a standby, which is read-only." "Name the primary server instead.";
    acceptable TARGET_UNREACHABLE "target-unreachable" "Connecting to the target failed." "Check --target and --target-password-file.";
    acceptable TARGET_USED "target-used" "People have used the target: it contains more than a trial leaves behind." "Check --target; accept this only if everything on the target can be erased.";
    acceptable TARGET_VERSION "target-version" "The target's PostgreSQL is older than the source's." "Use a server of the source's major version or newer.";
    acceptable UNSOUND_ROWS "unsound-rows" "Rows violate a constraint or are too long for an index, or a constraint, index, generated column or materialized view cannot be evaluated with an empty search_path, so restore could not load it." "Correct the rows, schema-qualify the names in the functions that are called, or drop the constraint, index, column or view.";
    warning BACKGROUND_UPDATES "background-updates" "Synapse has not finished its background updates." "Let Synapse run until they are finished.";
    warning CARRY_APPSERVICES "carry-appservices" "Bridges and bots must be able to reach ESS, and ESS must be able to reach them." "Put their registrations in synapse.appservices.";
    warning CARRY_CAS "carry-cas" "Users log in with CAS, which MAS does not support." "Install ESS without MAS.";
    warning CARRY_EMAIL "carry-email" "Mail is sent through the old host itself; informational if it is sent through another server." "Name a mail server that the cluster can reach.";
    warning CARRY_JWT "carry-jwt" "Users log in with JSON Web Tokens, which MAS does not support." "Install ESS without MAS.";
    warning CARRY_LDAP "carry-ldap" "Users log in with LDAP, which MAS does not support." "Put an OpenID Connect provider in front of LDAP.";
    warning CARRY_MAS "carry-mas" "Synapse delegates logins to Matrix Authentication Service (MAS)." "Migrate MAS's database and secrets at the same time.";
    warning CARRY_MODULES "carry-modules" "Synapse loads modules that ESS's image does not contain." "Use an image that contains them, or do without them.";
    warning CARRY_OIDC "carry-oidc" "Users log in with OpenID Connect, which ESS's Synapse does not accept together with MAS." "Install ESS without MAS at first; make the providers upstream providers of MAS later.";
    warning CARRY_SAML "carry-saml" "Users log in with SAML, which MAS does not support." "Install ESS without MAS, or move users to OpenID Connect first.";
    warning CARRY_TEMPLATES "carry-templates" "Synapse uses custom templates." "Mount them in ESS with synapse.extraVolumes.";
    warning CLOCK "clock" "A server's clock differs from this machine's by more than 30 seconds." "Synchronise both clocks with NTP.";
    warning CLUSTER_CERTIFICATES "cluster-certificates" "The certificate of an Ingress of ESS is missing, is for other names, is self-signed, has expired or soon will; otherwise informational." "Let cert-manager prove the names by DNS-01, or copy the old server's certificate into the Secret that the hint names, before DNS leads to the cluster.";
    warning CLUSTER_GITOPS "cluster-gitops" "A GitOps controller manages Synapse's workloads and may scale them back up." "Suspend it before you run ess-scale down.";
    warning CLUSTER_OPERATOR "cluster-operator" "The operator of the older ESS scales Synapse back up; a warning if ess-scale down would refuse to stop Synapse." "Stop Synapse with ess-scale, not with kubectl; restore the ElementDeployment, or name the operator's namespace.";
    warning CLUSTER_VERSIONS "cluster-versions" "The processes of ESS's Synapse run different images." "Finish the upgrade of ESS first.";
    warning DAMAGE_HIDDEN "damage-hidden" "PostgreSQL is set to read damaged pages as empty, or to ignore wrong checksums, instead of reporting an error." "As a superuser, set zero_damaged_pages and ignore_checksum_failure to off, then check the data for damage.";
    warning DNS_NO_ADDRESS "dns-no-address" "A name that should lead to the homeserver has no address." "Correct public_baseurl, the .well-known documents or the SRV records.";
    warning DNS_NOT_CHECKED "dns-not-checked" "The DNS could not be queried." "Run preflight where name servers can be reached, or name one with --resolver.";
    warning DNS_TTL "dns-ttl" "Resolvers cache DNS records of the public names for longer than --max-ttl." "Lower their TTL, then wait until the old one has expired.";
    warning EXPORT_IN_MEMORY "export-in-memory" "The export is on a file system in memory, and would be lost at a restart." "Choose a place on disk.";
    warning EXPORT_LOCKED "export-locked" "Another run is using the export." "Wait for it to finish, or stop it.";
    warning INVALID_INDEXES "invalid-indexes" "An index is invalid because its build failed, and a dump does not contain it." "Rebuild it with REINDEX INDEX CONCURRENTLY.";
    warning LOG_HOLDS_ROWS "log-holds-rows" "The target's log will contain rows that are loaded by INSERT, and large objects." "As a superuser, set log_statement to none and log_min_duration_statement to -1 for the role.";
    warning MEDIA "media" "What the media store contains, by kind; a warning if it is missing, so that all media have to be in a storage provider." "Give ESS's volume enough room with synapse.media.storage.size.";
    warning MEDIA_FILES_MISSING "media-files-missing" "Uploads in the database have no file: they are already lost." "Find the files in a backup, or do without them.";
    warning MEDIA_PARTLY_CHECKED "media-partly-checked" "The media store could not be examined completely within --budget; its figures are estimates." "Run preflight once with --budget none.";
    warning MEMORY "memory" "This machine has less than 512 MiB of memory available." "Stop processes that are not needed.";
    warning NO_TMUX "no-tmux" "This is an SSH session without tmux or screen, so a lost connection would stop the migration." "Run everything in tmux.";
    warning OPEN_FILES "open-files" "The limit on open files is below 512 for each process." "Raise it with ulimit -n.";
    warning OTHER_SESSIONS "other-sessions" "Roles other than Synapse's are connected to the source." "End their sessions before you run pgdump-wrap, or give it --ignore-role.";
    warning PLACEHOLDER "placeholder" "An option contains what a template left, such as ${PASSWORD} or CHANGEME, which Synapse would use as it is." "Give -c the configuration that the running Synapse reads, or set the option to the value that is in use.";
    warning PREPARED_TRANSACTIONS "prepared-transactions" "Prepared transactions hold locks, and a dump does not contain what they wrote." "End each with COMMIT PREPARED or ROLLBACK PREPARED.";
    warning REHEARSAL "rehearsal" "The migration has not been rehearsed, or the rehearsal proves nothing about the source and the target as they are now; informational if it does." "Run rehearse, and correct what it finds.";
    warning SCHEMA_NEWER "schema-newer" "The source's schema is newer than the target's, so the migration would downgrade Synapse." "Upgrade the target's Synapse first.";
    warning SOURCE_COLLATION "source-collation" "The source's collation is not C, so an update of the operating system may have left duplicates; informational if it sorts in the same order as C." "Run pg_amcheck; the target's collation is C, which no update changes.";
    warning SOURCE_STANDBY "source-standby" "The source is a standby, which continues to change as its primary does." "Name the primary server instead.";
    warning SYNAPSE_UNWELL "synapse-unwell" "Synapse responds, but does not report that it is healthy." "Check Synapse's log.";
    warning TEMP_FILE_LIMIT "temp-file-limit" "temp_file_limit is set on the target: restore fails if building an index needs more temporary files." "As a superuser, set temp_file_limit to -1 for the role.";
    warning WELL_KNOWN_BROKEN "well-known-broken" "A .well-known/matrix document is not JSON, lacks a field, or cannot be read by browsers." "Correct it, or let ESS serve it.";
    warning WELL_KNOWN_NOT_CHECKED "well-known-not-checked" "The .well-known/matrix documents could not be fetched." "Check them from a machine that can reach the public names.";
    info CARRY_CAPTCHA "carry-captcha" "Registration requires a captcha." "Its keys belong in synapse.additional.";
    info CARRY_LISTENERS "carry-listeners" "Synapse has listeners that ESS does not have." "Direct other servers from port 8448 to 443 with .well-known or SRV records.";
    info CARRY_OWNED "carry-owned" "Options that ESS sets itself, with the chart field that controls each." "Set the chart field instead.";
    info CARRY_PEPPER "carry-pepper" "Passwords are peppered; extract-secrets carries the pepper." "It belongs in synapse.additional, or with MAS in passwords.schemes.";
    info CARRY_RETENTION "carry-retention" "A retention policy deletes old messages." "Leave the policy out of synapse.additional as long as you need old messages for comparison.";
    info CARRY_SYN2MAS "carry-syn2mas" "Options or accounts that would stop syn2mas, or that it would not migrate, when logins move to MAS later." "Turn the options off, or configure the provider, before you run syn2mas.";
    info CARRY_TURN "carry-turn" "Calls use a TURN server, which stays where it is." "Its URIs and its secret belong in synapse.additional.";
    info CARRY_WORKERS "carry-workers" "Synapse runs with workers, which ESS configures in its own way." "Enable the worker types that you need in synapse.workers.";
    info CLUSTER "cluster" "The ESS installation of the target, and the version of its Synapse." "";
    info CLUSTER_MEDIA "cluster-media" "The volume for media, and the pod or workload that mounts it." "";
    info CONFIGURATION_NOTE "configuration-note" "A note on the configuration." "";
    info DELEGATION "delegation" "Where other servers reach the homeserver, and which rule determines it." "On the day of the migration, let .well-known/matrix/server name port 443.";
    info DNS "dns" "The DNS records of the public names, and their longest TTL." "";
    info DOWNTIME "downtime" "An estimate of how long Synapse will be down, step by step, from short samples of both servers." "Copy media beforehand, so that only new files remain to be copied.";
    info DUPLICATES_TRIED "duplicates-tried" "How many unique keys were checked for duplicates that an update of the collation may have left." "";
    info EXPORT "export" "The free space for the export." "";
    info EXTENSIONS "extensions" "Extensions of the source, which are not carried." "";
    info HOST "host" "Memory, processors and limits of this machine." "";
    info LARGE_OBJECTS "large-objects" "The source contains large objects, which Synapse does not create." "";
    info LEFT_BEHIND "left-behind" "What a dump does not contain: replication, foreign tables, privileges, settings of the database and the like." "Recreate on the target what you still need there.";
    info MACAROON_SECRET "macaroon-secret" "What Synapse uses in place of a missing macaroon_secret_key." "";
    info MEDIA_ELSEWHERE "media-elsewhere" "Media are in a storage provider too." "Give ESS the same media_storage_providers.";
    info MEDIA_FILES_UNKNOWN "media-files-unknown" "Files in local_content that have no row in the database." "";
    info PROFILE "profile" "Users, monthly active users, federation, and the ESS profile that fits." "Choose the ESS profile accordingly.";
    info REPLICATION_SLOTS "replication-slots" "Replication slots of the source, whose consumers will not follow the target." "Set up replication on the target where it is needed.";
    info SCHEMA "schema" "The version of the source's schema." "";
    info SCHEMA_UPGRADE "schema-upgrade" "The target's Synapse will upgrade the schema when it starts." "For a large database, allow more time with synapse.startupProbe.failureThreshold.";
    info SCHEMAS "schemas" "The source has schemas that are not Synapse's, which are carried too." "";
    info SEQUENCE_BEHIND_TABLE "sequence-behind-table" "Sequences are behind their tables; Synapse corrects them when it starts." "";
    info SOURCE_SERVER "source-server" "The source's database and its version of PostgreSQL." "";
    info SOURCE_SIZE "source-size" "The size of the source, its largest tables, and the estimated size of its dump." "";
    info SYNAPSE_NOT_ASKED "synapse-not-asked" "Synapse has no plain HTTP listener to query." "";
    info SYNAPSE_RUNS "synapse-runs" "Synapse is running and healthy; its version." "";
    info SYNAPSE_SESSIONS "synapse-sessions" "Sessions of Synapse's role on the source." "Stop Synapse before you run pgdump-wrap.";
    info SYNAPSE_STOPPED "synapse-stopped" "No Synapse responds." "";
    info TARGET_FRESH "target-fresh" "The target is unused, or has only been tried out." "";
    info TARGET_RESTORED "target-restored" "The target is in the same state as the source, so it already contains this homeserver." "Re-run the same command: each program skips what is already done.";
    info TARGET_SERVER "target-server" "The target's database and its version of PostgreSQL." "";
    info TARGET_SESSIONS "target-sessions" "Sessions on the target." "Scale ESS down before you run ess-wipe.";
    info TARGET_SYNAPSE "target-synapse" "What the target's Synapse reports about itself at --target-endpoint." "";
    info UNKNOWN "unknown" "An informational check could not be completed, such as the estimate of the downtime." "";
    info UNLOGGED_TABLES "unlogged-tables" "Unlogged tables that are not Synapse's; a crash empties them." "";
    info WELL_KNOWN "well-known" "What the .well-known/matrix documents contain, and which server serves them." "On the day of the migration, let m.server and base_url name the host of ESS.";
}

/// The argument of `--accept`.
pub(crate) fn acceptable(name: &str) -> Result<&'static Id, String> {
    match ALL.iter().find(|id| id.name == name && id.worst == Blocker) {
        Some(id) if id.acceptable => Ok(id),
        Some(_) => Err("this blocker cannot be accepted".to_owned()),
        None => {
            let all: Vec<&str> = ALL.iter().filter(|id| id.acceptable).map(|id| id.name).collect();
            Err(format!("not the id of a blocker; the ids are {}", all.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::{env, fs};

    use super::{ALL, Blocker, Info, Warning, acceptable};

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
            for id in ALL.iter().filter(|id| id.worst == severity) {
                let _ = writeln!(text, ".It Sy {}", id.name);
                for line in id
                    .meaning
                    .replace(". ", ".\n")
                    .lines()
                    .chain(id.remedy.replace(". ", ".\n").lines())
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
    fn ids_are_sorted_and_named_once() {
        assert!(ALL.is_sorted_by(|a, b| (a.worst, a.name) < (b.worst, b.name)));
        let mut names: Vec<&str> = ALL.iter().map(|id| id.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }

    #[test]
    fn only_what_a_person_can_judge_is_accepted() {
        assert_eq!(acceptable("target-used").map(|id| id.name), Ok("target-used"));
        assert_eq!(
            acceptable("same-database"),
            Err("this blocker cannot be accepted".to_owned())
        );
        for none in ["everything", "no-tmux"] {
            let unknown = acceptable(none).expect_err("this is not a blocker");
            assert!(
                unknown.contains("target-used") && !unknown.contains("sqlite"),
                "{unknown}"
            );
        }
    }
}
