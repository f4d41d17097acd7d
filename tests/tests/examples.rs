//! The scripts of `examples/`, run as a user would run them.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::env;
use std::path::Path;

use capsid_tests::Capsid;
use capsid_tests::environment::bin_dir;
use capsid_tests::invocation::{Invocation, Outcome};

fn run(capsid: &Capsid, name: &str) -> Outcome {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut call = Invocation::new("sh", [folder.join(name)]).within(120);
    for (variable, value) in capsid.environment() {
        call = call.env(variable, value);
    }
    let path = format!("{}:{}", bin_dir().display(), env::var("PATH").unwrap());
    call.env("PATH", path).wait().succeeds()
}

#[test]
fn examples_print_what_they_promise() {
    let capsid = Capsid::with_busybox();
    run(&capsid, "untrusted-script.sh").prints("no network\nread-only root\nsum: 12\n");
    run(&capsid, "two-services.sh").prints("served by another machine\n");
    run(&capsid, "pod-with-sidecar.sh").prints("written by the sidecar\n80/tcp -> 127.0.0.1:PORT\n");
    assert_eq!(capsid.call(["ps", "-aq"]).wait().text(), "");
}
