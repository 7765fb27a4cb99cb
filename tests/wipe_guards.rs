//! What keeps ess-wipe from erasing a database that it does not understand, or for a dump that is not there.

use crate::scene::{Scene, assert_failed};
use crate::support::Stdin;

#[test]
fn nothing_is_erased_before_the_dump_of_the_document_is_here_and_whole() {
    let scene = Scene::new();
    let dumped = scene.dump().success().stdout;
    let before = scene.target_dump();
    let largest = "$(ls -S export/dump/data/*.dat* | head -1)";
    for (damage, status, said) in [
        (
            "rm -r export/dump".to_owned(),
            74,
            "nothing was erased: cannot read the dump",
        ),
        (
            format!("F={largest}; printf X | dd of=$F bs=1 seek=100 conv=notrunc"),
            65,
            "does not match its SHA-256",
        ),
        (
            // As a restored backup, or a disk that lies, would have it: the same size and mtime.
            format!("F={largest}; touch -r $F ref; printf X | dd of=$F bs=1 seek=100 conv=notrunc; touch -r ref $F"),
            65,
            "does not match its SHA-256",
        ),
        (format!("truncate -s -1 {largest}"), 65, "bytes, the manifest says"),
        (format!("rm {largest}"), 65, "is missing"),
        (
            "printf X | dd of=export/dump/manifest.json bs=1 seek=100 conv=notrunc".to_owned(),
            65,
            "manifest",
        ),
        (
            r#"sed -i 's/"pg_dump_version":"/&1/; s/,"seal":"[0-9a-f]*"//' export/dump/manifest.json"#.to_owned(),
            65,
            "is not the one in the document",
        ),
    ] {
        scene.world.shell("rm -rf kept; cp -a export/dump kept").success();
        scene.world.shell(&damage).success();

        let ran = scene.wipe(dumped.as_str());

        assert_failed(&ran, status, said);
        assert!(ran.stderr.contains("nothing was erased"), "{ran}");
        assert_eq!(scene.target_dump(), before, "{damage}");
        scene.world.shell("rm -rf export/dump; mv kept export/dump").success();
    }
    // A whole copy is as good: it is read again.
    scene.wipe(dumped.as_str()).success();
}

#[test]
fn tables_that_are_not_synapses_are_refused_unless_they_are_named() {
    let scene = Scene::dumped();
    scene.on_target(
        "SET ROLE synapse_user; CREATE TABLE portal (mxid text); CREATE SCHEMA bridge; CREATE TABLE bridge.puppet (id int)",
    );
    let before = scene.target_dump();
    let confirm = scene.confirmation();
    let wipe = |more: &[&str]| {
        scene
            .wiper()
            .args(["--execute", "--confirm", &confirm])
            .args(more)
            .run()
    };

    assert_failed(
        &wipe(&[]),
        1,
        "the target holds 2 tables that are not Synapse's: bridge.puppet, public.portal",
    );
    assert_failed(
        &wipe(&["--also-erase", "public.portal"]),
        1,
        "the target holds 1 table that is not Synapse's: bridge.puppet",
    );
    assert_eq!(scene.target_dump(), before);

    let ran = wipe(&["--also-erase", "public.portal", "--also-erase", "bridge.puppet"]).success();
    assert!(
        ran.json()["wipe"]["overrides"].to_string().contains("--also-erase"),
        "{ran}"
    );
    assert!(scene.is_fenced());
}

#[test]
fn a_database_without_synapses_tables_is_not_called_unused() {
    let scene = Scene::dumped();
    scene.on_target("DROP SCHEMA public CASCADE; CREATE SCHEMA public; GRANT ALL ON SCHEMA public TO synapse_user; SET ROLE synapse_user; CREATE TABLE orders (id int)");
    let before = scene.target_dump();

    let ran = scene.wipe(Stdin::Null);

    assert_failed(
        &ran,
        1,
        "the target holds none of Synapse's tables, but 1 table that is not Synapse's: public.orders",
    );
    assert_eq!(scene.target_dump(), before);
}

#[test]
fn synapses_tables_in_another_schema_are_found_and_refused() {
    let scene = Scene::dumped();
    scene.on_target(
        "ALTER SCHEMA public RENAME TO matrix; CREATE SCHEMA public; GRANT ALL ON SCHEMA public TO synapse_user",
    );
    let before = scene.target_dump();

    let ran = scene.wipe(Stdin::Null);

    assert_failed(
        &ran,
        1,
        "Synapse's tables are in schema matrix of the target, not in public",
    );
    assert_eq!(scene.target_dump(), before);
}

#[test]
fn a_search_path_that_leads_past_public_is_refused() {
    let scene = Scene::dumped();
    let target = &scene.target;
    scene.on_target(&format!(
        "CREATE SCHEMA elsewhere; GRANT ALL ON SCHEMA elsewhere TO synapse_user;
         ALTER ROLE synapse_user IN DATABASE {target} SET search_path = elsewhere"
    ));
    let before = scene.target_dump();

    let ran = scene.wipe(Stdin::Null);

    assert_failed(
        &ran,
        1,
        "the search_path of role synapse_user on the target is elsewhere",
    );
    assert_eq!(scene.target_dump(), before);
}

#[test]
fn a_source_whose_tables_are_not_in_public_is_refused_at_the_dump() {
    let scene = Scene::new();
    scene.on_source("ALTER SCHEMA public RENAME TO matrix; CREATE SCHEMA public");

    let ran = scene.dump();

    assert_failed(
        &ran,
        1,
        "Synapse's tables are in schema matrix of the source, not in public",
    );
    assert!(!scene.world.path("export/dump").exists());
}
