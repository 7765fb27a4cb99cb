//! The database of an ESS in a cluster: it is recognised and reached wherever it is, or what is missing is listed.

use serde_json::json;

use crate::support::findings::fires;
use crate::support::in_cluster::Stage;
use crate::support::until;

#[test]
fn what_an_ess_is_not_recognised_by_is_listed() {
    let stage = Stage::community();
    let ran = stage.tool("verify").args(["-n", "--target", "kube:elsewhere"]).run();
    insta::assert_snapshot!(ran, @r#"
    -- stderr --
    verify: cannot identify the ESS in namespace elsewhere: it has no workloads, or does not exist
    hint: find it with `kubectl get statefulsets -A -l app.kubernetes.io/component=matrix-server`, or give --target postgresql://...
    -- exit status: 1 --
    "#);

    stage.kube.add_community("ess", "second");
    let ran = stage.tool("verify").args(["-n", "--target", "kube:ess"]).run();
    insta::assert_snapshot!(ran, @r#"
    -- stderr --
    verify: cannot identify the ESS in namespace ess: there are several: ess: ESS Community (Helm chart matrix-stack); second: ESS Community (Helm chart matrix-stack)
    hint: name one of them, for example kube:ess/ess
    -- exit status: 1 --
    "#);
    let ran = stage.tool("verify").args(["-n", "--target", "kube:ess/third"]).run();
    insta::assert_snapshot!(ran, @r#"
    -- stderr --
    verify: cannot identify the ESS in namespace ess: there is no third; found ess: ESS Community (Helm chart matrix-stack); second: ESS Community (Helm chart matrix-stack)
    hint: name that one, or another namespace
    -- exit status: 1 --
    "#);

    stage.kube.edit("statefulsets", "ess", "ess-synapse-main", |set| {
        set["metadata"]["labels"] = json!({"app": "synapse"});
    });
    stage.kube.remove("statefulsets", "ess", "second-synapse-main");
    let ran = stage.tool("verify").args(["-n", "--target", "kube:ess"]).run();
    assert_eq!(ran.status.code(), Some(1), "{ran}");
    assert!(
        ran.stderr.contains("StatefulSet ess-synapse-main (no component)"),
        "{ran}"
    );
}

#[test]
fn a_database_that_cannot_be_identified_is_reported() {
    let stage = Stage::community();
    let verify = || stage.tool("verify").args(["-n", "--target", "kube:ess"]).run();
    let args = |args: &str| {
        stage.kube.edit("configmaps", "ess", "ess-synapse", |map| {
            map["data"]["04-homeserver-overrides.yaml"] = format!("database: {{args: {{{args}}}}}\n").into();
        });
    };

    stage.kube.edit("statefulsets", "ess", "ess-postgres", |set| {
        set["spec"]["replicas"] = 2.into();
    });
    stage.kube.settle();
    insta::assert_snapshot!(verify(), @r#"
    -- stderr --
    verify: cannot find the pod behind Service ess/ess-postgres: there are several, and only one accepts writes: ess-postgres-0 (Running), ess-postgres-1 (Running)
    hint: give --target postgresql://... with the address of the primary
    -- exit status: 1 --
    "#);
    args(
        "host: ess-postgres, dbname: synapse, user: synapse_user, sslmode: verify-full, sslrootcert: /secrets/ca/ca.pem",
    );
    stage.kube.edit("statefulsets", "ess", "ess-postgres", |set| {
        set["spec"]["replicas"] = 1.into();
    });
    until("one is left", || {
        !stage.kube.names("pods", "ess").contains(&"ess-postgres-1".to_owned())
    });
    insta::assert_snapshot!(verify(), @r#"
    -- stderr --
    verify: cannot reach the database: Synapse verifies it by the certificates in /secrets/ca/ca.pem, a file of its pod that is missing here
    hint: copy it to that path, or use --target postgresql://... with sslrootcert and --target-password-file
    -- exit status: 1 --
    "#);
    assert!(
        stage.preflight().stderr.contains("(cluster-layout)"),
        "a finding like any other"
    );
    args("user: synapse_user");
    insta::assert_snapshot!(verify(), @r#"
    -- stderr --
    verify: cannot find the database of kube:ess/ess: its configuration names no host or no database
    -- exit status: 1 --
    "#);
    args("host: ess-postgres, dbname: synapse, user: synapse_user");
    stage.kube.edit("services", "ess", "ess-postgres", |service| {
        service["spec"] = json!({"type": "ClusterIP"});
    });
    insta::assert_snapshot!(verify(), @r#"
    -- stderr --
    verify: cannot find the pod behind Service ess/ess-postgres: it selects no pods
    hint: give --target postgresql://... with an address that can be reached from here
    -- exit status: 1 --
    "#);
    stage.kube.remove("secrets", "ess", "ess-generated");
    args("host: 127.0.0.1, dbname: synapse, user: synapse_user");
    let ran = verify();
    let why = "cannot read POSTGRES_SYNAPSE_PASSWORD of Secret ess/ess-generated: there is no such Secret";
    assert!(ran.stderr.contains(why), "{ran}");
}

#[test]
fn a_service_that_is_another_name_for_a_server_outside_leads_there() {
    let stage = Stage::community();
    stage.kube.edit("services", "ess", "ess-postgres", |service| {
        service["spec"] = json!({"type": "ExternalName", "externalName": "localhost."});
    });
    stage.kube.edit("configmaps", "ess", "ess-synapse", |map| {
        let text = &mut map["data"]["04-homeserver-overrides.yaml"];
        *text = text
            .as_str()
            .unwrap()
            .replace("5432", &stage.target.port.to_string())
            .into();
    });

    let ran = stage.preflight();

    fires(&ran, &["info target-server"]);
    assert_eq!(ran.json()["target"]["connection"]["host"], "localhost");
}

#[test]
fn an_external_database_is_reached_as_synapse_reaches_it() {
    let stage = Stage::community();
    stage.kube.edit("configmaps", "ess", "ess-synapse", |map| {
        map["data"]["04-homeserver-overrides.yaml"] = format!(
            "database:\n  args:\n    user: synapse_user\n    dbname: synapse\n    host: 127.0.0.1\n    port: {}\n    sslmode: prefer\n",
            stage.target.port
        )
        .into();
    });

    stage.kube.deny("create", "", "pods/portforward");
    let ran = stage.preflight();

    fires(&ran, &["info target-server"]);
    fires(&ran, &["warning cluster-rights"]);
    assert_eq!(ran.json()["target"]["connection"]["host"], "127.0.0.1");
    assert!(
        !stage
            .kube
            .requests()
            .iter()
            .any(|request| request.contains("portforward"))
    );
}

#[test]
fn an_external_database_is_verified_by_the_authorities_of_this_host() {
    let stage = Stage::community();
    stage.kube.edit("configmaps", "ess", "ess-synapse", |map| {
        // As the chart writes it for `sslMode: verify-full`.
        map["data"]["04-homeserver-overrides.yaml"] = format!(
            "database:\n  args:\n    user: synapse_user\n    dbname: synapse\n    host: 127.0.0.1\n    port: {}\n    sslmode: verify-full\n    sslrootcert: system\n",
            stage.target.port
        )
        .into();
    });

    let ran = stage.preflight();

    fires(&ran, &["blocker target-unreachable"]);
    assert!(!ran.stderr.contains("a file of its pod"), "{ran}");
    // The server of the tests has no certificate.
    assert!(ran.stderr.contains("TLS") || ran.stderr.contains("SSL"), "{ran}");
}
