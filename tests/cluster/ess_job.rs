//! ess-job: Kubernetes accepts the manifests, and the pipeline in them runs as it was given.

use std::fs;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim};
use serde_json::{Value, json};

use crate::support::objects::is_of;
use crate::support::{Call, Cluster, Kube, Ran, Stdin, World, assert_failed, kubectl};

fn job<'a>(world: &World, more: &[&str]) -> Call<'a> {
    world
        .tool("ess-job")
        .args(["--image", "registry.example.org/ess-migrate:1"])
        .args(more)
}

const DOCUMENT: &str = r#"{"format":"ess-migration/1","source":{"server_name":"example.org"}}"#;

/// The manifests, by kind.
fn manifests(ran: &Ran) -> Vec<(String, Value)> {
    let list = ran.json();
    assert_eq!(list["kind"], "List");
    let items = list["items"].as_array().unwrap().iter();
    items
        .map(|item| (item["kind"].as_str().unwrap().to_owned(), item.clone()))
        .collect()
}

fn of_kind(ran: &Ran, kind: &str) -> Value {
    let found = manifests(ran).into_iter().find(|(is, _)| is == kind);
    found.unwrap_or_else(|| panic!("no {kind} in {ran}")).1
}

fn pod(ran: &Ran) -> Value {
    of_kind(ran, "Job")["spec"]["template"]["spec"].clone()
}

#[test]
fn the_job_is_as_ess_s_own_pods_are() {
    let world = World::new();
    let args = [
        "-n",
        "--storage",
        "20Gi",
        "--secret",
        "target.pw=ess-generated/POSTGRES_SYNAPSE_PASSWORD",
    ];

    let ran = job(&world, &args).args(["restore -n --from dump"]).run().success();

    let kinds: Vec<String> = manifests(&ran).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["PersistentVolumeClaim", "Job"]);
    for (_, manifest) in manifests(&ran) {
        assert_eq!(manifest["metadata"]["namespace"], "ess");
        // With Synapse's labels, ess-scale down would treat the Job as Synapse.
        let labels = &manifest["metadata"]["labels"];
        assert_eq!(labels.get("app.kubernetes.io/component"), None);
    }
    let pod = pod(&ran);
    let security = &pod["securityContext"];
    assert_eq!(
        (&security["runAsNonRoot"], &security["runAsUser"]),
        (&json!(true), &json!(10_091))
    );
    assert_eq!(
        (&security["runAsGroup"], &security["fsGroup"]),
        (&json!(10_091), &json!(10_091))
    );
    assert_eq!(security["seccompProfile"], json!({"type": "RuntimeDefault"}));
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod["restartPolicy"], "Never");
    let container = &pod["containers"][0];
    assert_eq!(
        container["securityContext"],
        json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}})
    );
    assert_eq!(
        pod["volumes"][2]["projected"]["sources"],
        json!([{"secret": {"name": "ess-generated",
                           "items": [{"key": "POSTGRES_SYNAPSE_PASSWORD", "path": "target.pw"}]}}])
    );
    assert_eq!(of_kind(&ran, "Job")["spec"]["backoffLimit"], 0);
    let near = &pod["affinity"]["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"][0];
    assert_eq!(
        near["podAffinityTerm"]["labelSelector"]["matchLabels"],
        json!({"app.kubernetes.io/component": "matrix-stack-db"})
    );
    assert_eq!(
        of_kind(&ran, "PersistentVolumeClaim")["spec"]["resources"]["requests"]["storage"],
        "20Gi"
    );
    assert!(ran.stderr.contains("kubectl logs -n ess -f job/ess-migrate"), "{ran}");
}

#[test]
fn a_document_goes_along_and_a_volume_is_used_again() {
    let world = World::new();
    let args = [
        "--claim",
        "dumps",
        "--node",
        "node-1",
        "--service-account",
        "mover",
        "-N",
        "matrix",
        "--name",
        "two",
    ];

    let ran = job(&world, &args).args(["verify"]).stdin(DOCUMENT).run().success();

    let kinds: Vec<String> = manifests(&ran).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["ConfigMap", "Job"]);
    let carried = of_kind(&ran, "ConfigMap")["data"]["migration.json"].clone();
    let carried: Value = serde_json::from_str(carried.as_str().unwrap()).unwrap();
    assert_eq!(carried["source"]["server_name"], "example.org");
    let pod = pod(&ran);
    assert_eq!(pod["nodeSelector"], json!({"kubernetes.io/hostname": "node-1"}));
    assert_eq!(
        (&pod["serviceAccountName"], &pod["automountServiceAccountToken"]),
        (&json!("mover"), &json!(true))
    );
    assert_eq!(pod["volumes"][0]["persistentVolumeClaim"]["claimName"], "dumps");
    assert_eq!(of_kind(&ran, "Job")["metadata"]["namespace"], "matrix");

    let elsewhere = json!({"format": "ess-migration/1", "export": "/srv/export", "target": {
        "connection": {"host": "db"}, "password": {"from": "file", "path": "/root/target.pw"},
    }});
    let elsewhere = elsewhere.to_string();
    let told = |line: &str| {
        let call = job(&world, &args).args([line]).stdin(elsewhere.as_str());
        let ran = call.run().success();
        ran.stderr
            .lines()
            .filter(|line| line.contains("which the Job cannot access"))
            .count()
    };
    assert_eq!(told("verify"), 2);
    assert_eq!(
        told("verify --export /work/export --target-password-file /secrets/target.pw"),
        0
    );

    // The document is passed on unchanged, including unknown content.
    let small = json!({"format": "ess-migration/1", "annotations": {"x": "y"}}).to_string();
    let ran = job(&world, &args)
        .args(["verify"])
        .stdin(small.as_str())
        .run()
        .success();
    let carried = of_kind(&ran, "ConfigMap")["data"]["migration.json"].clone();
    assert!(carried.as_str().unwrap().contains("annotations"), "{carried}");

    let large = json!({"format": "ess-migration/1", "source": {"server_name": "example.org"},
                       "annotations": {"x": "y".repeat(1 << 20)}})
    .to_string();
    let ran = job(&world, &args).args(["verify"]).stdin(large.as_str()).run();
    assert_failed(&ran, 65, "too large for a ConfigMap");
}

#[test]
fn kubernetes_takes_the_manifests() {
    let world = World::new();
    let cluster = Cluster::ess(&world, "target");
    let kube = Kube::community(&world, &cluster);
    let all = [
        &[
            "--storage",
            "20Gi",
            "--storage-class",
            "fast",
            "--secret",
            "a=b/c",
            "--secret",
            "d=e/f",
            "--retries",
            "1",
        ][..],
        &[
            "--claim",
            "dumps",
            "--node",
            "node-1",
            "--service-account",
            "mover",
            "--name",
            "two",
            "--user",
            "10991",
        ],
    ];
    for args in all {
        let ran = job(&world, args).args(["verify | cat"]).stdin(DOCUMENT).run().success();
        for (kind, manifest) in manifests(&ran) {
            match kind.as_str() {
                "Job" => is_of::<Job>(&manifest),
                "ConfigMap" => is_of::<ConfigMap>(&manifest),
                "PersistentVolumeClaim" => is_of::<PersistentVolumeClaim>(&manifest),
                other => panic!("{other}"),
            }
        }
        world.write("manifests.json", &ran.stdout);
        let apply = |how: &str| {
            let kubectl = kubectl().display();
            let script = format!("{kubectl} --cache-dir kube/cache {how} --validate=false -f manifests.json -o name");
            kube.seen_by(world.script(&script)).run().success().stdout
        };

        let rehearsed = apply("apply --dry-run=client");
        assert!(
            kube.object("jobs", "ess", "two").is_null() && rehearsed.contains("job.batch/"),
            "{rehearsed}"
        );
        assert_eq!(apply("apply"), rehearsed);

        for (kind, manifest) in manifests(&ran) {
            let resource = format!("{}s", kind.to_lowercase());
            let there = kube.object(&resource, "ess", manifest["metadata"]["name"].as_str().unwrap());
            for part in ["spec", "data"] {
                assert_eq!(there.get(part), manifest.get(part), "{resource}");
            }
        }
    }
}

/// Expands an argument as the kubelet does: `$(NAME)` is replaced if the container has that variable, and `$$` is `$`.
fn as_the_kubelet_has_it(argument: &str) -> String {
    let parts = argument.split("$$");
    let parts = parts.map(|part| part.replace("$(HOME)", "/work"));
    parts.collect::<Vec<_>>().join("$")
}

/// Runs the container's command, with directories of this world in place of /work and /document.
fn as_the_container(world: &World, ran: &Ran, path: &str) -> Ran {
    let container = pod(ran)["containers"][0].clone();
    let command = container["command"].as_array().unwrap();
    let command: Vec<String> = command.iter().map(|word| word.as_str().unwrap().to_owned()).collect();
    let document = world.path("document").display().to_string();
    let quoted = command.iter().map(|argument| {
        let argument = as_the_kubelet_has_it(argument).replace("/document/", &format!("{document}/"));
        format!("'{}'", argument.replace('\'', r"'\''"))
    });
    let line = quoted.collect::<Vec<_>>().join(" ");
    world.shell(&format!("mkdir -p work && cd work && PATH={path} exec {line}"))
}

#[test]
fn the_line_in_it_runs_as_it_was_given() {
    let world = World::new();
    world.write("document/migration.json", DOCUMENT);
    let ran = |line: &str| {
        let printed = job(&world, &["--storage", "1Gi"]).args([line]).stdin(DOCUMENT).run();
        as_the_container(&world, &printed.success(), "/usr/bin:/bin")
    };

    let echoed = ran(r#"cat | tee read.json; echo "a  b" 'c"d' $((1 + 1)) # and this"#).success();
    assert_eq!(echoed.stdout, format!("{DOCUMENT}a  b c\"d 2\n"));
    assert_eq!(
        fs::metadata(world.path("work/read.json")).unwrap().len(),
        DOCUMENT.len() as u64
    );
    let unchanged = ran("HOME() { echo function; }; echo $(HOME) x$$ | grep -c '^function x[0-9]'").success();
    assert_eq!(unchanged.stdout, "1\n");
    let mode = ran("touch private; stat -c %a private").success();
    assert_eq!(mode.stdout, "600\n");
    assert_eq!(
        ran("exit 7 | cat").status.code(),
        Some(7),
        "a step before the last is forgotten"
    );
    assert_eq!(ran("false; true").status.code(), Some(1));
    assert_eq!(
        ran("echo \"$NO_SUCH\"").status.code(),
        Some(1),
        "an unset variable is empty"
    );

    // A shell without `pipefail` is refused, since it does not report which program failed.
    world.shell("mkdir bin; ln -s /bin/dash bin/sh").success();
    let printed = job(&world, &["-n", "--storage", "1Gi"])
        .args(["echo done"])
        .run()
        .success();
    let poor = as_the_container(&world, &printed, &world.path("bin").display().to_string());
    assert!(!poor.status.success() && !poor.stdout.contains("done"), "{poor}");
}

#[test]
fn what_erases_is_never_repeated_and_nonsense_is_refused() {
    let world = World::new();
    let run = |args: &[&str]| job(&world, &["-n"]).args(args).stdin(Stdin::Null).run();
    for line in [
        "restore -n --from dump",
        "ess-wipe --execute | cat",
        "x=1 /usr/bin/restore",
    ] {
        let ran = run(&["--storage", "1Gi", "--retries", "1", line]);
        assert_failed(&ran, 64, "must not be retried automatically");
    }
    let ran = run(&["--storage", "1Gi", "--retries", "2", "preflight -n --check"]).success();
    assert_eq!(of_kind(&ran, "Job")["spec"]["backoffLimit"], 2);
    let ran = run(&["--storage", "1Gi", "preflight -n --target kube:ess"]).success();
    assert!(ran.stderr.contains("without --service-account"), "{ran}");

    for wrong in [
        &["true"][..],
        &["--storage", "1Gi"],
        &["--storage", "lots", "true"],
        &["--storage", "1Gi", "--claim", "x", "true"],
        &["--storage", "1Gi", "--name", "A_b", "true"],
        &["--storage", "1Gi", "--secret", "x=y", "true"],
        &["--storage", "1Gi", "--secret", "../x=y/z", "true"],
        &["--storage", "1Gi", "--user", "0", "true"],
    ] {
        assert_failed(&run(wrong), 64, "");
    }
}
