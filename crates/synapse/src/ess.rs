//! Synapse's options that Element Server Suite sets itself.

/// The options that ESS sets in each homeserver.yaml that it renders, with the field of its chart that decides them.
///
/// They are not carried: the value would be overridden, or Synapse would not start. From the templates in
/// `charts/matrix-stack/configs/synapse` of element-hq/ess-helm.
pub const OWNED: &[(&str, &str)] = &[
    ("app_service_config_files", "synapse.appservices"),
    ("database", "synapse.postgres, or ESS's own"),
    ("databases", "synapse.postgres, or ESS's own"),
    ("enable_local_media_storage", "ESS's own"),
    ("enable_media_repo", "ESS's own"),
    ("enable_metrics", "ESS's own"),
    ("federation_sender_instances", "synapse.workers"),
    ("instance_map", "synapse.workers"),
    ("listeners", "ESS's own, and synapse.ingress"),
    ("log_config", "synapse.logging"),
    ("macaroon_secret_key", "synapse.macaroon"),
    ("macaroon_secret_key_path", "synapse.macaroon"),
    ("matrix_authentication_service", "matrixAuthenticationService"),
    ("matrix_rtc", "matrixRTC"),
    ("max_upload_size", "synapse.media.maxUploadSize"),
    ("media_instance_running_background_jobs", "synapse.workers"),
    ("media_store_path", "synapse.media.storage"),
    ("notify_appservices_from_worker", "synapse.workers"),
    ("public_baseurl", "synapse.ingress.host"),
    ("pusher_instances", "synapse.workers"),
    ("redis", "ESS's own"),
    ("registration_shared_secret", "synapse.registrationSharedSecret"),
    ("registration_shared_secret_path", "synapse.registrationSharedSecret"),
    ("run_background_tasks_on", "synapse.workers"),
    ("send_federation", "synapse.workers"),
    ("server_name", "serverName"),
    ("signing_key", "synapse.signingKey"),
    ("signing_key_path", "synapse.signingKey"),
    ("start_pushers", "synapse.workers"),
    ("stream_writers", "synapse.workers"),
    ("update_user_directory_from_worker", "synapse.workers"),
];
