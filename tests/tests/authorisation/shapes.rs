//! Shapes of redirects and challenges that would lead credentials away from their registry.

use std::sync::Mutex;

use capsid_tests::{Recorder, Reply};
use serde_json::json;

/// Token that every token service of the shapes below gives. It is for the registry alone.
pub(crate) const TOKEN: &str = "a-token-for-the-registry";

/// Answers of a registry and another host, by which the other might get at credentials. `{own}` and `{other}` are their
/// ports on this host.
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    /// Answers of the registry to requests for the image, in order. Later answers are that there is no such image.
    pub(crate) registry: &'static [&'static str],
    /// Answer of the other host.
    pub(crate) other: &'static str,
    /// Expected complaint of the pull.
    pub(crate) words: &'static str,
}

pub(crate) const fn shape(
    name: &'static str,
    registry: &'static [&'static str],
    other: &'static str,
    words: &'static str,
) -> Shape {
    Shape {
        name,
        registry,
        other,
        words,
    }
}

pub(crate) const BASIC: &str = "401 Basic realm=\"x\"";
const OWN_BEARER: &str = "401 Bearer realm=\"http://127.0.0.1:{own}/token\"";
pub(crate) const OTHER_BEARER: &str = "401 Bearer realm=\"http://127.0.0.1:{other}/token\"";
pub(crate) const OTHER: &str = "302 http://127.0.0.1:{other}/x";

pub(crate) const SHAPES: &[Shape] = &[
    // A redirect whose target asks for a login.
    shape("302, basic", &[OTHER], BASIC, "asks for a login"),
    shape(
        "301, basic",
        &["301 http://127.0.0.1:{other}/x"],
        BASIC,
        "asks for a login",
    ),
    shape(
        "303, bearer",
        &["303 http://127.0.0.1:{other}/x"],
        OTHER_BEARER,
        "asks for a login",
    ),
    shape(
        "307, own realm",
        &["307 http://127.0.0.1:{other}/x"],
        OWN_BEARER,
        "asks for a login",
    ),
    shape(
        "308, other name",
        &["308 http://localhost:{other}/x"],
        BASIC,
        "asks for a login",
    ),
    shape(
        "own port, other name",
        &["302 http://localhost:{own}/x", BASIC],
        BASIC,
        "asks for a login",
    ),
    shape(
        "without scheme",
        &["302 //127.0.0.1:{other}/x"],
        BASIC,
        "asks for a login",
    ),
    shape(
        "IPv4 in hexadecimal",
        &["302 http://0x7f000001:{other}/x"],
        BASIC,
        "asks for a login",
    ),
    shape(
        "other user",
        &["302 http://u:p@127.0.0.1:{other}/x"],
        BASIC,
        "credentials in its address",
    ),
    shape(
        "own host as user",
        &["302 http://127.0.0.1:{own}@127.0.0.1:{other}/x"],
        BASIC,
        "credentials in its address",
    ),
    shape(
        "there and back",
        &[OTHER, BASIC],
        "302 http://127.0.0.1:{own}/v2/back",
        "asks for a login",
    ),
    shape("for ever", &[OTHER], "302 http://127.0.0.1:{other}/y", "redirect"),
    shape(
        "by another scheme",
        &["302 ftp://127.0.0.1:{other}/x"],
        BASIC,
        "refused redirect",
    ),
    // A redirect of a request with credentials.
    shape("after basic", &[BASIC, OTHER], "404", "no such image"),
    shape("after basic, asks again", &[BASIC, OTHER], BASIC, "asks for a login"),
    shape("after bearer", &[OWN_BEARER, OTHER], "404", "no such image"),
    shape(
        "after bearer, asks again",
        &[OWN_BEARER, OTHER],
        OTHER_BEARER,
        "asks for a login",
    ),
    shape(
        "after bearer, there and back",
        &[OWN_BEARER, OTHER, BASIC],
        "302 http://127.0.0.1:{own}/v2/back",
        "asks for a login",
    ),
    // A realm on another host.
    shape("other port", &[OTHER_BEARER], "404", "is not its own"),
    shape(
        "other name",
        &["401 Bearer realm=\"http://localhost:{other}/token\""],
        "404",
        "is not its own",
    ),
    shape(
        "own port of other name",
        &["401 Bearer realm=\"http://localhost:{own}/token\""],
        "404",
        "is not its own",
    ),
    shape(
        "realm by https",
        &["401 Bearer realm=\"https://127.0.0.1:{other}/token\""],
        "404",
        "is not its own",
    ),
    shape(
        "realm with user",
        &["401 Bearer realm=\"http://127.0.0.1:{own}@127.0.0.1:{other}/token\""],
        "404",
        "invalid token realm",
    ),
    shape(
        "realm by mapped address",
        &["401 Bearer realm=\"http://[::ffff:127.0.0.1]:{other}/token\""],
        "404",
        "is not its own",
    ),
    shape(
        "other of two headers",
        &["401 Bearer realm=\"http://127.0.0.1:{other}/token\"\nBasic realm=\"x\""],
        "404",
        "is not its own",
    ),
    shape(
        "two realms in one",
        &["401 Bearer realm=\"http://127.0.0.1:{own}/token\",realm=\"http://127.0.0.1:{other}/token\""],
        "404",
        "denied",
    ),
    shape(
        "realm of a file",
        &["401 Bearer realm=\"file:///etc/passwd\""],
        "404",
        "invalid token realm",
    ),
    shape(
        "relative realm",
        &["401 Bearer realm=\"/token\""],
        "404",
        "invalid token realm",
    ),
    shape(
        "service that redirects",
        &["401 Bearer realm=\"http://127.0.0.1:{own}/leads-away\""],
        "404",
        "token service redirects",
    ),
    // Shapes without a fault.
    shape("basic", &[BASIC], "404", ""),
    shape("bearer", &[OWN_BEARER], "404", "no such image"),
    shape(
        "own redirect",
        &["302 /v2/moved", OWN_BEARER, "302 /v2/moved"],
        "404",
        "no such image",
    ),
];

/// Parses a reply, `STATUS WORDS`: a redirect, challenges a line each, or another status.
fn reply(text: &str, own: u16, other: u16) -> Reply {
    let text = text
        .replace("{own}", &own.to_string())
        .replace("{other}", &other.to_string());
    match text.split_once(' ') {
        Some(("401", challenges)) => Reply::challenge(challenges.lines()),
        Some(("301", location)) => Reply::redirect("301 Moved Permanently", location),
        Some(("302", location)) => Reply::redirect("302 Found", location),
        Some(("303", location)) => Reply::redirect("303 See Other", location),
        Some(("307", location)) => Reply::redirect("307 Temporary Redirect", location),
        Some(("308", location)) => Reply::redirect("308 Permanent Redirect", location),
        _ => Reply::missing(),
    }
}

/// Lets the registry and the other host answer by a shape.
pub(crate) fn play(shape: &Shape, registry: &Recorder, other: &Recorder) {
    let (own, others) = (registry.port(), other.port());
    let token = || Reply::found(json!({"token": TOKEN}).to_string());
    let answers: Vec<Reply> = shape.registry.iter().map(|text| reply(text, own, others)).collect();
    let answers = Mutex::new(answers.into_iter());
    registry.play(move |request| match request.target().split('?').next() {
        Some("/v2/") => Reply::found("{}"),
        Some("/token") => token(),
        Some("/leads-away") => reply("307 http://127.0.0.1:{other}/token", own, others),
        _ => answers.lock().unwrap().next().unwrap_or_else(Reply::missing),
    });
    let answer = reply(shape.other, own, others);
    other.play(move |request| {
        let is_token = request.target().starts_with("/token");
        if is_token { token() } else { answer.clone() }
    });
}
