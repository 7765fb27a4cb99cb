//! preflight on a target in a cluster: every problem there is a finding, all in one run.

use serde_json::json;

use crate::support::findings::{finding, fires, found, serious};
use crate::support::in_cluster::Stage;
use crate::support::{Effect, Kube, OFFLINE, Ran, code};

/// Runs preflight on the target only.
fn target(stage: &Stage, flags: &str) -> Ran {
    stage.script(&format!("preflight -n {OFFLINE} {flags}")).run()
}

/// Runs preflight on the homeserver and the target.
fn both(stage: &Stage) -> Ran {
    let config = stage.old.config_args().join(" ");
    stage
        .script(&format!("preflight {config} {OFFLINE} --target kube:ess"))
        .run()
}

#[test]
fn a_cluster_that_is_well_needs_no_action() {
    let stage = Stage::community();

    let ran = both(&stage);

    assert_eq!(serious(&ran), [""; 0], "{ran}");
    fires(
        &ran,
        &[
            "info cluster",
            "info cluster-media",
            "info cluster-mas",
            "info target-server",
        ],
    );
    let cluster = finding(&ran, "cluster");
    assert!(
        cluster["message"].as_str().unwrap().contains("Synapse v1.159.0"),
        "{cluster}"
    );
    let media = finding(&ran, "cluster-media");
    assert_eq!(
        media["message"],
        "media go to volume ess-synapse-media (10Gi); pod ess-synapse-main-0 mounts it"
    );
}

#[test]
fn the_pod_that_really_mounts_the_media_is_found() {
    let stage = Stage::community();
    stage.kube.edit("statefulsets", "ess", "ess-synapse-main", |set| {
        set["spec"]["template"]["spec"]["volumes"][0] = json!({"name": "media", "emptyDir": {"medium": "Memory"}});
    });
    stage.kube.edit("statefulsets", "ess", "ess-synapse-fed-sender", |set| {
        set["spec"]["template"]["spec"]["volumes"][0] =
            json!({"name": "media", "persistentVolumeClaim": {"claimName": "ess-synapse-media"}});
        set["spec"]["replicas"] = 0.into();
    });
    let ran = target(&stage, "--target kube:ess");
    assert_eq!(
        finding(&ran, "cluster-media")["message"],
        "media go to volume ess-synapse-media (10Gi); ess-synapse-fed-sender mounts it when running"
    );
}

#[test]
fn everything_that_is_wrong_in_the_cluster_is_found_at_once() {
    let stage = Stage::community();
    for claim in ["ess-postgres-data", "ess-synapse-media"] {
        stage.kube.edit("persistentvolumeclaims", "ess", claim, |claim| {
            claim["status"]["capacity"]["storage"] = "1Ki".into();
        });
    }
    stage.kube.add_mas("ess", "ess", 1);
    stage.kube.edit("configmaps", "ess", "ess-markers", |map| {
        map["data"]["MATRIX_STACK_MSC3861"] = "delegated_auth".into();
    });
    stage.kube.edit("statefulsets", "ess", "ess-synapse-main", |set| {
        set["metadata"]["annotations"]["argocd.argoproj.io/tracking-id"] =
            "matrix:apps/StatefulSet:ess/ess-synapse-main".into();
        set["spec"]["template"]["spec"]["containers"][0]["image"] = "oci.element.io/synapse:v1.158.0".into();
    });
    stage.kube.deny("patch", "apps", "deployments");
    stage.kube.deny("create", "", "pods");

    let ran = both(&stage);

    assert_eq!(
        serious(&ran),
        [
            "blocker cluster-database-space",
            "blocker cluster-mas",
            "blocker cluster-media-space",
            "warning cluster-gitops",
            "warning cluster-rights",
            "warning cluster-versions",
        ],
        "{ran}"
    );
    assert!(ran.stderr.contains("argocd app set matrix --sync-policy none"), "{ran}");
    assert_eq!(
        finding(&ran, "cluster-rights")["data"]["rights"],
        json!(["patch deployments.apps", "create pods"])
    );

    stage
        .kube
        .edit("persistentvolumeclaims", "ess", "ess-postgres-data", |claim| {
            claim["status"]["capacity"]["storage"] = "16Mi".into();
        });
    fires(&both(&stage), &["warning cluster-database-space"]);
}

#[test]
fn rights_that_the_way_needs_block_and_all_of_them_are_named() {
    let stage = Stage::community();
    stage.kube.deny("create", "", "pods/portforward");
    let ran = target(&stage, "--target kube:ess");
    assert_eq!(found(&ran, &["blocker"]), ["blocker cluster-rights"], "{ran}");
    assert_eq!(code(&ran), 1);
    fires(&ran, &["info cluster"]);

    stage.kube.deny("get", "", "secrets");
    stage.kube.deny("patch", "apps", "statefulsets");
    let ran = target(&stage, "--target kube:ess");
    assert_eq!(found(&ran, &["blocker"]), ["blocker cluster-rights"], "{ran}");
    assert!(
        ran.stderr
            .contains("get secrets, create pods/portforward, patch statefulsets.apps"),
        "{ran}"
    );
}

#[test]
fn permissions_on_a_database_of_another_namespace_are_checked_by_its_short_name_too() {
    let stage = Stage::community();
    stage.kube.edit("configmaps", "ess", "ess-synapse", |map| {
        let text = &mut map["data"]["04-homeserver-overrides.yaml"];
        let there = text.as_str().unwrap();
        *text = there
            .replace("ess-postgres.ess.svc.cluster.local.", "pg-rw.databases")
            .into();
    });
    for (verb, resource) in [("get", "services"), ("create", "pods/portforward")] {
        stage.kube.deny_in("databases", verb, "", resource);
    }

    let ran = target(&stage, "--target kube:ess");

    assert_eq!(found(&ran, &["blocker"]), ["blocker cluster-rights"], "{ran}");
    let all = "in namespace databases: get services, create pods/portforward";
    assert!(ran.stderr.contains(all), "{ran}");

    // If the host is a DNS name, no Service is needed.
    stage.world.write("hosts", "127.0.0.1 pg-rw.databases\n");
    let preflight = format!("preflight -n {OFFLINE} --target kube:ess");
    let script =
        format!("unshare --user --map-root-user --mount sh -c 'mount --bind hosts /etc/hosts && exec {preflight}'");
    let ran = stage.script(&script).run();
    assert_eq!(found(&ran, &["blocker"]), ["blocker target-unreachable"], "{ran}");
}

#[test]
fn what_cannot_be_reached_or_recognised_is_a_finding() {
    let stage = Stage::community();
    let ran = target(&stage, "--target kube:elsewhere");
    assert_eq!(found(&ran, &["blocker"]), ["blocker cluster-layout"], "{ran}");

    stage.kube.fault("GET", "/statefulsets", 100, Effect::Status(500));
    let ran = target(&stage, "--target kube:ess");
    assert_eq!(found(&ran, &["blocker"]), ["blocker cluster-unreachable"], "{ran}");
    stage.kube.forget_faults();

    stage
        .kube
        .fault("GET", "/persistentvolumeclaims", 100, Effect::Status(500));
    let ran = target(&stage, "--target kube:ess");
    assert_eq!(found(&ran, &["blocker"]), ["blocker not-checked"], "{ran}");
    stage.kube.forget_faults();

    let wrong = target(&stage, "--target kube:ess --kube-context nowhere");
    assert_eq!(code(&wrong), 64, "{wrong}");
    assert!(wrong.stderr.contains("stand-in, plugin, nobody"), "{wrong}");
}

#[test]
fn the_operator_of_the_older_ess_is_reported() {
    let stage = Stage::new(Kube::onprem);
    stage.kube.deny("delete", "matrix.element.io", "synapses");
    stage.kube.deny("patch", "apps", "deployments");
    let ran = target(&stage, "--target kube:element-onprem");
    fires(&ran, &["info cluster-operator", "warning cluster-rights"]);
    assert_eq!(found(&ran, &["blocker"]), [""; 0], "{ran}");
    assert!(ran.stderr.contains("ess-scale down, not with kubectl scale"), "{ran}");
    assert!(
        ran.stderr.contains(
            "in namespace element-onprem: patch deployments.apps, delete synapses.matrix.element.io; \
             in namespace operator-onprem: patch deployments.apps"
        ),
        "{ran}"
    );
    let all = found(&ran, &["warning"]);
    let lists = all.iter().filter(|finding| finding.contains("cluster-rights"));
    assert_eq!(lists.count(), 1, "one list, one Role: {ran}");
    assert_eq!(finding(&ran, "cluster-media")["data"]["user"], 10991);
}

#[test]
fn what_ess_scale_would_refuse_or_warn_of_is_reported_before() {
    let stage = Stage::new(Kube::onprem);
    let (namespace, name) = ("element-onprem", "first-element-deployment");
    stage.kube.settings().updater = false;
    let flux = json!({"kustomize.toolkit.fluxcd.io/name": "matrix", "kustomize.toolkit.fluxcd.io/namespace": "flux"});
    stage.kube.edit("synapses", namespace, name, |synapse| {
        synapse["metadata"]["labels"] = flux.clone();
    });
    let operator = "element-operator-controller-manager";
    stage.kube.edit("deployments", "operator-onprem", operator, |operator| {
        operator["metadata"]["annotations"]["argocd.argoproj.io/tracking-id"] =
            "operator:apps/Deployment:operator-onprem/element-operator-controller-manager".into();
    });
    let look = || target(&stage, "--target kube:element-onprem");

    let ran = look();
    fires(&ran, &["info cluster-operator", "warning cluster-gitops"]);
    assert_eq!(
        finding(&ran, "cluster-gitops")["data"]["owners"],
        json!(["Argo CD's application operator", "Flux's kustomization flux/matrix"])
    );
    assert!(
        ran.stderr
            .contains("argocd app set operator --sync-policy none; flux suspend kustomization matrix -n flux"),
        "{ran}"
    );

    stage.kube.remove("elementdeployments", namespace, name);
    let ran = look();
    fires(&ran, &["warning cluster-operator"]);
    assert!(
        ran.stderr
            .contains("there is no ElementDeployment first-element-deployment in namespace element-onprem"),
        "{ran}"
    );
    let refused = stage.script("ess-scale down -n --target kube:element-onprem").run();
    assert_eq!(code(&refused), 1, "{refused}");

    stage.kube.remove("deployments", "operator-onprem", operator);
    let ran = look();
    assert!(
        ran.stderr
            .contains("there is no Deployment element-operator-controller-manager in namespace operator-onprem"),
        "{ran}"
    );
}

/// A certificate for `name`, signed by an authority or by itself, in PEM and base64.
fn certificate(stage: &Stage, name: &str, is_signed: bool) -> String {
    let sign = if is_signed { "-CA ca.crt -CAkey ca.key" } else { "" };
    let make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 90";
    let script = format!(
        "{make} -keyout ca.key -out ca.crt -subj /CN=authority && \
         {make} -keyout tls.key -out tls.crt -subj /CN=x -addext subjectAltName=DNS:{name} {sign} && base64 -w0 tls.crt"
    );
    stage.world.shell(&script).success().stdout
}

#[test]
fn the_certificates_that_clients_will_see_are_checked() {
    let stage = Stage::community();
    stage.kube.put(
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "ess-synapse", "namespace": "ess",
            "labels": {"app.kubernetes.io/part-of": "matrix-stack"},
            "annotations": {"cert-manager.io/cluster-issuer": "letsencrypt"}},
        "spec": {"rules": [{"host": "matrix.example.com"}],
            "tls": [{"hosts": ["matrix.example.com"], "secretName": "synapse-tls"}]}}),
    );
    let put = |certificate: &str| {
        let data = json!({"tls.crt": certificate, "tls.key": "Q0FOQVJZ"});
        stage.kube.put(
            json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": "synapse-tls", "namespace": "ess"}, "data": data}),
        );
    };
    let message = || {
        let ran = target(&stage, "--target kube:ess");
        assert!(
            !ran.stderr.contains("CANARY") && !ran.stdout.contains("CANARY"),
            "{ran}"
        );
        let found = finding(&ran, "cluster-certificates");
        format!(
            "{}: {}",
            found["severity"].as_str().unwrap(),
            found["message"].as_str().unwrap()
        )
    };

    fires(&target(&stage, "--target kube:ess"), &["warning cluster-certificates"]);
    assert_eq!(
        message(),
        "warning: Ingress ess-synapse: Secret synapse-tls with the certificate for matrix.example.com does not exist yet"
    );
    put("bm9uZQ==");
    assert!(
        message().ends_with("Secret synapse-tls contains no valid certificate"),
        "{}",
        message()
    );
    put(&certificate(&stage, "chat.example.com", true));
    let wrong = "the certificate in Secret synapse-tls is for chat.example.com, not for matrix.example.com";
    assert!(message().ends_with(wrong), "{}", message());
    put(&certificate(&stage, "matrix.example.com", false));
    assert!(message().contains("is self-signed"), "{}", message());
    put(&certificate(&stage, "*.example.com", true));
    assert_eq!(
        message(),
        "info: 1 certificate for the Ingresses of ESS; the first expires in 89 days"
    );
}

#[test]
fn a_label_that_argo_cd_overwrote_hides_nothing() {
    let stage = Stage::community();
    stage.kube.add_mas("ess", "ess", 1);
    stage.kube.edit("configmaps", "ess", "ess-markers", |map| {
        map["data"]["MATRIX_STACK_MSC3861"] = "delegated_auth".into();
    });
    for (resource, name) in [
        ("statefulsets", "ess-synapse-main"),
        ("deployments", "ess-matrix-authentication-service"),
    ] {
        stage.kube.edit(resource, "ess", name, |object| {
            object["metadata"]["labels"]["app.kubernetes.io/instance"] = "my matrix".into();
        });
    }

    let ran = both(&stage);

    fires(&ran, &["blocker cluster-mas", "warning cluster-gitops"]);
    let pause = "argocd app set 'my matrix' --sync-policy none";
    assert!(ran.stderr.contains(pause), "{ran}");
}
