//! extract-secrets writes only into a directory that other users cannot access, and follows no link in it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};

use crate::support::secrets::{POSTGRES, age_key, args, debian, emit, extract};
use crate::support::{Stdin, World, assert_failed};

#[test]
fn a_directory_of_others_or_open_to_others_is_refused() {
    let world = World::new();
    debian(&world, POSTGRES);
    let out = |out: &str| {
        let mut args = args(&world);
        *args.last_mut().unwrap() = out.into();
        world.run("extract-secrets", args, Stdin::Null)
    };
    world.write("open/file", "");
    fs::set_permissions(world.path("open"), Permissions::from_mode(0o755)).unwrap();
    world.write("own/file", "");
    symlink(world.path("own"), world.path("link")).unwrap();

    insta::assert_snapshot!(out("open"), @r"
    -- stderr --
    extract-secrets: will not write to $WORLD/open: other users can access it
    hint: choose a directory of its own, or: chmod 700 $WORLD/open
    -- exit status: 77 --
    ");
    fs::set_permissions(world.path("open"), Permissions::from_mode(0o1777)).unwrap();
    let shared = out("open");
    assert_failed(
        &shared,
        77,
        "other users can access it\nhint: choose a directory of its own, such as ",
    );
    insta::assert_snapshot!(out("own"), @r"
    -- stderr --
    extract-secrets: will not write to $WORLD/own: it is not an export, and it contains file
    hint: choose a directory of its own, such as $WORLD/own/export
    -- exit status: 1 --
    ");
    insta::assert_snapshot!(out("/usr"), @r"
    -- stderr --
    extract-secrets: will not write to /usr: it belongs to another user
    -- exit status: 77 --
    ");
    insta::assert_snapshot!(out("link"), @r"
    -- stderr --
    extract-secrets: will not write to $WORLD/link: it is not a directory
    -- exit status: 77 --
    ");
    insta::assert_snapshot!(out("none/export"), @r"
    -- stderr --
    extract-secrets: cannot make directory $WORLD/none/export: No such file or directory (os error 2)
    -- exit status: 74 --
    ");
}

#[test]
fn a_planted_link_is_not_followed() {
    let world = World::new();
    debian(&world, &format!("{POSTGRES}form_secret: CANARY\n"));
    let victim = world.write("victim", "untouched");
    world.write("export/secrets/x", "");
    symlink(&victim, world.path("export/secrets/form_secret")).unwrap();

    let ran = extract(&world);

    assert_eq!(ran.status.code(), Some(77), "{ran}");
    assert_eq!(world.read("victim"), "untouched");
    assert!(!world.path("export/secrets/signing_key").exists());
}

#[test]
fn no_name_in_an_export_is_followed_elsewhere() {
    // Directories, then files; each is a link that leads out of the export.
    for name in [
        "secrets",
        "config",
        "ess",
        "documents",
        ".lock",
        "secrets/index.json",
        "secrets/signing_key",
        "config/001-homeserver.yaml",
        "ess/secrets.yaml",
        "ess/values.yaml",
        "secrets.tar.age",
        "secrets.tar.age.json",
    ] {
        let world = World::new();
        debian(&world, &format!("{POSTGRES}form_secret: CANARY\n"));
        let key = age_key(&world, "alice");
        let all = ["dir", "kubernetes", "helm", "age"]
            .map(|form| ["--emit", form])
            .concat();
        let all = [&all[..], &["-r", &key]].concat();
        emit(&world, &all).success();
        let planted = world.path("export").join(name);
        if planted.is_dir() {
            fs::remove_dir_all(&planted).unwrap();
        } else {
            fs::remove_file(&planted).unwrap();
        }
        world.write("elsewhere/victim", "untouched");
        fs::set_permissions(world.path("elsewhere"), Permissions::from_mode(0o700)).unwrap();
        let is_directory = !name.contains(['.', '/']);
        symlink(
            world.path(if is_directory { "elsewhere" } else { "elsewhere/victim" }),
            &planted,
        )
        .unwrap();

        let ran = emit(&world, &all);

        assert!(!ran.status.success() && ran.stdout.is_empty(), "{name}\n{ran}");
        assert_eq!(world.read("elsewhere/victim"), "untouched", "{name}");
        assert_eq!(fs::read_dir(world.path("elsewhere")).unwrap().count(), 1, "{name}");
    }
}

#[test]
fn a_partial_file_that_was_planted_is_not_followed() {
    let world = World::new();
    debian(&world, &format!("{POSTGRES}form_secret: CANARY\n"));
    let victim = world.write("victim", "untouched");
    world.shell("mkdir -m 700 export export/secrets").success();
    symlink(&victim, world.path("export/secrets/.form_secret.partial")).unwrap();

    extract(&world).success();

    assert_eq!(world.read("victim"), "untouched");
    assert_eq!(world.read("export/secrets/form_secret"), "CANARY");
}

#[test]
fn two_runs_at_once_are_one_too_many() {
    let world = World::new();
    debian(&world, POSTGRES);
    extract(&world).success();

    let ran = world
        .script(r#"flock export/.lock extract-secrets "$@""#)
        .args(["bash".to_owned()].into_iter().chain(args(&world)))
        .run();

    assert_eq!(ran.status.code(), Some(75), "{ran}");
}
