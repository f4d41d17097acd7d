//! Tests of the tests' own tools: against skopeo, umoci and a terminal that are not ours.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use capsid_tests::stream::Bytes;
use capsid_tests::{ImageBuilder, Invocation, Layer, Registry, Terminal, TestImage};

#[test]
fn images_are_read_by_skopeo_and_unpacked_by_umoci() {
    let folder = tempfile::tempdir().unwrap();
    let source = format!("docker-archive:{}", TestImage::FortyLayers.docker_archive().display());
    let layout = format!("{}:latest", folder.path().join("layout").display());
    let copy = [
        "--insecure-policy",
        "copy",
        "--quiet",
        &source,
        &format!("oci:{layout}"),
    ];
    Invocation::new("skopeo", copy).within(120).wait().succeeds();
    let bundle = folder.path().join("bundle");
    Invocation::new("umoci", ["unpack", "--image", &layout, bundle.to_str().unwrap()])
        .within(120)
        .wait()
        .succeeds();
    let stack = bundle.join("rootfs/stack");
    assert_eq!(std::fs::read_to_string(stack.join("last")).unwrap(), "38\n");
    assert!(stack.join("37").exists() && !stack.join("36").exists());
    assert!(stack.join("folder8/inside").exists() && !stack.join("folder9/inside").exists());
}

#[test]
fn layouts_are_read_by_skopeo() {
    let folder = tempfile::tempdir().unwrap();
    let layout = ImageBuilder::new()
        .layer(Layer::new().file("a", "a").finish())
        .write_oci_layout(folder.path(), "x:1");
    let source = format!("oci:{}:x:1", folder.path().display());
    let shown = Invocation::new("skopeo", ["inspect", &source]).wait().succeeds().json();
    assert_eq!(shown["Digest"], layout.manifest_digest);
}

#[test]
fn the_registry_wants_its_password() {
    let registry = Registry::start();
    registry.push(
        &format!("docker-archive:{}", TestImage::Busybox.docker_archive().display()),
        "busybox:1",
    );
    let image = format!("docker://{}", registry.reference("busybox:1"));
    let anonymous = Invocation::new("skopeo", ["inspect", "--tls-verify=false", "--no-creds", &image]).wait();
    assert_ne!(anonymous.code(), 0, "{anonymous}");
    let credentials = format!("{}:{}", capsid_tests::registry::USER, capsid_tests::registry::PASSWORD);
    Invocation::new(
        "skopeo",
        ["inspect", "--tls-verify=false", "--creds", &credentials, &image],
    )
    .wait()
    .succeeds();
    let (address, root) = (registry.reference(""), registry.certificate());
    let words = [
        "s_client",
        "-connect",
        address.trim_end_matches('/'),
        "-verify_return_error",
        "-CAfile",
    ];
    let shown = Invocation::new("openssl", words.iter().copied().chain(root.to_str()))
        .wait()
        .succeeds();
    assert!(shown.text().contains("Verify return code: 0"), "{shown}");
}

#[test]
fn a_terminal_echoes_resizes_and_ends() {
    let mut terminal = Terminal::start(Invocation::new(
        "bash",
        [
            "--norc",
            "-c",
            "stty size; trap 'stty size; exit 3' WINCH; read -r x; echo got $x; while :; do sleep 0.1; done",
        ],
    ));
    terminal.expect("24 80");
    terminal.send("hello\n");
    terminal.expect("got hello");
    terminal.resize(40, 132);
    terminal.expect("40 132");
    assert_eq!(terminal.wait().code(), Some(3));
}

#[test]
#[should_panic(expected = "not done after")]
fn an_invocation_that_hangs_is_ended() {
    Invocation::new("sleep", ["600"]).within(0).wait();
}

#[test]
fn streams_are_reproducible() {
    let mut written = Vec::new();
    Bytes::new(7, 200_001).write_to(&mut written).unwrap();
    assert_eq!(
        (written.len(), capsid_tests::image::sha256_hex(&written)),
        (200_001, Bytes::new(7, 200_001).digest())
    );
    assert_ne!(Bytes::new(7, 1000).digest(), Bytes::new(9, 1000).digest());
}
