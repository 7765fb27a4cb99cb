//! A target in a cluster: it is found there and reached through the API server, and no credential or local address of
//! the connection enters the document.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use serde_json::{Value, json};

use crate::support::findings::fires;
use crate::support::in_cluster::Stage;
use crate::support::media::{assert_serves, files};
use crate::support::{ESS_PASSWORD, Effect, Kube, OFFLINE, Proxy, SERVER_NAME, World, readme, until};

/// Whether a process has ended. Its entry in /proc stays until its new parent, process 1, has waited for it.
fn has_ended(process: &std::path::Path) -> bool {
    let stat = std::fs::read_to_string(process.join("stat"));
    stat.map_or(true, |stat| {
        stat.rsplit(") ").next().is_some_and(|state| state.starts_with('Z'))
    })
}

#[test]
fn a_homeserver_moves_into_a_namespace() {
    let stage = Stage::community();
    let media = files(&stage.old.media_store());

    let ran = stage.line().success();

    let (source, target) = stage.rows();
    assert_eq!(source, target, "{ran}");
    let text = stage.world.read("migration.json");
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        document["target"]["kube"],
        json!({"context": "stand-in", "namespace": "ess", "release": "ess", "profile": "community"})
    );
    assert_eq!(
        document["target"]["connection"],
        json!({"host": "ess-postgres.ess.svc.cluster.local", "port": "5432", "user": "synapse_user",
            "dbname": "synapse", "sslmode": "prefer"})
    );
    assert_eq!(
        document["target"]["password"],
        json!({"from": "secret", "namespace": "ess", "name": "ess-generated", "key": "POSTGRES_SYNAPSE_PASSWORD"})
    );
    assert!(!text.contains(ESS_PASSWORD) && !text.contains("ess-kube-"), "{text}");
    assert_eq!(document["media"]["copy"], "kube:ess/ess:/media/media_store");
    assert_eq!(document["media"]["complete"], true);
    assert!(document["media"]["rows_compared"].as_u64() > Some(0));
    assert_eq!(document["scale"]["state"], "up");
    for (name, replicas) in [("ess-synapse-main", 1), ("ess-synapse-fed-sender", 2)] {
        assert_eq!(
            stage.kube.object("statefulsets", "ess", name)["spec"]["replicas"],
            replicas
        );
    }
    let verified = stage.script("verify < migration.json").run().success();
    assert_eq!(verified.json()["verify"]["equal"], true);

    // The old files are deleted: what Synapse serves is from the volume.
    fs::remove_dir_all(stage.old.media_store()).unwrap();
    let volume = stage.kube.volume("ess-synapse-media").join("media_store");
    assert!(files(&volume) == media, "the volume has other files");
    let synapse = stage.new_synapse();
    symlink(volume, synapse.media_store()).unwrap();
    synapse.start();
    stage.seeded.check(&synapse);
    stage.seeded.check_media_files(&synapse);
    assert_serves(&synapse, &stage.seeded, &media);
    stage.seeded.goes_on(&synapse);
    synapse.stop();
}

#[test]
fn the_undo_command_finds_the_cluster_again() {
    let stage = Stage::community();
    let before = stage.rows().1;
    stage.line().success();
    stage.script("ess-scale down < migration.json").run().success();
    assert_ne!(stage.rows().1, before);

    let line = "jq -r .wipe.next.go_back migration.json";
    let line = stage.world.shell(line).success().stdout;
    let ran = stage.script(&line).run().success();

    // The export alone is enough to undo the wipe.
    assert!(line.starts_with("ess-wipe -n --undo --export "), "{line}");
    let kube = &ran.json()["target"]["kube"];
    assert_eq!(
        (&kube["namespace"], &kube["context"]),
        (&json!("ess"), &json!("stand-in")),
        "{line}"
    );
    assert_eq!(stage.rows().1, before, "{line}");
}

#[test]
fn a_plugin_of_the_kubeconfig_logs_in_and_one_that_fails_is_named() {
    let stage = Stage::community();
    let verifying = || {
        let args = ["-n", "--target", "kube:ess", "--kube-context", "plugin"];
        stage.tool("verify").args(args)
    };
    let verify = || verifying().run();
    assert!(
        verify().stderr.contains("there is nothing to compare with"),
        "it is logged in"
    );

    let credential = stage.world.read("kube/plugin");
    let credential = credential
        .lines()
        .nth(1)
        .unwrap()
        .trim_start_matches("echo ")
        .trim_matches('\'')
        .to_owned();
    let plugin = |script: &str| stage.world.write("kube/plugin", format!("#!/bin/sh\n{script}\n"));
    plugin("echo c4n4ry; echo no ticket >&2; exit 3");
    insta::assert_snapshot!(verify(), @r#"
    -- stderr --
    verify: cannot find the cluster: the plugin failed (exit status: 3): no ticket
    hint: the kubeconfig uses the credential plugin sh: check that `kubectl get pods` works
    -- exit status: 69 --
    "#);
    plugin("exit 3");
    let silent = verify();
    assert!(
        silent.stderr.contains("the plugin failed (exit status: 3)\n"),
        "{silent}"
    );
    // A plugin that reads standard input does not consume the document.
    let config = stage.world.read("kube/config");
    stage.world.write(
        "kube/config",
        config.replace(r#""interactiveMode":"Never""#, r#""interactiveMode":"IfAvailable""#),
    );
    plugin(&format!("cat > /dev/null; echo '{credential}'"));
    let asks = stage.script("echo mine | { verify -n --target kube:ess --kube-context plugin; cat; }");
    assert_eq!(asks.run().stdout, "mine\n");
    plugin("echo '{token: c4n4ry'");
    insta::assert_snapshot!(verify(), @r#"
    -- stderr --
    verify: cannot find the cluster: the plugin's output is not an ExecCredential
    hint: the kubeconfig uses the credential plugin sh: check that `kubectl get pods` works
    -- exit status: 69 --
    "#);

    // Written elsewhere and renamed: a kill could come before the process has written its id.
    plugin("echo $$ > asked.new; mv asked.new asked; exec sleep 1000");
    let running = verifying().start();
    until("it is asked", || stage.world.path("asked").exists());
    running.signal(rustix::process::Signal::TERM);
    let ended = running.wait();
    assert!(ended.stderr.contains("interrupted by SIGTERM"), "{ended}");
    let pid = stage.world.read("asked");
    let process = std::path::Path::new("/proc").join(pid.trim());
    until("the plugin has ended", || has_ended(&process));

    // The same when the plugin runs again because its token expires.
    std::fs::remove_file(stage.world.path("asked")).unwrap();
    let mut credential: Value = serde_json::from_str(&credential).unwrap();
    credential["status"]["expirationTimestamp"] = "2020-01-01T00:00:00Z".into();
    plugin(&format!(
        "test -e once || {{ touch once; echo '{credential}'; exit; }}
         echo $$ > asked.new; mv asked.new asked; exec sleep 1000"
    ));
    let running = verifying().start();
    until("it is asked again", || stage.world.path("asked").exists());
    running.signal(rustix::process::Signal::TERM);
    let ended = running.wait();
    assert!(ended.stderr.contains("interrupted by SIGTERM"), "{ended}");
    let process = std::path::Path::new("/proc").join(stage.world.read("asked").trim());
    until("the plugin has ended", || has_ended(&process));
}

#[test]
fn in_a_pod_its_account_is_used_and_the_database_is_reached_straight() {
    let stage = Stage::community();
    let config: Value = serde_json::from_str(&stage.world.read("kube/config")).unwrap();
    let server = config["clusters"][0]["cluster"]["server"].as_str().unwrap();
    let (_, port) = server.rsplit_once(':').unwrap();
    stage
        .world
        .write("token", config["users"][0]["user"]["token"].as_str().unwrap());
    let port_there = stage.target.port;
    stage.kube.edit("configmaps", "ess", "ess-synapse", |map| {
        let text = &mut map["data"]["04-homeserver-overrides.yaml"];
        *text = text.as_str().unwrap().replace("5432", &port_there.to_string()).into();
    });
    stage.kube.edit("services", "ess", "ess-postgres", |service| {
        service["spec"]["ports"][0]["port"] = port_there.into();
    });
    stage.kube.deny("create", "", "pods/portforward");
    stage
        .world
        .write("hosts", "127.0.0.1 ess-postgres.ess.svc.cluster.local\n");
    // The files of a pod have fixed paths: a mount namespace provides them.
    let in_a_pod = |command: &str| {
        let script = format!(
            "unshare --user --map-root-user --mount sh -c 'mount --bind hosts /etc/hosts && mount -t tmpfs pod /run && \
             pod=/run/secrets/kubernetes.io/serviceaccount && mkdir -p $pod && cp token $pod && \
             cp kube/cert.pem $pod/ca.crt && printf ess > $pod/namespace && exec {command}'"
        );
        let call = stage.world.script(&script).env("KUBERNETES_SERVICE_HOST", "127.0.0.1");
        call.env("KUBERNETES_SERVICE_PORT", port)
    };

    let preflight = format!("preflight -n {OFFLINE} --target kube:ess");
    let ran = in_a_pod(&preflight).run().success();

    fires(&ran, &["info target-server"]);
    let through = |request: &String| request.contains("portforward");
    assert!(!stage.kube.requests().iter().any(through), "{ran}");
    assert!(!ran.stderr.contains("cluster-rights"), "{ran}");
    assert_eq!(
        ran.json()["target"]["kube"],
        json!({"namespace": "ess", "release": "ess", "profile": "community"})
    );

    let outside = stage.script("ess-scale status -n --target kube:ess").run().success();
    assert_eq!(outside.json()["target"]["kube"]["context"], "stand-in");
    stage.world.write("outside.json", &outside.stdout);
    let inside = in_a_pod("ess-scale status < outside.json").run().success();
    assert_eq!(
        inside.json()["target"]["kube"]["context"],
        "stand-in",
        "it is kept for outside"
    );

    let wrong = in_a_pod(&preflight).env("KUBECONFIG", "typo").run();
    assert!(
        wrong.stderr.contains("cannot find the cluster: cannot read typo") && !wrong.stderr.contains("target-server"),
        "another cluster was meant: {wrong}"
    );
}

#[test]
fn a_proxy_leads_to_an_api_server_that_is_out_of_reach() {
    let stage = Stage::community();
    let mut config: Value = serde_json::from_str(&stage.world.read("kube/config")).unwrap();
    let cluster = &mut config["clusters"][0]["cluster"];
    let (_, port) = cluster["server"].as_str().unwrap().rsplit_once(':').unwrap();
    let proxy = Proxy::http(port.parse().unwrap());
    let address = format!("http://127.0.0.1:{}", proxy.port);
    cluster["server"] = "https://api.cluster.test:6443".into();
    cluster["tls-server-name"] = "127.0.0.1".into();
    stage.world.write("kube/config", config.to_string());
    let preflight = || stage.script(&format!("preflight -n {OFFLINE} --target kube:ess"));
    let told = "cannot list the API groups of the cluster";

    let without = preflight().run();
    assert!(without.stderr.contains(told), "{without}");
    let by_environment = preflight().env("HTTPS_PROXY", &address);
    fires(&by_environment.run(), &["info target-server"]);
    let exempt = preflight()
        .env("HTTPS_PROXY", &address)
        .env("NO_PROXY", ".cluster.test");
    assert!(exempt.run().stderr.contains(told));

    config["clusters"][0]["cluster"]["proxy-url"] = address.into();
    stage.world.write("kube/config", config.to_string());
    let ran = preflight().env("NO_PROXY", ".cluster.test").run();
    fires(&ran, &["info target-server"]);
    stage.line().success();
    let (source, target) = stage.rows();
    assert_eq!(source, target);
}

#[test]
fn a_damaged_kubeconfig_is_reported_without_its_contents() {
    let world = World::new();
    let verify = |config: &str| {
        world.write("config", config);
        let call = world.tool("verify").args(["-n", "--target", "kube:ess"]);
        call.env("KUBECONFIG", "config").run()
    };

    insta::assert_snapshot!(verify("users: [{name: u, user: {token: c4n4ry]}}\n"), @r#"
    -- stderr --
    verify: cannot find the cluster: the kubeconfig is invalid at line 1 column 25
    hint: set KUBECONFIG, or log in as for kubectl: `kubectl get pods` must work
    -- exit status: 69 --
    "#);
    insta::assert_snapshot!(verify("users: {token: c4n4ry}\n"), @r#"
    -- stderr --
    verify: cannot find the cluster: the kubeconfig is invalid at line 1 column 8
    hint: set KUBECONFIG, or log in as for kubectl: `kubectl get pods` must work
    -- exit status: 69 --
    "#);
    let config = |token: &str| {
        let config = json!({"clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}], "current-context": "x"});
        config.to_string()
    };
    insta::assert_snapshot!(verify(&config("t")), @r#"
    -- stderr --
    verify: cannot list the API groups of the cluster: client error (Connect): tcp connect error: Connection refused (os error 111)
    hint: check that `kubectl get pods` works on this host
    -- exit status: 69 --
    "#);
    insta::assert_snapshot!(verify(&config("c4n4ry\n")), @r#"
    -- stderr --
    verify: cannot find the cluster: the token of the kubeconfig's user contains a line break or another control character
    hint: write the token without a line break, also at its end
    -- exit status: 69 --
    "#);
}

#[test]
fn the_forward_is_closed_to_other_users_and_leftovers_of_a_killed_run_are_removed() {
    let stage = Stage::community();
    stage.world.shell("mkdir -m 755 run").success();
    // A source that accepts the connection and never answers keeps verify waiting once the tunnel is open.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let source = format!(
        "postgresql://u@127.0.0.1:{}/d?sslmode=disable&connect_timeout=300",
        silent.local_addr().unwrap().port()
    );
    let verify = |from: &str| {
        let call = stage.tool("verify").args(["-n", "--target", "kube:ess", from]);
        let call = call.args([if from == "--source" { source.as_str() } else { "nowhere" }]);
        call.env("XDG_RUNTIME_DIR", stage.world.path("run"))
    };
    let ways = || -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(stage.world.path("run")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let running = verify("--source").start();
    until("the way is open", || ways().len() == 1);

    let mode = ways()[0].metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    running.kill();

    assert_eq!(ways().len(), 1, "SIGKILL leaves it");
    verify("--from").run();
    assert_eq!(ways().len(), 0);
}

#[test]
fn an_unresponsive_api_server_does_not_block_a_program() {
    let stage = Stage::community();
    let silent = Effect::Late(std::time::Duration::from_secs(600));
    stage.kube.fault("GET", "", 100, silent);
    let running = stage.tool("verify").args(["-n", "--target", "kube:ess"]).start();
    until("it is asked", || !stage.kube.requests().is_empty());
    running.signal(rustix::process::Signal::TERM);
    let ended = running.wait();
    assert!(ended.stderr.contains("interrupted by SIGTERM"), "{ended}");
}

#[test]
fn secrets_are_made_for_the_place_that_the_target_is() {
    let stage = Stage::new(|world, cluster| Kube::community_at(world, cluster, "matrix", "my-ess"));
    let config = stage.old.config_args().join(" ");
    let line = format!(
        "preflight {config} {OFFLINE} --target kube:matrix | extract-secrets --out export --emit kubernetes --emit helm"
    );
    let ran = stage.script(&line).run().success();
    assert!(ran.stderr.contains("helm upgrade --install -n matrix my-ess "), "{ran}");
    assert!(
        stage
            .world
            .read("export/ess/secrets.yaml")
            .contains("namespace: matrix"),
        "{ran}"
    );
}

#[test]
fn a_homeserver_moves_into_the_older_ess() {
    let stage = Stage::new(Kube::onprem);

    // The operator removes Synapse, and its image is unknown.
    let line = readme::line("--target kube:ess", &stage.old.config_args())
        .replace("kube:ess", "kube:element-onprem")
        .replace("media-sync", "media-sync --helper-image registry.example.org/python:3");
    let ran = stage.script(&line).run().success();

    let (source, target) = stage.rows();
    assert_eq!(source, target, "{ran}");
    let document: Value = serde_json::from_str(&stage.world.read("migration.json")).unwrap();
    assert_eq!(document["target"]["kube"]["profile"], "operator");
    assert_eq!(document["target"]["kube"]["release"], "first-element-deployment");
    assert_eq!(
        document["target"]["password"]["name"], "synapse",
        "the Secret that the operator made went with Synapse"
    );
    let set = stage.kube.object(
        "statefulsets",
        "element-onprem",
        "first-element-deployment-synapse-fed-sender",
    );
    assert_eq!(set["spec"]["replicas"], 3, "the operator is back and has made it again");
}

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
fn every_right_that_is_missing_is_named_at_once_with_the_role() {
    let stage = Stage::community();
    stage.kube.deny("list", "apps", "statefulsets");
    stage.kube.deny("get", "", "secrets");
    stage.kube.deny("create", "", "pods/portforward");
    let ran = stage
        .tool("verify")
        .args(["-n", "--target", "kube:ess", "--from", "/nowhere"])
        .run();
    insta::assert_snapshot!(ran, @r#"
    -- stderr --
    verify: cannot work in namespace ess: mover lacks permissions in namespace ess: list statefulsets.apps, get secrets, create pods/portforward
    hint: an administrator can grant them with `kubectl apply -f -`:
    ---
    apiVersion: rbac.authorization.k8s.io/v1
    kind: Role
    metadata:
      name: ess-migrate-c9c2067c
      namespace: ess
    rules:
    - apiGroups:
      - ''
      resources:
      - pods/portforward
      verbs:
      - create
    - apiGroups:
      - ''
      resources:
      - secrets
      verbs:
      - get
    - apiGroups:
      - apps
      resources:
      - statefulsets
      verbs:
      - list
    ---
    apiVersion: rbac.authorization.k8s.io/v1
    kind: RoleBinding
    metadata:
      name: ess-migrate-c9c2067c
      namespace: ess
    roleRef:
      apiGroup: rbac.authorization.k8s.io
      kind: Role
      name: ess-migrate-c9c2067c
    subjects:
    - apiGroup: rbac.authorization.k8s.io
      kind: User
      name: mover
    -- exit status: 77 --
    "#);
}

#[test]
fn with_the_password_in_a_file_secrets_are_not_read() {
    let stage = Stage::community();
    stage.kube.deny("get", "", "secrets");
    stage.world.write("target.pw", ESS_PASSWORD);

    let without = stage.preflight();
    fires(&without, &["blocker cluster-rights"]);
    assert!(without.stderr.contains("get secrets"), "{without}");

    let flags = "--target kube:ess --target-password-file target.pw";
    let ran = stage.script(&format!("preflight -n {OFFLINE} {flags}")).run();
    fires(&ran, &["info target-server"]);
    assert!(!ran.stderr.contains("secrets"), "{ran}");
}

#[test]
fn permissions_where_the_database_is_are_checked_too() {
    let stage = Stage::community();
    stage.kube.edit("configmaps", "ess", "ess-synapse", |map| {
        let text = &mut map["data"]["04-homeserver-overrides.yaml"];
        let there = text
            .as_str()
            .unwrap()
            .replace("ess-postgres.ess.svc", "pg-rw.databases.svc");
        *text = there.into();
    });
    for (verb, resource) in [("get", "services"), ("create", "pods/portforward")] {
        stage.kube.deny_in("databases", verb, "", resource);
    }
    let all = "mover lacks permissions in namespace databases: get services, create pods/portforward";

    let verify = stage.tool("verify").args(["-n", "--target", "kube:ess"]).run();
    assert_eq!(verify.status.code(), Some(77), "{verify}");
    assert!(
        verify.stderr.contains(all) && verify.stderr.contains("  namespace: databases"),
        "{verify}"
    );
    stage.kube.deny("patch", "apps", "deployments");
    let preflight = stage.preflight();
    fires(&preflight, &["blocker cluster-rights"]);
    fires(&preflight, &["warning cluster-rights"]);
    assert!(
        preflight.stderr.contains(all) && preflight.stderr.contains("  namespace: databases"),
        "{preflight}"
    );
}

#[test]
fn the_older_ess_elsewhere_in_the_cluster_needs_no_permissions_here() {
    let stage = Stage::community();
    let verify = |place: &str| stage.tool("verify").args(["-n", "--target", place]).run();
    stage.kube.put(
        json!({"apiVersion": "matrix.element.io/v1alpha2", "kind": "ElementDeployment",
        "metadata": {"name": "other", "namespace": "elsewhere"}, "spec": {}}),
    );
    stage.kube.deny("list", "matrix.element.io", "synapses");
    stage.kube.deny("list", "matrix.element.io", "elementdeployments");

    let here = verify("kube:ess");
    assert!(here.stderr.contains("there is nothing to compare with"), "{here}");

    stage.kube.deny("get", "", "services");
    let elsewhere = verify("kube:elsewhere");
    assert_eq!(elsewhere.status.code(), Some(77), "{elsewhere}");
    let all = "list elementdeployments.matrix.element.io, list synapses.matrix.element.io, get services";
    assert!(elsewhere.stderr.contains(all), "{elsewhere}");
}

#[test]
fn a_stream_that_is_cut_is_an_error_and_the_same_command_resumes() {
    let stage = Stage::community();
    // After the handshake and the first queries, while rows are read for the backup or the proof.
    stage.kube.fault("GET", "/portforward", 100, Effect::CutAfter(60_000));
    let before = stage.rows().1;

    let ran = stage.line();

    assert!(!ran.status.success(), "{ran}");
    assert!(ran.stderr.contains("was cut"), "{ran}");
    assert_eq!(
        stage.rows().1,
        before,
        "nothing was erased without a whole backup: {ran}"
    );
    stage.kube.forget_faults();
    stage.line().success();
    let (source, target) = stage.rows();
    assert_eq!(source, target);
}

#[test]
fn a_stream_that_is_cut_anywhere_is_never_taken_for_the_end_of_the_data() {
    let stage = Stage::community();
    stage.line().success();
    let verify = || stage.script("verify < migration.json").run();
    let mut cuts = 0;

    for after in [0, 1, 100, 1_000, 3_000, 10_000, 30_000, 100_000] {
        stage.kube.fault("GET", "/portforward", 1, Effect::CutAfter(after));
        let ran = verify();
        // If the stream carried fewer bytes than the limit, it was not cut.
        if stage.kube.was_cut() {
            cuts += 1;
            assert_eq!(ran.status.code(), Some(69), "after {after}: {ran}");
            assert_eq!(ran.stdout, "", "after {after}: {ran}");
            assert!(
                ran.stderr
                    .contains("the connection to port 5432 of pod ess/ess-postgres-0 was cut"),
                "{ran}"
            );
        } else {
            assert_eq!(ran.success().json()["verify"]["equal"], true);
        }
        stage.kube.forget_faults();
    }

    assert!(cuts > 4, "{cuts}");
    assert_eq!(verify().success().json()["verify"]["equal"], true);
}

#[test]
fn a_load_that_is_cut_leaves_the_fence_and_resumes() {
    let stage = Stage::community();
    let config = stage.old.config_args().join(" ");
    let before = format!(
        "preflight {config} {OFFLINE} --target kube:ess | extract-secrets --out export | pgdump-wrap | \
         ess-wipe --execute --confirm {SERVER_NAME}/synapse > wiped.json"
    );
    stage.script(&before).run().success();
    let restore = || stage.script("restore < wiped.json").run();

    stage.kube.fault("GET", "/portforward", 100, Effect::CutAfter(25_000));
    let cut = restore();
    assert_eq!(cut.status.code(), Some(69), "{cut}");
    let fence = "SELECT compat_version FROM schema_compat_version";
    assert_eq!(stage.target.psql("synapse", fence), "2147483647", "{cut}");
    stage.kube.forget_faults();

    // The pod is missing for a while.
    stage.kube.settings().slowness = std::time::Duration::from_secs(600);
    stage.kube.edit("pods", "ess", "ess-postgres-0", |pod| {
        pod["status"] = json!({"phase": "Pending"});
    });
    let away = restore();
    assert_eq!(away.status.code(), Some(69), "{away}");
    assert!(
        away.stderr.contains("none is ready: ess-postgres-0 (Pending)"),
        "{away}"
    );
    stage.kube.settings().slowness = std::time::Duration::from_millis(50);
    stage.kube.settle();

    restore().success();
    let (source, target) = stage.rows();
    assert_eq!(source, target);
}

#[test]
fn a_slow_or_failing_api_server_is_distinguished_from_a_wrong_target() {
    let stage = Stage::community();
    let verify = || {
        stage
            .tool("verify")
            .args(["-n", "--target", "kube:ess", "--from", "/nowhere"])
            .run()
    };
    stage.kube.fault("GET", "/statefulsets", 9, Effect::Status(500));
    let ran = verify();
    assert_eq!(ran.status.code(), Some(69), "{ran}");
    assert!(
        ran.stderr.contains("cannot list statefulsets in namespace ess"),
        "{ran}"
    );
    stage.kube.forget_faults();
    stage.kube.fault("GET", "/statefulsets", 1, Effect::Status(410));
    let ran = verify();
    assert_eq!(ran.status.code(), Some(69), "{ran}");
    assert!(ran.stderr.contains("the API server answered 410"), "{ran}");
    // A response of 429 and a late one: both are tolerated.
    stage.kube.fault("GET", "/statefulsets", 2, Effect::Status(429));
    stage.kube.fault(
        "GET",
        "/deployments",
        1,
        Effect::Late(std::time::Duration::from_secs(1)),
    );
    let ran = verify();
    assert!(!ran.stderr.contains("cannot list"), "{ran}");

    let ran = stage
        .tool("verify")
        .args(["-n", "--target", "kube:ess", "--kube-context", "nobody"])
        .run();
    assert_ne!(ran.status.code(), Some(0), "{ran}");
    let ran = stage
        .world
        .tool("verify")
        .args(["-n", "--target", "kube:ess"])
        .env("KUBECONFIG", "nowhere")
        .run();
    insta::assert_snapshot!(ran, @r#"
    -- stderr --
    verify: cannot find the cluster: cannot read nowhere: No such file or directory (os error 2)
    hint: set KUBECONFIG, or log in as for kubectl: `kubectl get pods` must work
    -- exit status: 69 --
    "#);
}

#[test]
fn a_document_of_one_cluster_is_not_used_for_another() {
    let stage = Stage::community();
    let ran = stage.preflight();
    stage.world.write("document.json", &ran.stdout);
    let with = |flags: &str| stage.script(&format!("verify {flags} < document.json")).run();

    for flags in [
        "--target kube:other",
        "--target kube:ess/other",
        "--target postgresql://h/d",
        "--kube-context nobody",
    ] {
        let ran = with(flags);
        assert_eq!(ran.status.code(), Some(64), "{flags}: {ran}");
    }
    let ran = with("--target kube:ess");
    assert!(
        ran.stderr.contains("there is nothing to compare with"),
        "the flag agrees: {ran}"
    );
    let ran = stage
        .world
        .tool("verify")
        .args(["-n", "--target", "postgresql://h/d", "--kube-context", "x"])
        .run();
    assert_eq!(ran.status.code(), Some(64), "{ran}");
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
