//! Requirements of a test on the host. A test that cannot run reports that, even where passing tests are silent; in
//! continuous integration that is a failure, unless the test is one of [`MAY_SKIP`].

use std::env;
use std::io::{self, Write};

/// Tests that some sound hosts cannot run, and which hosts.
const MAY_SKIP: &[(&str, &str)] = &[
    (
        "a_checkout_may_be_in_any_folder",
        "users who start labs by sudo, and labs",
    ),
    ("a_bomb", "the lab: its disk is memory, too little for 11 GiB"),
    ("no_permission_for_kvm", "hosts where everybody may use /dev/kvm"),
];

/// Reports why `test` does not run here; the test returns then.
#[track_caller]
pub fn skip(test: &str, reason: &str) {
    let allowed = MAY_SKIP.iter().any(|(name, _)| *name == test);
    assert!(
        allowed || env::var_os("CAPSID_CI").is_none(),
        "{test} cannot run here, and may not be left out in continuous integration: {reason}"
    );
    // Not `eprintln!`: the test harness would swallow it.
    let _ = writeln!(io::stderr(), "{test}: skipped: {reason}");
}
