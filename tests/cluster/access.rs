//! Access to an API server: by a kubeconfig, a plugin, an account in a pod or a proxy; one that fails is named, and the
//! forwarded port is closed to other users.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use crate::support::findings::fires;
use crate::support::in_cluster::Stage;
use crate::support::{Effect, OFFLINE, Proxy, World, until};

/// Whether a process has ended. Its entry in /proc stays until its new parent, process 1, has waited for it.
fn has_ended(process: &std::path::Path) -> bool {
    let stat = std::fs::read_to_string(process.join("stat"));
    stat.map_or(true, |stat| {
        stat.rsplit(") ").next().is_some_and(|state| state.starts_with('Z'))
    })
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
