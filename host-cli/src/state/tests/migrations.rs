//! Tests of databases that earlier versions wrote.

use std::path::Path;

use rusqlite::Connection;

use super::super::*;
use super::{container, machine, plain, pod};

#[test]
fn a_database_from_before_networks_keeps_its_rows() {
    let data = tempfile::tempdir().unwrap();
    {
        let old = Connection::open(data.path().join("containers.db")).unwrap();
        MIGRATIONS[..3].iter().for_each(|step| old.execute_batch(step).unwrap());
        old.pragma_update(None, "user_version", 3).unwrap();
        let config = old_config(&serde_json::json!({
            "mac": [2, 0, 0, 0, 0, 1], "ports": [], "egress": [], "dns": [], "dns_search": [], "dns_options": [],
        }));
        let insert = "INSERT INTO containers (id, name, image, image_id, created_ns, spec, config, status) \
                      VALUES (?1, 'old', 'busybox', 'sha256:0', 1, x'', ?2, 'exited')";
        old.execute(insert, [&"1".repeat(64), &config.to_string()]).unwrap();
    }
    let state = State::open(data.path()).unwrap();
    let kept = state.find("old").unwrap();
    assert!(kept.pod.is_implicit && kept.pod.id == kept.id && kept.pod.name == "old");
    let network = kept.pod.config.network.unwrap();
    assert_eq!((network.own_link, network.endpoints), (true, Vec::new()));
    assert_eq!(network.bytes_per_second, None);
    state.remove(&kept.id).unwrap();
    assert_eq!(state.networks().unwrap(), []);
}

/// Creates a database from before several networks: a container for each `$.network`, and a pod for the last one.
fn before_several_networks(data: &Path, networks: &[serde_json::Value]) {
    let old = Connection::open(data.join("containers.db")).unwrap();
    MIGRATIONS[..4].iter().for_each(|step| old.execute_batch(step).unwrap());
    old.pragma_update(None, "user_version", 4).unwrap();
    let insert = "INSERT INTO containers (id, name, image, image_id, created_ns, spec, config, status) \
                  VALUES (?1, ?1, 'busybox', 'sha256:0', 1, x'', ?2, 'exited')";
    for (digit, network) in networks.iter().enumerate() {
        let config = old_config(network);
        old.execute(insert, [&digit.to_string(), &config.to_string()]).unwrap();
    }
    old.execute(insert, ["damaged", "{"]).unwrap();
    let mut config = serde_json::json!(pod("1", plain(1)).config);
    config["network"] = networks.last().unwrap().clone();
    let insert = "INSERT INTO pods (id, name, created_ns, config, status) VALUES ('p', 'p', 1, ?1, 'Exited')";
    old.execute(insert, [config.to_string()]).unwrap();
}

#[test]
fn a_database_with_one_network_each_keeps_its_rows() {
    let data = tempfile::tempdir().unwrap();
    let network = |endpoint: serde_json::Value| {
        serde_json::json!({
            "mac": [2, 0, 0, 0, 0, 1], "ports": [], "egress": [], "dns": [], "dns_search": [], "dns_options": [],
            "joined": endpoint, "bytes_per_second": u64::MAX,
        })
    };
    let place = serde_json::json!({
        "network": "n", "name": "shop", "addresses": ["10.89.0.2", "fd12::2"], "aliases": ["a'b\\\"c"],
    });
    before_several_networks(
        data.path(),
        &[
            serde_json::Value::Null,
            network(serde_json::Value::Null),
            network(place.clone()),
        ],
    );
    let state = State::open(data.path()).unwrap();
    let network = |id: &str| state.container(id).unwrap().pod.config.network;
    assert_eq!(network("0"), None);
    let own = network("1").unwrap();
    assert_eq!((own.own_link, own.endpoints), (true, Vec::new()));
    let endpoint = network("2").unwrap();
    assert_eq!(endpoint.bytes_per_second.unwrap().get(), u64::MAX);
    assert_eq!(
        (endpoint.own_link, serde_json::json!(endpoint.endpoints)),
        (false, serde_json::json!([place]))
    );
    assert_eq!(
        state.pod("p").unwrap().config.network.unwrap().endpoints,
        endpoint.endpoints
    );
    assert!(matches!(state.container("damaged"), Err(StateError::Damaged { .. })));
}

#[test]
fn a_container_from_before_implicit_pods_gets_one() {
    let data = tempfile::tempdir().unwrap();
    let id = "1".repeat(64);
    {
        let old = Connection::open(data.path().join("containers.db")).unwrap();
        MIGRATIONS[..7].iter().for_each(|step| old.execute_batch(step).unwrap());
        old.pragma_update(None, "user_version", 7).unwrap();
        let spec = capsid_protocol::ContainerSpec {
            hostname: "db".into(),
            ..capsid_protocol::ContainerSpec::default()
        };
        let mut config = old_config(&serde_json::json!(plain(1)));
        config["kernel"] = serde_json::json!("/boot/vmlinux");
        config["shares"] = serde_json::json!([{ "source": "/srv", "target": "/data", "readonly": true, "is_file": false, "tag": "s0" }]);
        let insert = "INSERT INTO containers (id, name, image, image_id, created_ns, spec, config, status) \
                      VALUES (?1, 'old', 'busybox', 'sha256:0', 1, ?2, ?3, 'exited')";
        let spec = prost::Message::encode_to_vec(&spec);
        old.execute(insert, rusqlite::params![id, spec, config.to_string()])
            .unwrap();
        // Valid JSON, and still not what this program writes.
        config["network"] = serde_json::json!("x");
        config["shares"] = serde_json::json!("y");
        let damaged = insert.replace("'old'", "'damaged'");
        old.execute(&damaged, rusqlite::params!["2", spec, config.to_string()])
            .unwrap();
    }
    let state = State::open(data.path()).unwrap();
    assert!(matches!(state.container("2"), Err(StateError::Damaged { .. })));
    let kept = state.container(&id).unwrap();
    assert!(kept.pod.is_implicit);
    assert_eq!(kept.pod.config.kernel, Some("/boot/vmlinux".into()));
    assert_eq!(kept.pod.config.shares, kept.config.shares);
    let found = machine("db", Some(plain(1)));
    assert_eq!(
        (kept.pod.config.machine, &*kept.pod.config.hostname),
        (found.machine, "db")
    );
    assert_eq!(kept.pod.config.network, found.network);
    assert_eq!(state.pod(&id).unwrap().config, kept.pod.config);
}

/// Returns the configuration of a container from before implicit pods.
fn old_config(network: &serde_json::Value) -> serde_json::Value {
    let mut config = serde_json::json!(container("1", None).config);
    let machine = serde_json::json!(machine("", None));
    for name in ["machine", "accelerator", "kernel"] {
        config[name] = machine[name].clone();
    }
    config["network"] = network.clone();
    config
}
