//! The lab works for a checkout anywhere, also where the lab has a folder of its own in place of the host's.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use capsid_tests::environment::in_lab;
use capsid_tests::invocation::Invocation;
use capsid_tests::requirement::skip;

/// Copies the lab's scripts into a new folder below `parent`.
fn checkout(parent: &str, name: &str) -> (tempfile::TempDir, PathBuf) {
    let above = tempfile::Builder::new()
        .prefix("capsid-test-")
        .tempdir_in(parent)
        .unwrap();
    let folder = above.path().join(name);
    fs::create_dir(&folder).unwrap();
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("lab");
    for script in fs::read_dir(scripts).unwrap() {
        let script = script.unwrap();
        fs::copy(script.path(), folder.join(script.file_name())).unwrap();
    }
    fs::write(folder.join("words"), parent).unwrap();
    (above, folder)
}

#[test]
fn a_checkout_may_be_in_any_folder() {
    if in_lab() || !rustix::process::geteuid().is_root() {
        skip(
            "a_checkout_may_be_in_any_folder",
            "a lab is started by root, outside of a lab",
        );
        return;
    }
    for (parent, name) in [
        ("/tmp", "lab"),
        ("/run", "lab"),
        ("/dev/shm", "lab"),
        ("/tmp", "a folder's lab"),
    ] {
        let (_above, folder) = checkout(parent, name);
        let script = "cat words && test -c /dev/kvm && touch mine && echo \"$1\" && exit 7";
        // By its interpreter: there may be no programs in these folders.
        let words = ["./lab", "--memory", "1024", "sh", "-c", script, "sh", "two  words"];
        let mut lab = Invocation::new("bash", words);
        lab.command().current_dir(&folder);
        let outcome = lab.within(300).wait().exits(7);
        outcome.prints(format!("{parent}two  words\n"));
        // What a lab writes vanishes with it.
        assert!(!folder.join("mine").exists());
    }
}
