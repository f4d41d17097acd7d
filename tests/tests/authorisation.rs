//! Who a pull is to a registry: tokens, identity tokens, docker's config and its credential helpers.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use capsid_tests::registry::{PASSWORD, USER, base64};
use capsid_tests::token_server::{Asked, IDENTITY};
use capsid_tests::{Capsid, ImageBuilder, Layer, Outcome, Registry, TokenServer};
use serde_json::{Value, json};

/// A registry that wants tokens, with one image for everybody and one for [`USER`], and a Capsid that knows nobody.
struct Scene {
    capsid: Capsid,
    registry: Registry,
    tokens: TokenServer,
}

impl Scene {
    fn new() -> Self {
        let tokens = TokenServer::start();
        let registry = Registry::start_with_tokens(&tokens);
        let folder = tempfile::tempdir().unwrap();
        let image = ImageBuilder::new().layer(Layer::new().file("a", "a").finish());
        drop(image.write_oci_layout(folder.path(), "x:1"));
        for name in ["public/x:1", "private/x:1"] {
            registry.push(&format!("oci:{}:x:1", folder.path().display()), name);
        }
        tokens.take_asked();
        let capsid = Capsid::empty();
        fs::create_dir_all(capsid.folder("home/.docker")).unwrap();
        fs::create_dir_all(capsid.folder("home/bin")).unwrap();
        Self {
            capsid,
            registry,
            tokens,
        }
    }

    /// The registry as docker's config names it.
    fn host(&self) -> String {
        self.registry.reference("").trim_end_matches('/').to_owned()
    }

    fn configure(&self, config: &Value) {
        fs::write(self.capsid.folder("home/.docker/config.json"), config.to_string()).unwrap();
    }

    /// A script in `PATH` under the name that docker gives its credential helpers.
    fn add_helper(&self, name: &str, script: &str) {
        let path = self.capsid.folder("home/bin").join(format!("docker-credential-{name}"));
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn pull(&self, name: &str) -> Outcome {
        let own = self.capsid.folder("home/bin");
        let inherited = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
        let folders = std::iter::once(own).chain(std::env::split_paths(&inherited));
        let path = std::env::join_paths(folders).unwrap();
        let call = self.capsid.call(["pull", &self.registry.reference(name)]);
        call.env("PATH", path).wait()
    }

    /// A pull of the private image that fails in one clear line, free of secrets, with nothing left behind.
    #[track_caller]
    fn assert_refused(&self, words: &str) {
        self.capsid.call(["images"]).wait().succeeds();
        let before = self.capsid.files();
        let outcome = self.pull("private/x:1").exits(1).complains_in_one_line();
        for secret in [PASSWORD, IDENTITY, "wrong-secret"] {
            assert!(!outcome.stderr.contains(secret), "a secret was told\n{outcome}");
        }
        assert!(outcome.stderr.len() < 1000, "too long\n{outcome}");
        assert!(outcome.took.as_secs() < 10, "too slow\n{outcome}");
        let outcome = outcome.complains(words);
        assert_eq!(self.capsid.files(), before, "left behind\n{outcome}");
    }
}

fn asked(method: &str, user: Option<&str>, repository: &str) -> Asked {
    Asked {
        method: method.into(),
        user: user.map(Into::into),
        scope: format!("repository:{repository}:pull"),
    }
}

/// What a helper prints for a user and a secret.
fn helper_prints(user: &str, secret: &str) -> String {
    let credentials = json!({"ServerURL": "x", "Username": user, "Secret": secret});
    format!("cat >/dev/null; echo '{credentials}'")
}

#[test]
fn a_token_is_given_to_anybody_for_what_is_public() {
    let scene = Scene::new();
    scene.pull("public/x:1").succeeds();
    assert_eq!(scene.tokens.take_asked(), [asked("GET", None, "public/x")]);
    scene.assert_refused("pull access denied");
}

#[test]
fn a_password_is_exchanged_for_a_token() {
    let scene = Scene::new();
    let auth = base64(format!("{USER}:{PASSWORD}").as_bytes());
    scene.configure(&json!({"auths": {scene.host(): {"auth": auth}}}));
    scene.pull("private/x:1").succeeds();
    assert_eq!(scene.tokens.take_asked(), [asked("GET", Some(USER), "private/x")]);
}

#[test]
fn an_identity_token_is_exchanged_for_a_token() {
    let scene = Scene::new();
    let auth = base64(b"00000000-0000-0000-0000-000000000000:");
    scene.configure(&json!({"auths": {scene.host(): {"auth": auth, "identitytoken": IDENTITY}}}));
    scene.pull("private/x:1").succeeds();
    assert_eq!(scene.tokens.take_asked(), [asked("POST", Some(USER), "private/x")]);
}

#[test]
fn wrong_credentials_are_one_clear_line() {
    let scene = Scene::new();
    let auth = base64(format!("{USER}:wrong-secret").as_bytes());
    scene.configure(&json!({"auths": {scene.host(): {"auth": auth}}}));
    scene.assert_refused("denied");
    scene.configure(&json!({"auths": {scene.host(): {"identitytoken": "wrong-secret"}}}));
    scene.assert_refused("denied");
}

#[test]
fn a_token_that_is_none_is_one_clear_line() {
    let scene = Scene::new();
    let odd = [
        (String::new(), "token"),
        ("no JSON".into(), "token"),
        ("{}".into(), "token"),
        (json!({"token": 7}).to_string(), "token"),
        (json!({"token": "a\r\nx-injected: b"}).to_string(), "token"),
        (json!({"token": "not one of the registry's"}).to_string(), "denied"),
        (json!({"token": "x".repeat(1 << 20)}).to_string(), "longer than"),
        // Within the bound on answers, but longer than the registry takes a header for.
        (json!({"token": "x".repeat(200 << 10)}).to_string(), ""),
        ("[".repeat(200_000), "token"),
    ];
    for (body, words) in odd {
        scene.tokens.answer_with(body);
        scene.assert_refused(words);
    }
}

#[test]
fn a_credential_helper_is_asked() {
    let scene = Scene::new();
    scene.add_helper("works", &helper_prints(USER, PASSWORD));
    scene.add_helper("knows-an-identity", &helper_prints("<token>", IDENTITY));
    // What docker's own helpers say of a registry that they do not know.
    let unknown = "cat >/dev/null; echo 'credentials not found in native keychain'; exit 1";
    scene.add_helper("knows-nobody", unknown);
    for config in [
        json!({"credHelpers": {scene.host(): "works"}, "credsStore": "missing"}),
        json!({"credHelpers": {scene.host(): "knows-an-identity"}}),
        json!({"credsStore": "works"}),
        json!({"credsStore": "works", "auths": {scene.host(): {}}}),
    ] {
        scene.configure(&config);
        scene.pull("private/x:1").succeeds();
        scene
            .capsid
            .call(["rmi", &scene.registry.reference("private/x:1")])
            .wait()
            .succeeds();
    }
    scene.configure(&json!({"credsStore": "knows-nobody"}));
    scene.assert_refused("pull access denied");
    scene.pull("public/x:1").succeeds();
}

#[test]
fn a_credential_helper_that_fails_is_one_clear_line() {
    let scene = Scene::new();
    let host = scene.host();
    let config = |name: &str| scene.configure(&json!({"credHelpers": {&host: name}}));
    scene.add_helper(
        "fails",
        "cat >/dev/null; echo wrong-secret; echo wrong-secret >&2; exit 3",
    );
    scene.add_helper("garbage", "cat >/dev/null; echo wrong-secret");
    scene.add_helper("endless", "exec yes wrong-secret");
    scene.add_helper("deaf", "exec </dev/null; echo '{'");
    config("missing");
    scene.assert_refused("docker-credential-missing");
    for name in ["fails", "garbage", "endless", "deaf"] {
        config(name);
        scene.assert_refused(&format!("docker-credential-{name}"));
    }
    fs::write(scene.capsid.folder("home/.docker/config.json"), "{ no JSON").unwrap();
    scene.assert_refused("config.json");
    scene.configure(&json!({"auths": {&host: {"auth": "###"}}}));
    scene.assert_refused("config.json");
}
