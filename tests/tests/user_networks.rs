//! User-defined networks: members find each other by their names, and others do not.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;
use std::time::{Duration, Instant};

use capsid_tests::environment::patience;
use capsid_tests::invocation::eventually;
use capsid_tests::{Capsid, Outcome, TestImage};

/// Time limit for a server to start, and for its client's work, in seconds.
const PATIENCE_S: u64 = 120;

fn call(capsid: &Capsid, words: &[&str]) -> Outcome {
    capsid.call(words).within(PATIENCE_S).wait()
}

/// Starts a container in the background.
#[track_caller]
fn start(capsid: &Capsid, name: &str, flags: &[&str], words: &[&str]) {
    call(capsid, &[&["run", "-d", "--name", name], flags, words].concat()).succeeds();
}

/// Runs `capsid exec NAME sh -c SCRIPT`. Returns output and exit status.
fn exec(capsid: &Capsid, name: &str, script: &str) -> Outcome {
    call(capsid, &["exec", name, "sh", "-c", script])
}

#[track_caller]
fn says(capsid: &Capsid, name: &str, script: &str) -> String {
    exec(capsid, name, script).succeeds().text()
}

/// Waits until a container has printed the words.
#[track_caller]
fn wait_for(capsid: &Capsid, name: &str, words: &str) {
    let said = || {
        let logs = call(capsid, &["logs", name]).succeeds();
        logs.text() + &logs.stderr
    };
    eventually(words, PATIENCE_S, || said().contains(words));
}

const IDLE: [&str; 3] = ["services", "sleep", "6000"];

#[test]
fn programs_find_each_other_by_name() {
    let capsid = Capsid::with(&[TestImage::Services]);
    call(
        &capsid,
        &["network", "create", "--ipv6", "--subnet", "10.77.1.0/24", "front"],
    )
    .succeeds();
    let front = ["--network", "front"];
    let nginx = ["services", "nginx", "-g", "daemon off; error_log stderr notice;"];
    start(
        &capsid,
        "web",
        &[&front[..], &["--network-alias", "WWW.shop"]].concat(),
        &nginx,
    );
    let redis = ["services", "redis-server", "--protected-mode", "no", "--save", ""];
    start(&capsid, "cache", &[&front[..], &["-u", "redis"]].concat(), &redis);
    start(&capsid, "client", &front, &IDLE);
    wait_for(&capsid, "web", "start worker process");
    wait_for(&capsid, "cache", "Ready to accept connections");
    let ask = |script: &str| says(&capsid, "client", script);
    let id = capsid.field("web", ".Id");
    for name in ["web", "www.shop", &id[..12], "WEB"] {
        assert_eq!(ask(&format!("curl -sS http://{name}/")), "served by nginx", "{name}");
    }
    let v4 = capsid.field("web", ".NetworkSettings.Networks.front.IPAddress");
    let v6 = capsid.field("web", ".NetworkSettings.Networks.front.GlobalIPv6Address");
    assert!(v4.starts_with("10.77.1.") && v6.starts_with("fd"), "{v4} {v6}");
    assert_eq!(ask("dig +short web"), v4);
    assert_eq!(ask("dig +short AAAA www.shop"), v6);
    assert_eq!(ask("dig +short MX web"), "");
    assert_eq!(ask(&format!("curl -sS -g 'http://[{v6}]/'")), "served by nginx");
    let answered = "1 received";
    for ping in [
        "ping -c 1 -w 10 web",
        "ping -6 -c 1 -w 10 web",
        "ping -c 1 -w 10 client",
    ] {
        assert!(ask(ping).contains(answered), "{ping}");
    }
    // A packet of the link's MTU, whole, and not one byte more.
    assert!(ask("ping -c 1 -w 10 -M do -s 65472 web").contains(answered));
    assert!(exec(&capsid, "client", "ping -c 1 -w 5 -M do -s 65493 web").code() != 0);
    call(&capsid, &["exec", "-d", "web", "iperf3", "--server"]).succeeds();
    let listens = || exec(&capsid, "client", "iperf3 --client web -n 1K").code() == 0;
    eventually("iperf3's server", PATIENCE_S, listens);
    for flags in ["-n 8M", "-n 8M --reverse -6", "-u -b 4M -t 2"] {
        let reported = ask(&format!("iperf3 --client web {flags}"));
        assert!(reported.contains("receiver"), "{flags}: {reported}");
    }
    assert_eq!(ask("redis-cli -h cache set greeting hello"), "OK");
    let benchmark = ask("redis-benchmark -h cache -q --csv -c 20 -n 2000 -t set,get");
    assert!(benchmark.contains("\"GET\""), "{benchmark}");
    assert_eq!(says(&capsid, "cache", "redis-cli get greeting"), "hello");
}

#[test]
fn postgres_serves_another_pod() {
    let capsid = Capsid::with(&[TestImage::Services]);
    call(&capsid, &["network", "create", "back"]).succeeds();
    let script = "\
        export PATH=\"$PATH:/usr/lib/postgresql/15/bin\" PGDATA=/tmp/data
        initdb --auth=trust >/dev/null && echo 'host all all all trust' >>$PGDATA/pg_hba.conf
        exec postgres -c listen_addresses='*'";
    let flags = ["--network", "back", "-u", "postgres"];
    start(&capsid, "rows", &flags, &["services", "sh", "-c", script]);
    start(&capsid, "client", &["--network", "back"], &IDLE);
    wait_for(&capsid, "rows", "ready to accept connections");
    let pgbench = "/usr/lib/postgresql/15/bin/pgbench -h rows -U postgres postgres";
    says(&capsid, "client", &format!("{pgbench} -q -i 2>&1"));
    let reported = says(&capsid, "client", &format!("{pgbench} -c 4 -t 20 2>&1"));
    assert!(reported.contains("80/80"), "{reported}");
}

/// Server for TCP and UDP at port 80 of all addresses: echoes, and ends its half when the client has ended its own.
const ECHO: &str = "\
import socket, threading
def one(c):
    while b := c.recv(65536):
        c.sendall(b)
    c.shutdown(socket.SHUT_WR)
def tcp(s):
    while True:
        threading.Thread(target=one, args=(s.accept()[0],), daemon=True).start()
def udp(s):
    while True:
        s.sendto(*s.recvfrom(65536))
for kind, serve in (socket.SOCK_STREAM, tcp), (socket.SOCK_DGRAM, udp):
    s = socket.socket(socket.AF_INET6, kind)
    s.bind(('::', 80))
    if serve is tcp: s.listen(512)
    threading.Thread(target=serve, args=(s,)).start()
print('serves', flush=True)
";

/// Client that sends a given amount to the echo of given hosts, each over a given number of connections at once, and
/// compares.
const EXCHANGE: &str = "\
import hashlib, socket, sys, threading
host, total, connections = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
block = hashlib.shake_128(b'noise').digest(65537)
sockets = [socket.create_connection((host, 80), 60) for _ in range(connections)]
def send(s):
    left = total
    while left: left -= s.send(block[:min(left, 65537)])
    s.shutdown(socket.SHUT_WR)
good = []
def exchange(s):
    threading.Thread(target=send, args=(s,)).start()
    sent, back = hashlib.sha256(), hashlib.sha256()
    left = total
    while left: sent.update(block[:min(left, 65537)]); left -= min(left, 65537)
    while b := s.recv(65536): back.update(b)
    if sent.digest() == back.digest(): good.append(1)
threads = [threading.Thread(target=exchange, args=(s,)) for s in sockets]
[t.start() for t in threads]; [t.join() for t in threads]
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.settimeout(10)
u.connect((host, 80)); u.send(block[:60000])
print(len(good), u.recv(65536) == block[:60000])
";

fn exchange(capsid: &Capsid, from: &str, to: &str, bytes: u64, connections: u32) -> String {
    let (bytes, connections) = (bytes.to_string(), connections.to_string());
    let words = ["exec", from, "python3", "-c", EXCHANGE, to, &bytes, &connections];
    call(capsid, &words).succeeds().text()
}

#[test]
fn streams_between_pods_are_whole() {
    let capsid = Capsid::with(&[TestImage::DebianPython]);
    call(&capsid, &["network", "create", "back"]).succeeds();
    let echo = ["debian-python", "python3", "-c", ECHO];
    start(&capsid, "echo", &["--network", "back"], &echo);
    start(
        &capsid,
        "client",
        &["--network", "back"],
        &["debian-python", "sleep", "6000"],
    );
    wait_for(&capsid, "echo", "serves");
    assert_eq!(exchange(&capsid, "client", "echo", 16 << 20, 1), "1 True");
    assert_eq!(exchange(&capsid, "client", "echo", 1 << 10, 200), "200 True");
    // It ends and starts again, with the same address, and is found at once.
    let address = |name| capsid.field(name, ".NetworkSettings.Networks.back.IPAddress");
    let before = address("echo");
    call(&capsid, &["restart", "-t", "0", "echo"]).succeeds();
    wait_for(&capsid, "echo", "serves");
    eventually("it serves again", PATIENCE_S, || {
        let words = ["exec", "client", "python3", "-c", EXCHANGE, "echo", "1000", "1"];
        call(&capsid, &words).text() == "1 True"
    });
    assert_eq!(address("echo"), before);
    // The same holds for a new one with its name and its address, but other hardware, which its clients do not know
    // yet.
    call(&capsid, &["rm", "-f", "echo"]).succeeds();
    start(&capsid, "echo", &["--network", "back"], &echo);
    wait_for(&capsid, "echo", "serves");
    assert_eq!(address("echo"), before);
    assert_eq!(exchange(&capsid, "client", "echo", 1000, 1), "1 True");
}

#[test]
fn a_rate_is_kept_and_nothing_is_lost() {
    let capsid = Capsid::with(&[TestImage::DebianPython]);
    call(&capsid, &["network", "create", "back"]).succeeds();
    let echo = ["debian-python", "python3", "-c", ECHO];
    start(&capsid, "echo", &["--network", "back"], &echo);
    let limited = ["--network", "back", "--network-rate", "2m"];
    start(&capsid, "client", &limited, &["debian-python", "sleep", "6000"]);
    assert_eq!(
        capsid.field("client", ".NetworkSettings.BytesPerSecond"),
        (2 << 20).to_string()
    );
    wait_for(&capsid, "echo", "serves");
    let begun = Instant::now();
    assert_eq!(exchange(&capsid, "client", "echo", 8 << 20, 1), "1 True");
    let (least, most) = (Duration::from_secs(3), Duration::from_secs(30));
    assert!((least..=most).contains(&begun.elapsed()), "{:?}", begun.elapsed());
}

#[test]
fn pods_of_other_networks_are_out_of_reach() {
    let capsid = Capsid::with(&[TestImage::DebianPython]);
    for network in [&["one"][..], &["two"], &["--internal", "closed"]] {
        call(&capsid, &[&["network", "create"], network].concat()).succeeds();
    }
    let echo = ["debian-python", "python3", "-c", ECHO];
    start(&capsid, "target", &["--network", "one"], &echo);
    start(&capsid, "member", &["--network", "closed"], &echo);
    let idle = ["debian-python", "sleep", "6000"];
    for (name, network) in [
        ("friend", "one"),
        ("stranger", "two"),
        ("default", "default"),
        ("inmate", "closed"),
    ] {
        start(&capsid, name, &["--network", network], &idle);
    }
    wait_for(&capsid, "target", "serves");
    wait_for(&capsid, "member", "serves");
    let address = capsid.field("target", ".NetworkSettings.Networks.one.IPAddress");
    let connects = |from: &str, to: &str| {
        let script = "import socket,sys; socket.create_connection((sys.argv[1], 80), 20)";
        let begun = Instant::now();
        let outcome = call(&capsid, &["exec", from, "python3", "-c", script, to]);
        // Names that no member has may be looked up elsewhere, by this host's resolver.
        let is_decided_here = from == "inmate" || to.parse::<IpAddr>().is_ok();
        assert!(
            !is_decided_here || begun.elapsed() < patience(15),
            "{from} waits for {to}"
        );
        outcome.code() == 0
    };
    assert!(connects("friend", "target") && connects("friend", &address));
    for stranger in ["stranger", "default", "inmate"] {
        assert!(!connects(stranger, &address), "{stranger} reaches {address}");
        assert!(!connects(stranger, "target"), "{stranger} knows target");
    }
    // Nothing leads out of an internal network, but its members are there.
    assert!(connects("inmate", "member"));
    assert!(!connects("inmate", "198.51.100.1") && !connects("inmate", "example.com"));
}

#[test]
fn addresses_are_given_and_shown() {
    let capsid = Capsid::with_busybox();
    let id = call(
        &capsid,
        &[
            "network",
            "create",
            "--subnet",
            "10.77.2.0/29",
            "--label",
            "tier=front",
            "net1",
        ],
    );
    let id = id.succeeds().text();
    assert_eq!(id.len(), 64, "{id}");
    let create = |name: &str, flags: &[&str]| {
        let words = [
            &["create", "--name", name, "--network", "net1"],
            flags,
            &["busybox", "true"],
        ]
        .concat();
        call(&capsid, &words)
    };
    create("first", &[]).succeeds();
    create("fixed", &["--ip", "10.77.2.4"]).succeeds();
    let address = |name| capsid.field(name, ".NetworkSettings.Networks.net1.IPAddress");
    assert_eq!(
        (address("first"), address("fixed")),
        ("10.77.2.2".into(), "10.77.2.4".into())
    );
    for (flags, reason) in [
        (["--ip", "10.77.2.4"], "fixed"),
        (["--ip", "10.77.2.1"], "10.77.2.1"),
        (["--ip", "10.77.3.4"], "10.77.2.0/29"),
        (["--ip", "10.77.2.7"], "10.77.2.7"),
    ] {
        create("wrong", &flags)
            .exits(125)
            .complains(reason)
            .complains_in_one_line();
    }
    for name in ["second", "third", "fourth"] {
        create(name, &[]).succeeds();
    }
    create("fifth", &[])
        .exits(125)
        .complains("net1")
        .complains_in_one_line();
    call(&capsid, &["rm", "first"]).succeeds();
    create("fifth", &[]).succeeds();
    assert_eq!(address("fifth"), "10.77.2.2");
    let shown = call(&capsid, &["network", "inspect", "net1"]).succeeds().json();
    assert_eq!(shown[0]["IPAM"]["Config"][0]["Subnet"], "10.77.2.0/29");
    assert_eq!(shown[0]["IPAM"]["Config"][0]["Gateway"], "10.77.2.1");
    assert_eq!(shown[0]["Labels"]["tier"], "front");
    let containers = shown[0]["Containers"].as_object().unwrap();
    assert_eq!(containers.len(), 5);
    assert!(
        containers
            .values()
            .any(|c| c["Name"] == "fixed" && c["IPv4Address"] == "10.77.2.4/29")
    );
    let listed = call(&capsid, &["network", "ls"]).succeeds().text();
    assert!(listed.contains(&id[..12]) && listed.contains("net1"), "{listed}");
    call(&capsid, &["network", "rm", "net1"]).exits(1).complains("fixed");
    call(&capsid, &["rm", "fixed", "second", "third", "fourth", "fifth"]).succeeds();
    call(&capsid, &["network", "rm", "net1"]).succeeds().prints("net1\n");
}

#[test]
fn bad_networks_are_told_in_one_line_and_leave_nothing() {
    let capsid = Capsid::with_busybox();
    call(&capsid, &["network", "create", "--subnet", "10.77.0.0/16", "net1"]).succeeds();
    for (words, reason) in [
        (&["net1"][..], "already exists"),
        (&["--subnet", "10.77.5.0/24", "net2"], "net1"),
        (&["--subnet", "10.78.0.1/24", "net2"], "10.78.0.0/24"),
        (&["--subnet", "nonsense", "net2"], "nonsense"),
        (&["--subnet", "127.0.0.0/8", "net2"], "127.0.0.0/8"),
        (
            &["--subnet", "10.78.0.0/24", "--gateway", "10.79.0.1", "net2"],
            "10.79.0.1",
        ),
        (&["host"], "host"),
        (&["default"], "default"),
        (&["a/b"], "a/b"),
    ] {
        let words = [&["network", "create"], words].concat();
        call(&capsid, &words).exits(1).complains(reason).complains_in_one_line();
    }
    for (flags, reason) in [
        (&["--network", "missing"][..], "network missing not found"),
        (&["--ip", "10.77.0.5"], "--ip"),
        (&["--network-alias", "db"], "--network-alias"),
        (&["--network", "net1", "--network-alias", "a b"], "a b"),
        (&["--network", "none", "--ip", "10.77.0.5"], "--ip"),
        (&["--network", "none", "--network-rate", "2m"], "--network-rate"),
        (&["--network", "net1", "--network-rate", "1k"], "at least 16k"),
        (&["--network", "host", "--ip", "10.77.0.9"], "--ip"),
        (&["--network", "net1", "-p", "[::1]:8080:80"], "no subnet of that kind"),
    ] {
        let words = [&["run", "--rm"], flags, &["busybox", "true"]].concat();
        call(&capsid, &words)
            .exits(125)
            .complains(reason)
            .complains_in_one_line();
    }
    call(&capsid, &["ps", "-aq"]).succeeds().prints("");
    let names = call(&capsid, &["network", "ls", "--format", "{{.Name}}"])
        .succeeds()
        .text();
    let mut names: Vec<&str> = names.lines().collect();
    names.sort_unstable();
    assert_eq!(names, ["default", "net1", "none"]);
    call(&capsid, &["network", "prune", "-f"]).succeeds();
    call(&capsid, &["network", "inspect", "net1"])
        .exits(1)
        .complains("net1");
}

#[test]
fn a_pods_containers_share_its_place() {
    let capsid = Capsid::with_busybox();
    call(&capsid, &["network", "create", "net1"]).succeeds();
    call(
        &capsid,
        &[
            "pod",
            "create",
            "--name",
            "shop",
            "--network",
            "net1",
            "--ip",
            "10.89.0.77",
        ],
    )
    .succeeds();
    start(&capsid, "left", &["--pod", "shop"], &["busybox", "sleep", "6000"]);
    start(&capsid, "right", &["--pod", "shop"], &["busybox", "sleep", "6000"]);
    start(&capsid, "client", &["--network", "net1"], &["busybox", "sleep", "6000"]);
    for name in ["left", "right"] {
        assert!(says(&capsid, name, "ip addr show eth0").contains("10.89.0.77/24"));
    }
    assert!(says(&capsid, "client", "nslookup shop").contains("10.89.0.77"));
    assert!(says(&capsid, "client", "ping -c 1 -w 20 shop").contains("1 packets received"));
    let inspected = call(&capsid, &["network", "inspect", "net1"]).succeeds().text();
    assert!(inspected.contains("\"shop\""), "{inspected}");
}
