//! Which parts of a configuration are copied.

use super::*;
use crate::manifest::{Consistency, Kind, Mount, Sizes, User};
use std::path::Path;

fn manifest() -> Manifest {
    let service = |image: &str, running: bool| {
        json!({"image": "app:1", "image_id": image, "running": running, "scale": 3, "config_hash": null,
               "drift": false, "containers": [], "depends_on": {}})
    };
    let manifest = json!({
        "format": 1, "program": "x", "name": "backup-20261121-084500", "sequence": 1,
        "at": host::clock::now(), "deploy_id": "20261121t084500z-7f3a", "release": null,
        "project": "shop", "project_dir": "/srv/shop",
        "engine": {"version": "28", "compose": "2", "storage": "overlay2"},
        "compose": {"files": [], "given_files": false, "env_files": [], "profiles": []},
        "services": {
            "web": service("sha256:1", true), "db": service("sha256:2", true), "migrate": service("sha256:1", false),
        },
        "left_out": [], "images": [], "mounts": [], "not_data": [], "excluded": [], "files": [], "dumps": [],
        "logs": [], "consistency": Consistency::default(), "sizes": Sizes::default(), "contents": {},
        "verify": {"checksums": null, "restore": null}, "warnings": [],
    });
    let mut manifest: Manifest = serde_json::from_value(manifest).unwrap();
    let user = |service: &str, target: &str, read_only| User {
        service: service.into(),
        target: target.into(),
        read_only,
    };
    let mut data = Mount::new(
        Kind::Bind,
        "/srv/shop/data".into(),
        None,
        vec![user("db", "/var/lib/db", false)],
    );
    data.n = 1;
    let mut file = Mount::new(
        Kind::File,
        "/srv/shop/a$b.conf".into(),
        None,
        vec![user("web", "/etc/a.conf", true)],
    );
    file.n = 2;
    manifest.mounts = vec![data, file];
    manifest
}

fn loaded() -> Vec<Loaded> {
    let one = |id: &str, now: &str| Loaded {
        id: id.into(),
        config_digest: id.into(),
        id_now: now.into(),
        references: Vec::new(),
        was_missing: false,
    };
    vec![one("sha256:1", "sha256:11"), one("sha256:2", "sha256:2")]
}

fn made(recorded: &Value) -> Proof {
    let scratch = Scratch::for_test(Path::new("/b/.proof"), &[("/srv/shop/key", "files/3")]);
    super::make(recorded, &Inputs { manifest: &manifest(), loaded: &loaded(), scratch: &scratch })
        .unwrap()
}

/// A configuration that reaches for the host by all means.
fn reaching_outside() -> Value {
    json!({
        "name": "shop",
        "services": {
            "web": {
                "image": "app:1", "build": {"context": "."}, "ports": [{"target": 80, "published": "80"}],
                "container_name": "shop-web", "network_mode": "host", "pid": "host", "privileged": true,
                "labels": {"traefik.enable": "true"}, "restart": "always", "cap_add": ["NET_ADMIN", "CAP_CHOWN"],
                "a_key_of_tomorrow": "host", "command": ["run"], "environment": {"A": "$$1"},
                "depends_on": {
                    "db": {"condition": "service_healthy", "restart": true, "required": true},
                    "migrate": {"condition": "service_completed_successfully"},
                },
                "volumes": [
                    {"type": "bind", "source": "/srv/shop/a$$b.conf", "target": "/etc/a.conf"},
                    {"type": "bind", "source": "/var/run/docker.sock", "target": "/var/run/docker.sock"},
                    {"type": "tmpfs", "target": "/tmp"},
                ],
                "secrets": [{"source": "key"}, {"source": "gone"}],
            },
            "db": {"image": "db", "networks": {"back": {"aliases": ["database"], "ipv4_address": "10.0.0.2"}}},
            "migrate": {"image": "app:1"},
        },
        "secrets": {"key": {"name": "k", "file": "/srv/shop/key"}, "gone": {"external": true}},
        "networks": {"back": {"driver": "macvlan"}},
        "volumes": {"v": {"external": true}},
    })
}

#[test]
fn nothing_reaches_outside() {
    let proof = made(&reaching_outside());
    assert_eq!(proof.services, ["db", "web"]);
    let bind = |source: &str, target: &str, read_only: bool| {
        json!({"type": "bind", "source": source, "target": target, "read_only": read_only,
               "bind": {"create_host_path": false}})
    };
    assert_eq!(
        proof.config,
        json!({
            "name": "reversible-proof-shop",
            "networks": {"default": {"internal": true}},
            "services": {
                "web": {
                    "image": "sha256:11", "pull_policy": "never", "restart": "no", "cap_add": ["CAP_CHOWN"],
                    "command": ["run"], "environment": {"A": "$$1"}, "links": [],
                    "depends_on": {"db": {"condition": "service_healthy", "required": true}},
                    "volumes": [
                        bind("/b/.proof/data/2/a$$b.conf", "/etc/a.conf", true),
                        {"type": "tmpfs", "target": "/tmp"},
                    ],
                    "secrets": [{"source": "key"}],
                    "networks": {"default": {"aliases": ["shop-web"]}},
                },
                "db": {
                    "image": "sha256:2", "pull_policy": "never", "restart": "no", "cap_add": [], "links": [],
                    "depends_on": {}, "volumes": [bind("/b/.proof/data/1", "/var/lib/db", false)],
                    "networks": {"default": {"aliases": ["database"]}},
                },
            },
            "secrets": {"key": {"file": "/b/.proof/files/3"}},
            "configs": {},
        })
    );
    assert_eq!(
        proof.left_out,
        [
            "secrets: gone",
            "web: a_key_of_tomorrow",
            "web: capability NET_ADMIN",
            "web: network_mode host",
            "web: pid",
            "web: privileged",
            "web: the mount /var/run/docker.sock",
        ]
    );
}

#[test]
fn a_service_without_its_image_is_an_error() {
    let scratch = Scratch::for_test(Path::new("/b/.proof"), &[]);
    let recorded = json!({"services": {"web": {}}});
    assert!(
        super::make(&recorded, &Inputs { manifest: &manifest(), loaded: &[], scratch: &scratch })
            .is_err()
    );
}
