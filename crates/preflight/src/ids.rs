//! Every id that a finding can have. preflight(1) lists them; a test writes that list from this one.

use ess_document::Severity::{self, Blocker, Info, Warning};

/// An id: how bad it can be at worst, what it means, and what to do about it.
pub(crate) type Id = (&'static str, Severity, &'static str, &'static str);

/// By severity, then by name. An id whose severity depends on what was found stands with the worst.
#[rustfmt::skip]
pub(crate) const IDS: &[Id] = &[
    ("client-programs", Blocker, "pg_dump or pg_restore is missing, older than a server, or of 17 or newer where the target is of 16 or older.", "Install postgresql-client of the newer server's version."),
    ("cluster-database-space", Blocker, "The volume of ESS's database is too small; a warning when there is little room beside the data.", "Resize it, or install ESS with a larger postgres.storage.size."),
    ("cluster-layout", Blocker, "There is no ESS in the namespace that these tools know, or more than one.", "Name another namespace or a release, or give the database's address."),
    ("cluster-mas", Blocker, "ESS leaves logins to Matrix Authentication Service, and the homeserver that moves does not; otherwise how both are.", "Install ESS without MAS, migrate, then run syn2mas."),
    ("cluster-media-space", Blocker, "The media volume is too small.", "Resize it, or install ESS with a larger synapse.media.storage.size."),
    ("cluster-rights", Blocker, "Our account may not do in the cluster what is to be done; a warning when only later steps need it.", "Apply the Role that is printed."),
    ("cluster-unreachable", Blocker, "The API server cannot be reached.", "See whether kubectl works, or choose another --kube-context."),
    ("configuration", Blocker, "An option of the configuration is not what Synapse takes.", "Correct it, as its message says."),
    ("duplicates", Blocker, "There are duplicates under a unique index, and restore could not build it.", "Remove the rows that are too many while Synapse is stopped, then REINDEX."),
    ("export-directory", Blocker, "The export cannot be written where it should be.", "Choose another place, or run as the user that owns it."),
    ("export-space", Blocker, "The dump may not fit where the export lies.", "Make room, or choose another place."),
    ("foreign-users", Blocker, "Users in the source belong to another server name; Synapse may refuse to start.", "See whether server_name and database belong together."),
    ("matrix-media-repo", Blocker, "Media are in a Matrix Media Repo, whose store and database these tools do not move.", "Bring media back into Synapse first, or keep that media repo beside ESS."),
    ("media-missing", Blocker, "Users uploaded media, and they are not where the configuration says.", "Give --working-directory or --path-map."),
    ("media-unreadable", Blocker, "There are media that we may not read.", "Run as root, or as the user that Synapse runs as."),
    ("msc3861", Blocker, "experimental_features.msc3861 is set, and the target's Synapse would not start with it.", "Replace it by matrix_authentication_service."),
    ("not-checked", Blocker, "A check could not be made.", "Do what its message says, and run again."),
    ("orphans", Blocker, "Rows under a foreign key refer to none, and restore could not add the key.", "Delete or correct the rows that the hint shows while Synapse is stopped."),
    ("same-database", Blocker, "Source and target are one database.", "Check --target. Never accepted."),
    ("schema-incompatible", Blocker, "The target's Synapse is too old for the source's schema.", "Update the target's Synapse first."),
    ("secrets", Blocker, "A secret that the configuration names is not there.", "Run as the user that Synapse runs as, or correct the path."),
    ("sequence-behind-stream", Blocker, "A sequence is behind its stream: Synapse would not start.", "Run the SQL of the hint while Synapse is stopped."),
    ("signing-key", Blocker, "There is no good signing key, or a running Synapse publishes another; otherwise, which key it is.", "See whether -c names the configuration that Synapse was started with."),
    ("source-empty", Blocker, "The source holds no homeserver, or not one plausible version of Synapse's schema.", "See whether -c or --source names the right database."),
    ("source-encoding", Blocker, "The source is not UTF-8.", "Bring it into a UTF-8 database first."),
    ("source-fenced", Blocker, "The source is the target of a migration that has not ended.", "See whether -c and --target are the right way round."),
    ("source-locks", Blocker, "The source's lock table is too small to dump all tables at once.", "Set max_locks_per_transaction there as the hint names it, and restart it."),
    ("source-parts", Blocker, "Something moves that needs what stays behind, such as a view of a foreign table.", "Drop it on the source, or move what it shows into a table."),
    ("source-unreachable", Blocker, "There is no connection to the source.", "Check database.args, or --source and --source-password-file."),
    ("source-unreadable", Blocker, "Our role may not read all of the source.", "Connect as the role that owns it, which Synapse uses."),
    ("split-databases", Blocker, "Synapse's data is split over several databases.", "Bring all data into one database first. Never accepted."),
    ("sqlite", Blocker, "Synapse uses SQLite.", "Port it to PostgreSQL with synapse_port_db. Never accepted."),
    ("target-fenced", Blocker, "The target is in the middle of another migration, or somebody took its fence down in part; an info when it is in the middle of this one.", "Check --target, or end that migration first."),
    ("target-lacks", Blocker, "The target lacks what the source's data need there: an extension, a role, a collation.", "Make it there, as the hint says, or drop on the source what needs it."),
    ("target-locale", Blocker, "The target is not UTF8, C, C, or is sorted by ICU.", "Make the database anew."),
    ("target-locks", Blocker, "The target's lock table is too small to drop or load everything at once.", "Set max_locks_per_transaction there as the hint names it, and restart it."),
    ("target-rights", Blocker, "Our role may not do in the target what is to be done.", "Connect as the role that Synapse uses there, or name it with --role."),
    ("target-server-name", Blocker, "The target serves another homeserver.", "Check --target, or install ESS with the old server name."),
    ("target-standby", Blocker, "The target is a standby and takes no writes.", "Name the primary server."),
    ("target-unreachable", Blocker, "There is no connection to the target.", "Check --target and --target-password-file."),
    ("target-used", Blocker, "People have used the target.", "Check --target; accept it only if all of it may go."),
    ("target-version", Blocker, "The target's PostgreSQL is older than the source's.", "Move to a newer server."),
    ("unsound-rows", Blocker, "A check constraint, an index or a generated column cannot be evaluated for the rows that are there.", "Correct the rows, or name schemas in the functions that it calls, or drop it."),
    ("background-updates", Warning, "Synapse has not finished its background updates.", "Let it run until they are done."),
    ("carry-appservices", Warning, "Bridges and bots must reach ESS, and it them.", "Put their registrations in synapse.appservices."),
    ("carry-cas", Warning, "Users log in by CAS.", "Install ESS without MAS."),
    ("carry-email", Warning, "Mail goes out by way of the old host itself; an info when it goes elsewhere.", "Name a mail server that the cluster can reach."),
    ("carry-jwt", Warning, "Users log in by JSON web tokens.", "Install ESS without MAS."),
    ("carry-ldap", Warning, "Users log in by LDAP.", "Put an OpenID Connect provider before it."),
    ("carry-mas", Warning, "Synapse leaves logins to a Matrix Authentication Service.", "Move its database and secrets at the same moment."),
    ("carry-modules", Warning, "Synapse loads modules that ESS's image lacks.", "Use an image that has them, or do without."),
    ("carry-oidc", Warning, "Users log in by OpenID Connect.", "Install ESS without MAS at first; make the providers upstream providers of MAS later."),
    ("carry-saml", Warning, "Users log in by SAML.", "Install ESS without MAS, or move users to OpenID Connect first."),
    ("carry-templates", Warning, "Synapse uses templates of its own.", "Give them to ESS with synapse.extraVolumes."),
    ("clock", Warning, "A server's clock and this machine's are far apart.", "Let both keep time by NTP."),
    ("cluster-gitops", Warning, "A GitOps controller keeps Synapse's workloads and may scale them back up.", "Make it wait before ess-scale down."),
    ("cluster-operator", Warning, "The operator of the older ESS scales Synapse back up; a warning where ess-scale down would refuse to stop it.", "Stop it with ess-scale, not with kubectl; give back the ElementDeployment, or name the operator's namespace."),
    ("cluster-versions", Warning, "Processes of ESS's Synapse have different images.", "Finish the upgrade of ESS first."),
    ("damage-hidden", Warning, "Damaged pages are read as empty, or as they are, and nothing is said.", "Set zero_damaged_pages and ignore_checksum_failure to off, and see whether the data are whole."),
    ("dns-no-address", Warning, "A name that should lead to the homeserver has no address.", "Correct public_baseurl, .well-known or SRV records."),
    ("dns-not-checked", Warning, "The DNS could not be asked.", "Run where name servers can be reached, or give --resolver."),
    ("dns-ttl", Warning, "Records of the public names are remembered for longer than --max-ttl.", "Lower their TTL, and wait until the old one has aged out."),
    ("export-in-memory", Warning, "The export is in memory, and gone after a restart.", "Choose a place on disk."),
    ("export-locked", Warning, "Another run works on the export now.", "Wait for it, or end it."),
    ("invalid-indexes", Warning, "An index whose build failed is in no dump.", "REINDEX INDEX CONCURRENTLY it."),
    ("log-holds-rows", Warning, "The target's log will hold rows that are loaded by INSERT, and large objects.", "Set log_statement to none and log_min_duration_statement to -1 for the role, as a superuser."),
    ("media", Warning, "What the media store holds, by kind; a warning when there is none and a storage provider has to have it.", "ESS needs room for it: synapse.media.storage.size."),
    ("media-files-missing", Warning, "Uploads that the database knows have no file: they are lost already.", "Find them in a backup, or let them go."),
    ("media-partly-checked", Warning, "The media store was larger than --budget allowed to look at; figures are estimates.", "Run once with --budget none."),
    ("memory", Warning, "This machine has little memory left.", "End what is not needed."),
    ("no-tmux", Warning, "This is an SSH session without tmux or screen.", "Run everything in tmux."),
    ("open-files", Warning, "A process may open few files.", "Raise ulimit -n."),
    ("other-sessions", Warning, "Other roles than Synapse's use the source.", "End them before pgdump-wrap, or give it --ignore-role."),
    ("prepared-transactions", Warning, "Prepared transactions hold locks, and no dump has what they wrote.", "End each with COMMIT PREPARED or ROLLBACK PREPARED."),
    ("schema-newer", Warning, "The source's schema is newer than the target's: its Synapse would go back a version.", "Update the target's Synapse first."),
    ("source-collation", Warning, "The source does not sort by C: an update of the system may have left duplicates; an info when it sorts as C does.", "Run pg_amcheck; the target's C is the cure."),
    ("source-standby", Warning, "The source is a standby, which goes on changing.", "Name the primary server."),
    ("synapse-unwell", Warning, "Synapse answers, and not that it is well.", "See its log."),
    ("temp-file-limit", Warning, "An index whose build needs more temporary files ends the restore.", "Set temp_file_limit to -1 for the role, as a superuser."),
    ("well-known-broken", Warning, "A document of .well-known/matrix is no JSON, lacks a field, or cannot be read by browsers.", "Correct it, or let ESS serve it."),
    ("well-known-not-checked", Warning, "The documents of .well-known/matrix cannot be fetched.", "Look at them from a machine that reaches the public names."),
    ("carry-captcha", Info, "Registration asks for a captcha.", "Its keys go to synapse.additional."),
    ("carry-listeners", Info, "Listeners that ESS does not have.", "Lead who comes by port 8448 to 443, with .well-known or SRV records."),
    ("carry-owned", Info, "Options that ESS sets itself, and the field of the chart for each.", "Set the field of the chart instead."),
    ("carry-pepper", Info, "Passwords are peppered; extract-secrets carries the pepper.", "It goes to synapse.additional, or with MAS to passwords.schemes."),
    ("carry-retention", Info, "Old messages are deleted by policy.", "Leave it out of synapse.additional while old messages are needed for comparison."),
    ("carry-syn2mas", Info, "What syn2mas would stop at, or leave behind, when logins move to MAS later.", "Turn them off, or name the provider, before syn2mas."),
    ("carry-turn", Info, "Calls go through a TURN server, which stays where it is.", "Its URIs and its secret go to synapse.additional."),
    ("carry-workers", Info, "Synapse runs with workers, which ESS sets up in its own way.", "Enable the kinds that are wanted in synapse.workers."),
    ("cluster", Info, "Which ESS the target is, and the version of its Synapse.", ""),
    ("cluster-media", Info, "The volume that media go to, and who mounts it.", ""),
    ("configuration-note", Info, "Something in the configuration that is good to know.", ""),
    ("delegation", Info, "Where other servers find the homeserver, and by which rule.", "Let .well-known/matrix/server name port 443 on the day."),
    ("dns", Info, "The records of the public names, and how long they are remembered.", ""),
    ("downtime", Info, "An estimate of how long Synapse stands still, step by step, from short samples of both servers.", "Copy media beforehand, so that only what is new remains."),
    ("duplicates-tried", Info, "How many unique keys were tried for duplicates, where the collation may hide them.", ""),
    ("export", Info, "How much room there is for the export.", ""),
    ("extensions", Info, "Extensions of the source stay behind.", ""),
    ("host", Info, "Memory, processors and limits of this machine.", ""),
    ("large-objects", Info, "The source has large objects, which Synapse does not make.", ""),
    ("left-behind", Info, "What no dump holds: replication, foreign tables, privileges, settings of the database and the like.", "Make anew on the target what is still wanted there."),
    ("macaroon-secret", Info, "What takes the place of a missing macaroon_secret_key.", ""),
    ("media-elsewhere", Info, "Media are in a storage provider too.", "Give ESS the same media_storage_providers."),
    ("media-files-unknown", Info, "There are files in local_content that no row of the database knows.", ""),
    ("profile", Info, "Users, monthly active users, federation, and the profile of ESS that fits.", "Choose the profile of ESS by it."),
    ("replication-slots", Info, "Others follow the source by replication, and will not follow the target.", "Set replication up anew on the target where it is needed."),
    ("schema", Info, "The version of the source's schema.", ""),
    ("schema-upgrade", Info, "The target's Synapse will upgrade the schema when it starts.", "Give a large database time for it with synapse.startupProbe.failureThreshold."),
    ("schemas", Info, "The source has schemas that are not Synapse's.", ""),
    ("sequence-behind-table", Info, "Sequences are behind their tables, which Synapse repairs when it starts.", ""),
    ("source-server", Info, "Which database the source is.", ""),
    ("source-size", Info, "What the source holds, its largest tables, and how large a dump of it is about.", ""),
    ("synapse-not-asked", Info, "Synapse has no plain HTTP listener to ask.", ""),
    ("synapse-runs", Info, "Synapse runs and is well; its version.", ""),
    ("synapse-sessions", Info, "Sessions of Synapse's role on the source.", "Stop Synapse when it is the turn of pgdump-wrap."),
    ("synapse-stopped", Info, "No Synapse answers.", ""),
    ("target-fresh", Info, "The target was not used yet, or only tried out.", ""),
    ("target-restored", Info, "The target stands where the source stands: a line that is run again finds each part done.", "Run the same line again."),
    ("target-server", Info, "Which database the target is.", ""),
    ("target-sessions", Info, "Sessions on the target.", "Scale ESS down before ess-wipe."),
    ("target-synapse", Info, "What the target's Synapse says of itself at --target-endpoint.", ""),
    ("unknown", Info, "A check that only informs could not be made, such as the estimate of the downtime.", ""),
    ("unlogged-tables", Info, "Tables that a crash empties, and that are not Synapse's.", ""),
    ("well-known", Info, "What .well-known/matrix says, and who serves it.", "On the day, let m.server and base_url name the host of ESS."),
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
                "An info is good to know, and asks for nothing where no remedy is named:",
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
            assert!(is == wanted, "man/preflight.1 lists other ids; UPDATE=1 writes it anew");
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
            assert!(known, "{id} is no blocker ({severity:?})");
        }
    }
}
