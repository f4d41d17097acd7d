//! Pods that join further networks and leave them, also while they run.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use capsid_tests::environment::patience;
use capsid_tests::invocation::eventually;
use capsid_tests::{Capsid, Outcome, TestImage};

/// Time limit for a server to start, in seconds.
const PATIENCE_S: u64 = 120;
const IDLE: [&str; 3] = ["services", "sleep", "6000"];
const NGINX: [&str; 4] = ["services", "nginx", "-g", "daemon off; error_log stderr notice;"];

fn call(capsid: &Capsid, words: &[&str]) -> Outcome {
    capsid.call(words).within(PATIENCE_S).wait()
}

#[track_caller]
fn good(capsid: &Capsid, words: &[&str]) {
    call(capsid, words).succeeds();
}

/// Starts a container in the background.
#[track_caller]
fn start(capsid: &Capsid, name: &str, flags: &[&str], words: &[&str]) {
    good(capsid, &[&["run", "-d", "--name", name], flags, words].concat());
}

/// Whether `from` gets an answer from `to`, a name or an address.
fn reaches(capsid: &Capsid, from: &str, to: &str) -> bool {
    let wait = patience(5).as_secs().to_string();
    let ping = ["exec", from, "ping", "-c", "1", "-W", &wait, to];
    call(capsid, &ping).code() == 0
}

#[track_caller]
fn says(capsid: &Capsid, name: &str, script: &str) -> String {
    call(capsid, &["exec", name, "sh", "-c", script]).succeeds().text()
}

/// Returns the container's IPv4 addresses beside the loopback's.
fn addresses(capsid: &Capsid, name: &str) -> String {
    let script = "grep -B1 'host LOCAL' /proc/net/fib_trie | grep -o '[0-9.]*$' | grep -v '^127' | sort -u";
    says(capsid, name, script)
}

/// Returns the host's address where port 80 of a container is published.
fn published(capsid: &Capsid, name: &str) -> String {
    call(capsid, &["port", name, "80"]).succeeds().text()
}

/// Whether nginx answers at the address.
fn is_served(address: &str) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(patience(5)))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.contains("served by nginx"))
}

#[track_caller]
fn wait_until_served(address: &str) {
    eventually("an answer at the published port", PATIENCE_S, || is_served(address));
}

/// Creates two networks; `web` is on the first, `db` on the second.
fn two_networks() -> Capsid {
    let capsid = Capsid::with(&[TestImage::Services]);
    good(&capsid, &["network", "create", "--subnet", "10.77.1.0/24", "front"]);
    good(
        &capsid,
        &["network", "create", "--ipv6", "--subnet", "10.77.2.0/24", "back"],
    );
    start(&capsid, "db", &["--network", "back"], &IDLE);
    capsid
}

#[test]
fn a_running_container_comes_to_a_network_and_leaves_it() {
    let capsid = two_networks();
    start(&capsid, "web", &["--network", "front", "-p", "127.0.0.1::80"], &NGINX);
    let port = published(&capsid, "web");
    wait_until_served(&port);
    assert!(!reaches(&capsid, "web", "db") && !reaches(&capsid, "db", "web"));

    let connect = [
        "network",
        "connect",
        "--alias",
        "www",
        "--ip",
        "10.77.2.9",
        "back",
        "web",
    ];
    call(&capsid, &connect).succeeds().prints("");
    for (from, to) in [("web", "db"), ("db", "web"), ("db", "www"), ("db", "10.77.2.9")] {
        assert!(reaches(&capsid, from, to), "{from} does not reach {to}");
    }
    let v6 = capsid.field("web", ".NetworkSettings.Networks.back.GlobalIPv6Address");
    assert!(reaches(&capsid, "db", &v6), "{v6}");
    assert!(is_served(&port), "its uplink is the same");
    assert_eq!(
        capsid.field("web", ".NetworkSettings.Networks.back.IPAddress"),
        "10.77.2.9"
    );
    call(&capsid, &connect)
        .exits(1)
        .complains("back")
        .complains_in_one_line();

    good(&capsid, &["network", "disconnect", "back", "web"]);
    assert!(!reaches(&capsid, "db", "10.77.2.9") && !reaches(&capsid, "web", "db"));
    assert!(is_served(&port));
    call(&capsid, &["network", "disconnect", "back", "web"])
        .exits(1)
        .complains("back");

    // The network that leads out: the uplink is closed with it, and returns with it, or with another one.
    good(&capsid, &["network", "disconnect", "front", "web"]);
    assert!(!is_served(&port));
    assert_eq!(addresses(&capsid, "web"), "");
    call(&capsid, &["network", "connect", "front", "web"])
        .succeeds()
        .prints("");
    assert!(is_served(&port));
    good(&capsid, &["network", "connect", "back", "web"]);
    good(&capsid, &["network", "disconnect", "front", "web"]);
    assert!(is_served(&port) && reaches(&capsid, "web", "db"));
    // If somebody else has its port meanwhile, a warning says so.
    good(&capsid, &["network", "disconnect", "back", "web"]);
    let listener = TcpListener::bind(port.trim()).unwrap();
    call(&capsid, &["network", "connect", "front", "web"])
        .succeeds()
        .complains("web has no default route: port");
    drop(listener);
    good(&capsid, &["restart", "-t", "0", "web"]);
    wait_until_served(&port);
}

#[test]
fn a_container_on_several_networks_reaches_all_of_them() {
    let capsid = two_networks();
    good(&capsid, &["network", "create", "--internal", "inner"]);
    start(&capsid, "deep", &["--network", "inner"], &IDLE);
    let networks = ["--network", "inner", "--network", "name=back,ip=10.77.2.20,alias=both"];
    start(
        &capsid,
        "hub",
        &[&networks[..], &["-p", "127.0.0.1::80"]].concat(),
        &NGINX,
    );
    let port = published(&capsid, "hub");
    wait_until_served(&port);
    for (from, to) in [("hub", "db"), ("hub", "deep"), ("db", "both"), ("deep", "hub")] {
        assert!(reaches(&capsid, from, to), "{from} does not reach {to}");
    }
    assert!(
        !reaches(&capsid, "db", "deep") && !reaches(&capsid, "deep", "db"),
        "it is no router"
    );
    // On each network it is known by its address there.
    assert_eq!(says(&capsid, "db", "dig +short hub"), "10.77.2.20");
    assert_ne!(says(&capsid, "deep", "dig +short hub"), "10.77.2.20");
    // Nobody on one network reaches it by its address on another.
    assert!(!reaches(&capsid, "deep", "10.77.2.20"));
    // A new name is known at once.
    good(&capsid, &["rename", "hub", "centre"]);
    assert!(reaches(&capsid, "db", "centre") && reaches(&capsid, "deep", "centre"));
    assert!(!reaches(&capsid, "db", "hub"));
}

#[test]
fn the_default_network_is_one_among_others() {
    let capsid = two_networks();
    start(&capsid, "web", &["-p", "127.0.0.1::80"], &NGINX);
    let port = published(&capsid, "web");
    wait_until_served(&port);
    good(&capsid, &["network", "connect", "back", "web"]);
    assert!(reaches(&capsid, "web", "db") && reaches(&capsid, "db", "web") && is_served(&port));
    good(&capsid, &["network", "disconnect", "default", "web"]);
    assert!(reaches(&capsid, "web", "db") && is_served(&port));
}

#[test]
fn a_pod_takes_its_containers_with_it() {
    let capsid = two_networks();
    good(&capsid, &["pod", "create", "--name", "group", "--network", "front"]);
    good(&capsid, &["pod", "start", "group"]);
    // Before its first container, and with one.
    good(&capsid, &["network", "connect", "back", "group"]);
    start(&capsid, "one", &["--pod", "group"], &IDLE);
    assert!(reaches(&capsid, "one", "db") && reaches(&capsid, "db", "group"));
    call(&capsid, &["network", "disconnect", "back", "one"])
        .exits(1)
        .complains("group");
    good(&capsid, &["network", "disconnect", "back", "group"]);
    assert!(!reaches(&capsid, "one", "db"));
    good(&capsid, &["network", "connect", "back", "group"]);
    start(&capsid, "two", &["--pod", "group"], &IDLE);
    assert!(reaches(&capsid, "two", "db") && reaches(&capsid, "one", "db"));
}

#[test]
fn what_cannot_be_connected_is_told_in_one_line() {
    let capsid = Capsid::with_busybox();
    good(&capsid, &["network", "create", "--subnet", "10.77.1.0/24", "net1"]);
    good(&capsid, &["create", "--name", "alone", "--network", "none", "busybox"]);
    good(
        &capsid,
        &[
            "create",
            "--name",
            "first",
            "--network",
            "net1",
            "--ip",
            "10.77.1.5",
            "busybox",
        ],
    );
    good(&capsid, &["create", "--name", "second", "busybox"]);
    for (words, reason) in [
        (&["net1", "alone"][..], "none"),
        (&["net2", "second"], "net2"),
        (&["net1", "third"], "third"),
        (&["net1", "first"], "net1"),
        (&["--ip", "10.77.1.5", "net1", "second"], "first"),
        (&["--ip", "10.99.0.5", "net1", "second"], "10.77.1.0/24"),
    ] {
        call(&capsid, &[&["network", "connect"], words].concat())
            .exits(1)
            .complains(reason)
            .complains_in_one_line();
    }
    call(&capsid, &["network", "disconnect", "net1", "second"])
        .exits(1)
        .complains("net1")
        .complains_in_one_line();
    // None of that is written.
    let shown = call(&capsid, &["network", "inspect", "net1"]).succeeds().json();
    assert_eq!(shown[0]["Containers"].as_object().unwrap().len(), 1);
    // A container that does not run is on the network from its next start on.
    good(&capsid, &["network", "connect", "--ip", "10.77.1.6", "net1", "second"]);
    assert_eq!(
        capsid.field("second", ".NetworkSettings.Networks.net1.IPAddress"),
        "10.77.1.6"
    );
    call(&capsid, &["network", "rm", "net1"]).exits(1).complains("second");
    good(&capsid, &["network", "disconnect", "net1", "second"]);
    good(&capsid, &["network", "disconnect", "net1", "first"]);
    good(&capsid, &["network", "rm", "net1"]);
}
