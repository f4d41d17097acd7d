//! Targets that pods may connect to: a table of rules, addresses and protocols, tried between network namespaces.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use capsid_tests::invocation::eventually;
use capsid_tests::world::{
    HOST_V4, HOST_V6, METADATA, OTHER_PORT, PORT, PRIVATE_V4, PRIVATE_V6, PUBLIC_V4, PUBLIC_V6, WIRE_SERVER,
};
use capsid_tests::{Capsid, TestImage, World};

const REACH: &str = include_str!("../src/reach.py");

/// Tries `attempts`, lines of `PROTOCOL ADDRESS PORT`, in a container that was started with these flags. Returns the
/// result of each.
fn reach(world: &World, capsid: &Capsid, flags: &[&str], attempts: &[String]) -> Vec<(String, String)> {
    let words = [&["run", "--rm", "-i"], flags, &["debian-python"]].concat();
    reach_from(world, capsid, &words, attempts)
}

/// Tries `attempts` in the container that the command `words` runs in.
fn reach_from(world: &World, capsid: &Capsid, words: &[&str], attempts: &[String]) -> Vec<(String, String)> {
    let words = [words, &["python3", "-c", REACH]].concat();
    let call = world.call(capsid, &words).input(attempts.join("\n")).within(120);
    let said = call.wait().succeeds().text();
    said.lines()
        .map(|line| line.split_once(": ").unwrap_or((line, "")))
        .map(|(attempt, said)| (attempt.into(), said.into()))
        .collect()
}

fn attempt(protocol: &str, address: &str, port: u16) -> String {
    format!("{protocol} {address} {port}")
}

/// Returns attempts of every protocol to each address.
fn table(addresses: &[&str]) -> Vec<String> {
    let protocols = ["tcp", "udp", "icmp"];
    let cell = |address| protocols.map(|protocol| attempt(protocol, address, PORT));
    addresses.iter().flat_map(|address| cell(*address)).collect()
}

#[track_caller]
fn assert_reach(found: &[(String, String)], opened: &[String]) {
    for (attempt, said) in found {
        let expected = opened.contains(attempt);
        assert_eq!(said == "yes", expected, "{attempt}: {said}");
        // Refusals are reported: nobody waits.
        assert!(
            expected || said != "TimeoutError" || is_for_itself(attempt),
            "{attempt}: {said}"
        );
    }
    for attempt in opened {
        assert!(
            found.iter().any(|(found, _)| found == attempt),
            "{attempt} was not tried"
        );
    }
}

/// Whether the attempt is to the container's own loopback, which does not leave it.
fn is_for_itself(attempt: &str) -> bool {
    attempt.contains(" 127.0.0.1 ") || attempt.contains(" ::1 ")
}

const ADDRESSES: [&str; 12] = [
    PUBLIC_V4,
    PUBLIC_V6,
    PRIVATE_V4,
    PRIVATE_V6,
    METADATA,
    WIRE_SERVER,
    HOST_V4,
    HOST_V6,
    // The gateway, a neighbor of the host, broadcast, a mapped address.
    "100.96.0.1",
    "192.168.77.2",
    "fe80::1%eth0",
    "::ffff:127.0.0.1",
];

#[test]
fn by_default_a_pod_reaches_the_public_internet_and_nothing_else() {
    let (world, capsid) = (World::with_servers(), Capsid::with(&[TestImage::DebianPython]));
    let found = reach(&world, &capsid, &[], &table(&ADDRESSES));
    assert_reach(&found, &table(&[PUBLIC_V4, PUBLIC_V6]));
}

#[test]
fn rules_open_what_they_name_for_every_protocol_alike() {
    let (world, capsid) = (World::with_servers(), Capsid::with(&[TestImage::DebianPython]));
    let found = reach(&world, &capsid, &["--egress", "none"], &table(&ADDRESSES));
    assert_reach(&found, &[]);
    let rules = ["--egress", "10.9.0.0/16,fd99::/16", "--egress", HOST_V4];
    let found = reach(&world, &capsid, &rules, &table(&ADDRESSES));
    assert_reach(&found, &table(&[PRIVATE_V4, PRIVATE_V6, HOST_V4]));
    // Even all networks do not open what is never opened.
    for flags in [["--egress", "0.0.0.0/0,::/0"], ["--network", "host"]] {
        let found = reach(&world, &capsid, &flags, &table(&ADDRESSES));
        let opened = [PUBLIC_V4, PUBLIC_V6, PRIVATE_V4, PRIVATE_V6, HOST_V4, HOST_V6];
        for (attempt, said) in &found {
            let address = attempt.split(' ').nth(1).unwrap();
            let is_closed = [METADATA, WIRE_SERVER, "fe80::1%eth0", "::ffff:127.0.0.1"].contains(&address);
            assert!(!is_closed || said != "yes", "{flags:?} {attempt}: {said}");
            let is_served = opened.contains(&address);
            assert!(!is_served || said == "yes", "{flags:?} {attempt}: {said}");
        }
    }
    let narrow = ["--egress", "203.0.113.5:7000/tcp"];
    let attempts = [table(&[PUBLIC_V4]), vec![attempt("tcp", PUBLIC_V4, OTHER_PORT)]].concat();
    let found = reach(&world, &capsid, &narrow, &attempts);
    assert_reach(&found, &[attempt("tcp", PUBLIC_V4, PORT)]);
}

#[test]
fn an_address_that_the_host_gets_later_is_the_hosts_too() {
    const LATER_V4: &str = "203.0.113.99";
    let (world, capsid) = (World::with_servers(), Capsid::with(&[TestImage::DebianPython]));
    let words = ["run", "-d", "--name", "lasting", "debian-python", "sleep", "600"];
    world.call(&capsid, words).within(120).wait().succeeds();
    world.give_host(&format!("{LATER_V4}/32"));
    world.serve_on_host(LATER_V4, PORT);
    let reach = |attempts: &[String]| reach_from(&world, &capsid, &["exec", "-i", "lasting"], attempts);
    let is_closed = || reach(&[attempt("tcp", LATER_V4, PORT)])[0].1 != "yes";
    eventually("the address is closed", 30, is_closed);
    assert_reach(&reach(&table(&[LATER_V4, PUBLIC_V4])), &table(&[PUBLIC_V4]));
}

#[test]
fn a_way_out_that_comes_later_is_the_same() {
    let (world, capsid) = (World::with_servers(), Capsid::with(&[TestImage::DebianPython]));
    let call = |words: &[&str]| world.call(&capsid, words).within(120).wait().succeeds();
    call(&["network", "create", "--internal", "inner"]);
    let image = ["debian-python", "sleep", "600"];
    call(&[&["run", "-d", "--name", "lasting", "--network", "inner"], &image[..]].concat());
    let names = ["public.test", "private.test"].map(|name| format!("dns {name} 0"));
    // On a network that address would be a neighbor's, who does not answer.
    let addresses = ADDRESSES.into_iter().filter(|address| !address.starts_with("fe80"));
    let attempts = [table(&addresses.collect::<Vec<_>>()), names.to_vec()].concat();
    let reach = || reach_from(&world, &capsid, &["exec", "-i", "lasting"], &attempts);
    assert_reach(&reach(), &[]);
    let opened = [table(&[PUBLIC_V4, PUBLIC_V6]), names.to_vec()].concat();
    for _ in 0..2 {
        call(&["network", "connect", "default", "lasting"]);
        assert_reach(&reach(), &opened);
        call(&["network", "disconnect", "default", "lasting"]);
        assert_reach(&reach(), &[]);
    }
}

#[test]
fn names_are_resolved_and_rules_can_name_them() {
    let (world, capsid) = (World::with_servers(), Capsid::with(&[TestImage::DebianPython]));
    let ask = |name: &str| format!("dns {name} 0");
    let all = ["public.test", "private.test", "other.test", "alias.test"].map(ask);
    let found = reach(&world, &capsid, &[], &all);
    assert_reach(&found, &all);
    let found = reach(&world, &capsid, &["--egress", "none"], &all);
    assert!(found.iter().all(|(_, said)| said != "yes"), "{found:?}");
    let tcp = |name: &str| attempt("tcp", name, PORT);
    let attempts = [
        ask("public.test"),
        tcp("public.test"),
        ask("other.test"),
        tcp("private.test"),
        tcp("rebound.test"),
    ];
    let rules = ["--egress", "*.test:7000", "--egress", "none.example"];
    let found = reach(&world, &capsid, &rules, &attempts);
    // A name that means a private address, or the host, opens nothing.
    assert_reach_of_names(&found, &[ask("public.test"), tcp("public.test"), ask("other.test")]);
    let found = reach(&world, &capsid, &["--egress", "public.test"], &attempts);
    assert_reach_of_names(&found, &[ask("public.test"), tcp("public.test")]);
    // The address without its name is not opened.
    let found = reach(&world, &capsid, &["--egress", "public.test"], &table(&[PUBLIC_V4]));
    assert_reach(&found, &[]);
}

#[track_caller]
fn assert_reach_of_names(found: &[(String, String)], opened: &[String]) {
    for (attempt, said) in found {
        assert_eq!(said == "yes", opened.contains(attempt), "{attempt}: {said}");
    }
}
