//! Registries that do not deliver: connections that break in the middle of a layer, where the pull continues and gives
//! up in time, and refusals.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use capsid_tests::flaky_proxy::{Fault, Then};
use capsid_tests::layer::noise;
use capsid_tests::{Capsid, FlakyProxy, ImageBuilder, Layer, Recorder, Registry, Reply};

const NAME: &str = "broken:1";
/// Bytes of the layer that one connection carries before it breaks.
const CUT: u64 = 1 << 20;

/// Starts a registry with an image of one layer of a bit more than 3 MiB, compressed or not.
fn registry() -> Registry {
    let registry = Registry::start_plain();
    let folder = tempfile::tempdir().unwrap();
    let layer = Layer::new().file("file", noise(0, 3 * CUT as usize)).finish();
    let image = ImageBuilder::new().layer(layer);
    image.write_oci_layout(folder.path(), NAME);
    registry.push(&format!("oci:{}:{NAME}", folder.path().display()), NAME);
    registry
}

fn cutting(registry: &Registry, after: u64, ranges: bool, times: usize) -> FlakyProxy {
    let then = Then::Cut;
    let fault = Fault {
        after,
        then,
        ranges,
        times,
    };
    FlakyProxy::start(registry, fault)
}

/// Returns the `Range` of each request that was cut short.
fn spoilt(proxy: &FlakyProxy) -> Vec<String> {
    let ranges = proxy.spoilt().into_iter();
    ranges.map(|range| range.unwrap_or_else(|| "none".into())).collect()
}

#[test]
fn a_layer_goes_on_where_its_connection_broke() {
    let (capsid, registry) = (Capsid::empty(), registry());
    let proxy = cutting(&registry, CUT, true, usize::MAX);
    capsid.call(["pull", &proxy.reference(NAME)]).wait().succeeds();
    // No byte is asked for twice.
    assert_eq!(spoilt(&proxy), ["none", "bytes=1048576-", "bytes=2097152-"]);
}

#[test]
fn a_server_that_ignores_ranges_sends_the_layer_again() {
    let (capsid, registry) = (Capsid::empty(), registry());
    let proxy = cutting(&registry, CUT, false, 2);
    capsid.call(["pull", &proxy.reference(NAME)]).wait().succeeds();
    assert_eq!(spoilt(&proxy), ["none", "bytes=1048576-"]);
}

/// Five tries without new bytes are enough to give up.
#[test]
fn a_connection_that_always_breaks_is_given_up() {
    let (capsid, registry) = (Capsid::empty(), registry());
    capsid.call(["images"]).wait().succeeds();
    let before = capsid.files();
    let proxy = cutting(&registry, CUT, false, usize::MAX);
    let outcome = capsid.call(["pull", &proxy.reference(NAME)]).wait().exits(1);
    let outcome = outcome.complains("connection failed").complains_in_one_line();
    let again = vec!["bytes=1048576-"; 5];
    assert_eq!(spoilt(&proxy), [vec!["none"], again].concat());
    assert_eq!(capsid.files(), before, "left behind\n{outcome}");
}

#[test]
fn what_a_registry_refuses_is_told_with_its_words() {
    let (capsid, registry) = (Capsid::empty(), Recorder::start());
    let pull = || {
        capsid
            .call(["pull", &format!("127.0.0.1:{}/x", registry.port())])
            .wait()
    };
    registry.play(|_| Reply {
        status: "429 Too Many Requests",
        fields: vec![("retry-after", "3600".into())],
        body: r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#.into(),
    });
    let limited = pull().exits(1).complains_in_one_line();
    limited.complains("try again in 3600 s: TOOMANYREQUESTS slow down");
    registry.play(|head| match head.start.contains(" /v2/ ") {
        true => Reply::found(""),
        false => Reply::redirect("302 Found", "ftp://cdn.example/x?signature=secret"),
    });
    let led_away = pull().exits(1).complains_in_one_line();
    assert!(!led_away.stderr.contains("secret"), "{led_away}");
    led_away.complains("refused redirect to ftp://cdn.example/x: ");
}
