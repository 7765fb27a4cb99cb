#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;

const ALL: [u32; 6] = [13, 14, 15, 16, 17, 18];

fn dump(source: u32, target: u32) -> Need {
    Need::Dump {
        source,
        target: Some(target),
    }
}

fn load(written_by: u32, target: u32) -> Need {
    Need::Load {
        written_by: Some(written_by),
        compression: None,
        target,
    }
}

#[test]
fn programs_serve_both_ends_or_are_refused() {
    let alone = |source| Need::Dump { source, target: None };
    let back_up = |target| Need::BackUp { target };
    let text = |target| Need::Load {
        written_by: None,
        compression: None,
        target,
    };
    // The need, the versions that are installed, the one that is chosen, the one that is suggested to be installed.
    let rows: &[(Need, &[u32], Option<u32>, u32)] = &[
        // Debian 13 has only version 17, and ESS may use PostgreSQL 16.
        (dump(15, 16), &[17], None, 16),
        (back_up(16), &[17], None, 16),
        (dump(15, 16), &[18], None, 16),
        (dump(15, 16), &[16, 17, 18], Some(16), 16),
        (back_up(16), &[15, 17], None, 16),
        (back_up(16), &[16, 17], Some(16), 16),
        // The output of pg_dump is meant for servers of its own version and newer.
        (dump(13, 16), &[15, 17], Some(15), 16),
        (dump(13, 15), &[14, 16], Some(14), 15),
        (dump(13, 18), &[13, 14], Some(14), 18),
        // The version of the newer server is chosen, although older ones would do.
        (dump(13, 16), &ALL, Some(16), 16),
        (dump(13, 17), &ALL, Some(17), 17),
        (dump(13, 17), &[15, 18], Some(15), 17),
        (dump(17, 17), &[16, 18], Some(18), 17),
        (dump(16, 16), &[15], None, 16),
        (dump(18, 18), &[17], None, 18),
        (back_up(18), &[17], None, 18),
        (back_up(13), &ALL, Some(13), 13),
        (back_up(13), &[16], Some(16), 13),
        // The target is not known yet: the oldest suitable version leaves all options open.
        (alone(15), &[17], Some(17), 15),
        (alone(15), &[15, 17], Some(15), 15),
        (alone(15), &[13, 14], None, 15),
        // Versions 12 to 15 share an archive format, 16 has its own, 17 and 18 share one.
        (load(15, 18), &[13], Some(13), 18),
        (load(15, 16), &[13, 17], Some(13), 16),
        (load(16, 16), &[15, 17], None, 16),
        (load(16, 17), &[15, 17], Some(17), 17),
        (load(18, 17), &[17], Some(17), 18),
        (load(18, 17), &[17, 18], Some(18), 18),
        (load(17, 18), &[16], None, 18),
        (load(13, 14), &ALL, Some(14), 14),
        // No program can load these.
        (load(17, 16), &ALL, None, 16),
        (load(18, 13), &ALL, None, 16),
        (text(16), &[17, 18], None, 16),
        (text(16), &[13], Some(13), 16),
        (text(18), &[13, 17], Some(17), 18),
    ];
    for (need, here, taken, installed) in rows {
        let order = need.in_order(here);
        assert_eq!(order.first().map(|at| here[*at]), *taken, "{need} by {here:?}");
        assert_eq!(need.best(), *installed, "{need}");
    }
}

#[test]
fn whatever_is_here_the_rule_holds() {
    let target_of = |need: Need| match need {
        Need::Dump { target, .. } => target.unwrap(),
        Need::BackUp { target } | Need::Load { target, .. } => target,
    };
    for (from, to) in ALL.iter().flat_map(|from| ALL.iter().map(move |to| (*from, *to))) {
        for need in [dump(from, to), Need::BackUp { target: to }, load(from, to)] {
            for subset in 0_u32..64 {
                let here: Vec<u32> = (0..6)
                    .filter(|bit| subset >> bit & 1 == 1)
                    .map(|bit| ALL[bit])
                    .collect();
                let taken = need.in_order(&here).first().map(|at| here[*at]);
                let serves = |major: &u32| *major <= 16 || target_of(need) >= 17;
                let reaches = |major: &u32| match need {
                    Need::Dump { source, .. } => *major >= source,
                    Need::BackUp { target } => *major >= target,
                    Need::Load { written_by, .. } => {
                        let format = |major| [14, 14, 14, 15, 16, 16][major as usize - 13];
                        format(*major) >= format(written_by.unwrap())
                    }
                };
                let any = here.iter().any(|major| serves(major) && reaches(major));
                assert_eq!(taken.is_some(), any, "{need} by {here:?}");
                assert!(
                    taken.is_none_or(|major| serves(&major) && reaches(&major)),
                    "{need} by {here:?}"
                );
            }
        }
    }
}

#[test]
fn a_refusal_names_what_is_here_and_what_to_install() {
    let of = |version: &str| Installation {
        directory: PathBuf::from("/usr/bin"),
        major: version[..2].parse().unwrap(),
        version: version.to_owned(),
    };
    let here = [of("15.18"), of("18.1")];
    assert_eq!(
        Need::BackUp { target: 16 }.unmet(&here, None),
        "backing up this target (PostgreSQL 16) requires client programs of version 16 (newer ones send SET \
         transaction_timeout, which that target refuses); found here: version 15.18, 18.1"
    );
    assert_eq!(
        dump(13, 16).unmet(&here[1..], Some(Path::new("/opt/bin"))),
        "dumping this source (PostgreSQL 13) for this target (PostgreSQL 16) requires client programs of version \
         13 to 16 (newer ones send SET transaction_timeout, which that target refuses); found in /opt/bin: version \
         18.1"
    );
    let source = Need::Dump {
        source: 18,
        target: None,
    };
    assert_eq!(
        source.unmet(&here[..1], None),
        "dumping this source (PostgreSQL 18) requires client programs of version 18 or newer; \
         found here: version 15.18"
    );
    let compressed = Need::Load {
        written_by: Some(17),
        compression: Some("zstd"),
        target: 17,
    };
    assert_eq!(
        compressed.unmet(&here, None),
        "loading this dump (of pg_dump 17) into this target (PostgreSQL 17) requires client programs of version 17 \
         or newer with zstd support; found here: version 15.18, 18.1 without zstd"
    );
    assert!(
        source
            .unmet(&[], None)
            .ends_with("; no pg_dump and pg_restore were found here")
    );
}

#[test]
fn the_programs_of_this_machine_are_found_and_fit_their_own_server() {
    let all = installations(None);
    let newest = all.last().unwrap();
    let alone = |source| Need::Dump { source, target: None };
    assert_eq!(choose(None, alone(newest.major)).unwrap().major, newest.major);
    let Err(Error::Missing { what, hint }) = choose(None, alone(newest.major + 1)) else {
        panic!("no program here is that new");
    };
    assert!(what.contains(&newest.version), "{what}");
    let package = format!("install postgresql-client-{}, ", newest.major + 1);
    assert!(hint.starts_with(&package), "{hint}");
    // A directory that the user names is the only one that is searched.
    let Err(Error::Missing { what, hint }) = choose(Some(Path::new("/nowhere")), alone(newest.major)) else {
        panic!("nothing is there");
    };
    assert!(what.ends_with("were found in /nowhere"), "{what}");
    assert_eq!(hint, format!("use --pg-bin {}", newest.directory.display()));
}
