//! `capsid doctor`, the choice of an accelerator, and the small verbs that need no machine.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use capsid_tests::environment::{accelerator, in_lab};
use capsid_tests::sys::{Lack, lacking};
use capsid_tests::{Capsid, Invocation};

#[test]
fn doctor_finds_this_host_fit_and_says_it_as_json_too() {
    let capsid = Capsid::empty();
    let outcome = capsid.call(["doctor"]).wait().succeeds();
    assert!(outcome.text().lines().count() >= 4, "{outcome}");
    let json = capsid.call(["doctor", "--json"]).wait().succeeds().json();
    assert!(json.is_object(), "{json}");
}

/// Test of the report on confinement: each kind of process enters its jail for it, so it shows what they really have
/// here.
#[test]
fn doctor_tells_each_layer_of_confinement() {
    let capsid = Capsid::empty();
    let json = capsid.call(["doctor", "--json"]).wait().succeeds().json();
    let confinement = json["confinement"].as_array().unwrap();
    let processes: Vec<_> = confinement.iter().map(|one| one["process"].as_str().unwrap()).collect();
    assert_eq!(
        processes,
        ["capsid-vmm", "QEMU", "capsid-fs", "the converter of images", "passt"]
    );
    for one in confinement {
        assert!(one["error"].is_null(), "{one}");
        let layers = one["layers"].as_object().unwrap();
        assert_eq!(layers.len(), 9, "{one}");
        for layer in ["userns", "namespaces", "root", "no_new_privs", "seccomp"] {
            assert_eq!(layers[layer], true, "{layer}: {one}");
        }
        assert_eq!(
            layers["landlock"] == true && one["process"] != "passt",
            one["landlock_abi"].is_u64(),
            "{one}"
        );
    }
    let text = capsid.call(["doctor"]).wait().succeeds().text();
    let line = text.lines().find(|line| line.contains("jail-vmm")).unwrap();
    assert!(line.contains("userns, namespaces, root, uid, capabilities"), "{line}");
}

/// Test that nothing starts without a layer that is required. The file server of root cannot do without capabilities
/// anywhere, so that it stands for a host that lacks something.
#[test]
fn nothing_starts_without_a_required_layer() {
    let capsid = Capsid::with_busybox();
    let demand = ["--require", "userns,seccomp", "run", "--rm", "busybox", "echo", "hi"];
    capsid.call(demand).wait().succeeds().prints("hi\n");
    capsid
        .call(["--require", "selinux", "ps"])
        .wait()
        .complains("selinux")
        .complains("landlock");
    if rustix::process::geteuid().is_root() {
        let bind = format!("{}:/d", capsid.folder("home").display());
        let settings = capsid.folder("home/.config/capsid/config.toml");
        std::fs::create_dir_all(settings.parent().unwrap()).unwrap();
        std::fs::write(&settings, "require = [\"capabilities\"]").unwrap();
        let refused = capsid.run(["-v", &bind, "busybox", "true"]);
        refused
            .exits(125)
            .complains("capsid-fs would run without capabilities")
            .complains("require");
        capsid.call(["ps", "-aq"]).wait().succeeds().prints("");
    }
}

/// Test of hosts without a layer of confinement: the report names it, what can do without it runs with the rest, and
/// nothing that would lack it starts where it is required.
#[test]
fn a_layer_that_the_host_lacks_is_reported_and_cannot_be_required() {
    let capsid = Capsid::with_busybox();
    for (lack, layer) in [
        (Lack::Landlock, "landlock"),
        (Lack::UserNamespaces, "userns"),
        (Lack::UserChange, "uid"),
    ] {
        let call = |words: &[&str]| {
            let mut invocation = capsid.call(words);
            lacking(invocation.command(), lack);
            invocation.wait()
        };
        // passt confines itself by user namespace and change of user, or not at all.
        let has_passt = lack == Lack::Landlock;
        let doctor = call(&["doctor"]).exits(i32::from(!has_passt)).text();
        let refused = doctor.contains("fail jail-passt        passt cannot be confined on this host: C");
        assert_ne!(refused, has_passt, "{doctor}");
        let named = format!("without {layer}");
        let rows = |text: &str, mark: &str| {
            text.lines()
                .filter(|line| line.starts_with(mark) && line.contains(&named))
                .count()
        };
        // All that are confined by Capsid; root's file server keeps its user anyway.
        let lacking = if lack == Lack::UserChange { 3 } else { 4 };
        assert_eq!(rows(&doctor, "warn jail-"), lacking, "{doctor}");
        call(&["run", "--rm", "--network", "none", "busybox", "echo", "hi"])
            .succeeds()
            .prints("hi\n");
        for words in [&["run", "--rm", "busybox", "true"][..], &["load", "-i", "/dev/null"]] {
            let refused = call(&[&["--require", layer], words].concat());
            refused.complains(&format!("would run {named}, which `require` demands"));
        }
        let doctor = call(&["--require", layer, "doctor"]).exits(1).text();
        // Without a bind mount no file server starts.
        assert_eq!(rows(&doctor, "fail jail-"), 3, "{doctor}");
    }
}

#[test]
fn doctor_fails_where_run_would() {
    let capsid = Capsid::empty();
    let outcome = capsid.call(["doctor", "--kernel", "/no/such/kernel"]).wait();
    assert_ne!(outcome.code(), 0, "{outcome}");
    assert!(
        format!("{}{}", outcome.text(), outcome.stderr).contains("/no/such/kernel"),
        "{outcome}"
    );
}

/// Test on hosts where ring 0 of a guest is interpreted (PVM) and a machine would seem to hang: that must be an error,
/// and soon. On a host with real KVM, and in the lab, the same command must simply work.
#[test]
fn forcing_kvm_works_or_fails_within_five_seconds() {
    let capsid = Capsid::with_busybox();
    let outcome = capsid.run(["--accel", "kvm", "busybox", "echo", "kvm"]);
    if outcome.code() == 0 {
        outcome.prints("kvm\n");
    } else {
        assert!(!in_lab() && accelerator() != "kvm", "{outcome}");
        assert!(outcome.took < Duration::from_secs(5), "{outcome}");
        outcome.exits(125).complains("kvm").complains_in_one_line();
    }
}

#[test]
fn auto_warns_when_it_emulates() {
    let capsid = Capsid::with_busybox();
    let outcome = capsid
        .run(["--accel", "auto", "busybox", "echo", "hi"])
        .succeeds()
        .prints("hi\n");
    let has_kvm = capsid.run(["--accel", "kvm", "busybox", "true"]).code() == 0;
    assert_eq!(outcome.stderr.to_lowercase().contains("warning"), !has_kvm, "{outcome}");
}

#[test]
fn doctor_says_why_auto_chooses() {
    let capsid = Capsid::with_busybox();
    let has_kvm = capsid.run(["--accel", "kvm", "busybox", "true"]).code() == 0;
    let outcome = capsid.call(["doctor", "--accel", "auto"]).wait().succeeds();
    let chosen = if has_kvm { "kvm" } else { "emulate" };
    assert!(outcome.text().contains(chosen), "{outcome}");
}

#[test]
fn version_names_the_parts() {
    let capsid = Capsid::empty();
    let outcome = capsid.call(["version"]).wait().succeeds();
    assert!(outcome.text().contains(env!("CARGO_PKG_VERSION")), "{outcome}");
    capsid.call(["version", "--json"]).wait().succeeds().json();
    capsid.call(["--version"]).wait().succeeds();
}

#[test]
fn completions_and_the_man_page_are_well_formed() {
    let capsid = Capsid::empty();
    let bash = capsid.call(["completion", "bash"]).wait().succeeds();
    Invocation::new("bash", ["-n"]).input(bash.stdout).wait().succeeds();
    assert!(
        capsid
            .call(["completion", "zsh"])
            .wait()
            .succeeds()
            .text()
            .starts_with("#compdef capsid")
    );
    assert!(
        capsid
            .call(["completion", "fish"])
            .wait()
            .succeeds()
            .text()
            .contains("complete -c capsid")
    );
    let page = capsid.call(["man"]).wait().succeeds().text();
    assert!(page.contains(".TH") && page.contains("capsid"), "{page}");
}

#[test]
fn help_names_every_verb() {
    let capsid = Capsid::empty();
    let help = capsid.call(["--help"]).wait().succeeds().text();
    for verb in [
        "run",
        "pull",
        "load",
        "images",
        "image",
        "rmi",
        "doctor",
        "version",
        "completion",
    ] {
        assert!(help.contains(verb), "{verb} is not in the help");
    }
}
