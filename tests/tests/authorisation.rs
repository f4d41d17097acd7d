//! Identity of a pull towards a registry: tokens, identity tokens, docker's config and its credential helpers.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use capsid_tests::invocation::{eventually, wait_until};
use capsid_tests::registry::{PASSWORD, USER, base64, write_private};
use capsid_tests::token_server::{Asked, IDENTITY};
use capsid_tests::{Capsid, ImageBuilder, Invocation, Layer, Outcome, Recorder, Registry, Reply, TokenServer};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

#[path = "authorisation/shapes.rs"]
mod shapes;

use shapes::{BASIC, OTHER, OTHER_BEARER, SHAPES, TOKEN, play, shape};

/// Registry that wants tokens, with one image for everybody and one for [`USER`], and a Capsid that knows nobody.
struct Setup {
    capsid: Capsid,
    registry: Registry,
    tokens: TokenServer,
}

impl Setup {
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
        let setup = Self {
            capsid,
            registry,
            tokens,
        };
        // Plain HTTP on another port may be another user's.
        name_token_realm(&setup.capsid, &setup.host(), &setup.tokens.host());
        setup
    }

    /// Returns the registry as docker's config names it.
    fn host(&self) -> String {
        self.registry.reference("").trim_end_matches('/').to_owned()
    }

    fn configure(&self, config: &Value) {
        configure(&self.capsid, config);
    }

    /// Writes a script to `PATH` under the name that docker gives its credential helpers.
    fn add_helper(&self, name: &str, script: &str) {
        let path = self.capsid.folder("home/bin").join(format!("docker-credential-{name}"));
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn pull(&self, name: &str) -> Outcome {
        self.pull_call(name).wait()
    }

    fn pull_call(&self, name: &str) -> Invocation {
        let own = self.capsid.folder("home/bin");
        let inherited = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
        let folders = std::iter::once(own).chain(std::env::split_paths(&inherited));
        let path = std::env::join_paths(folders).unwrap();
        let call = self.capsid.call(["pull", &self.registry.reference(name)]);
        call.env("PATH", path)
    }

    /// Pulls the private image, which fails in one clear line, free of secrets, with nothing left behind.
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

fn configure(capsid: &Capsid, config: &Value) {
    write_private(&capsid.folder("home/.docker/config.json"), &config.to_string());
}

/// Permits a token service for a registry.
fn name_token_realm(capsid: &Capsid, registry: &str, host: &str) {
    let folder = capsid.folder("home/.config/capsid");
    fs::create_dir_all(&folder).unwrap();
    let text = format!("[registries.\"{registry}\"]\ntoken_realms = [\"{host}\"]\n");
    fs::write(folder.join("config.toml"), text).unwrap();
}

fn asked(method: &str, user: Option<&str>, repository: &str) -> Asked {
    Asked {
        method: method.into(),
        user: user.map(Into::into),
        scope: format!("repository:{repository}:pull"),
    }
}

/// Returns a script that prints user and secret like a helper.
fn helper_prints(user: &str, secret: &str) -> String {
    let credentials = json!({"ServerURL": "x", "Username": user, "Secret": secret});
    format!("cat >/dev/null; echo '{credentials}'")
}

#[test]
fn a_token_is_given_to_anybody_for_what_is_public() {
    let setup = Setup::new();
    setup.pull("public/x:1").succeeds();
    assert_eq!(setup.tokens.take_asked(), [asked("GET", None, "public/x")]);
    setup.assert_refused("pull access denied");
}

#[test]
fn a_password_is_exchanged_for_a_token() {
    let setup = Setup::new();
    let auth = base64(format!("{USER}:{PASSWORD}").as_bytes());
    setup.configure(&json!({"auths": {setup.host(): {"auth": auth}}}));
    setup.pull("private/x:1").succeeds();
    assert_eq!(setup.tokens.take_asked(), [asked("GET", Some(USER), "private/x")]);
}

#[test]
fn an_identity_token_is_exchanged_for_a_token() {
    let setup = Setup::new();
    let auth = base64(b"00000000-0000-0000-0000-000000000000:");
    setup.configure(&json!({"auths": {setup.host(): {"auth": auth, "identitytoken": IDENTITY}}}));
    setup.pull("private/x:1").succeeds();
    assert_eq!(setup.tokens.take_asked(), [asked("POST", Some(USER), "private/x")]);
}

#[test]
fn wrong_credentials_are_one_clear_line() {
    let setup = Setup::new();
    let auth = base64(format!("{USER}:wrong-secret").as_bytes());
    setup.configure(&json!({"auths": {setup.host(): {"auth": auth}}}));
    setup.assert_refused("denied");
    setup.configure(&json!({"auths": {setup.host(): {"identitytoken": "wrong-secret"}}}));
    setup.assert_refused("denied");
}

#[test]
fn a_token_that_is_none_is_one_clear_line() {
    let setup = Setup::new();
    let odd = [
        (String::new(), "token"),
        ("no JSON".into(), "token"),
        ("{}".into(), "token"),
        (json!({"token": 7}).to_string(), "token"),
        (json!({"token": "a\r\nx-injected: b"}).to_string(), "token"),
        (json!({"token": "not one of the registry's"}).to_string(), "denied"),
        (json!({"token": "x".repeat(1 << 20)}).to_string(), "longer than"),
        // Within the bound on answers, but longer than the registry accepts in a header.
        (json!({"token": "x".repeat(200 << 10)}).to_string(), ""),
        ("[".repeat(200_000), "token"),
    ];
    for (body, words) in odd {
        setup.tokens.answer_with(body);
        setup.assert_refused(words);
    }
}

#[test]
fn a_credential_helper_is_asked() {
    let setup = Setup::new();
    setup.add_helper("works", &helper_prints(USER, PASSWORD));
    setup.add_helper("knows-an-identity", &helper_prints("<token>", IDENTITY));
    // Docker's own helpers report this for a registry that they do not know.
    let unknown = "cat >/dev/null; echo 'credentials not found in native keychain'; exit 1";
    setup.add_helper("knows-nobody", unknown);
    for config in [
        json!({"credHelpers": {setup.host(): "works"}, "credsStore": "missing"}),
        json!({"credHelpers": {setup.host(): "knows-an-identity"}}),
        json!({"credsStore": "works"}),
        json!({"credsStore": "works", "auths": {setup.host(): {}}}),
    ] {
        setup.configure(&config);
        setup.pull("private/x:1").succeeds();
        setup
            .capsid
            .call(["rmi", &setup.registry.reference("private/x:1")])
            .wait()
            .succeeds();
    }
    setup.configure(&json!({"credsStore": "knows-nobody"}));
    setup.assert_refused("pull access denied");
    setup.pull("public/x:1").succeeds();
}

#[test]
fn a_credential_helper_that_fails_is_one_clear_line() {
    let setup = Setup::new();
    let host = setup.host();
    let config = |name: &str| setup.configure(&json!({"credHelpers": {&host: name}}));
    setup.add_helper(
        "fails",
        "cat >/dev/null; echo wrong-secret; echo wrong-secret >&2; exit 3",
    );
    setup.add_helper("garbage", "cat >/dev/null; echo wrong-secret");
    setup.add_helper("endless", "exec yes wrong-secret");
    setup.add_helper("deaf", "exec </dev/null; echo '{'");
    setup.add_helper("shouts", "exec yes wrong-secret >&2");
    config("missing");
    setup.assert_refused("docker-credential-missing");
    for name in ["fails", "garbage", "endless", "deaf", "shouts"] {
        config(name);
        setup.assert_refused(&format!("docker-credential-{name}"));
    }
    for name in ["endless", "shouts"] {
        config(name);
        setup.assert_refused("more than 1048576 bytes");
    }
    // The helper of that name exists, one folder up.
    setup.add_helper("x", "echo $0");
    for name in ["../bin/docker-credential-x", "/bin/sh", "x/../x", "-x"] {
        config(name);
        setup.assert_refused("invalid name of a credential helper");
    }
    fs::write(setup.capsid.folder("home/.docker/config.json"), "{ no JSON").unwrap();
    setup.assert_refused("config.json");
    setup.configure(&json!({"auths": {&host: {"auth": "###"}}}));
    setup.assert_refused("config.json");
}

/// Returns a helper that records its own pid and its child's, and then runs `script`.
fn with_child(script: &str) -> String {
    format!("sleep 1000 & echo $$ $! >\"$HOME/pids.new\"; mv \"$HOME/pids.new\" \"$HOME/pids\"; {script}")
}

/// Returns the helper's running processes.
fn helper_processes(capsid: &Capsid) -> Vec<String> {
    let pids = fs::read_to_string(capsid.folder("home/pids")).unwrap_or_default();
    let runs = |pid: &&str| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
        state.is_some_and(|state| !"ZX".contains(state))
    };
    pids.split_whitespace().filter(runs).map(str::to_owned).collect()
}

/// Test that takes the time limit of a helper: ten seconds.
#[test]
fn a_credential_helper_that_hangs_ends_with_its_children() {
    let setup = Setup::new();
    setup.add_helper("hangs", &with_child("wait"));
    setup.configure(&json!({"credsStore": "hangs"}));
    let outcome = setup.pull("private/x:1").exits(1).complains_in_one_line();
    let outcome = outcome.complains("docker-credential-hangs did not answer within 10 s");
    assert!(outcome.took < Duration::from_secs(15), "too slow\n{outcome}");
    eventually("the helper ends", 5, || helper_processes(&setup.capsid).is_empty());
}

#[test]
fn a_credential_helper_ends_with_the_pull() {
    let setup = Setup::new();
    setup.add_helper("hangs", &with_child("wait"));
    setup.configure(&json!({"credsStore": "hangs"}));
    for (signal, left) in [(Signal::SIGINT, 0), (Signal::SIGTERM, 0), (Signal::SIGKILL, 1)] {
        let _ = fs::remove_file(setup.capsid.folder("home/pids"));
        let call = setup.pull_call("private/x:1");
        let mut child = call.spawn_with(|command| {
            command.stdout(Stdio::null()).stderr(Stdio::null());
        });
        eventually("the helper runs", 10, || helper_processes(&setup.capsid).len() == 2);
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        let ended = wait_until(&mut child, Instant::now() + Duration::from_secs(2));
        assert!(ended.is_some(), "{signal} does not end a pull");
        // Nobody is left to kill the children of a helper when the pull is killed; the helper itself ends with it.
        eventually("the helper ends", 5, || helper_processes(&setup.capsid).len() <= left);
        for pid in helper_processes(&setup.capsid) {
            kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGKILL).unwrap();
        }
    }
}

#[test]
fn a_credential_helper_that_answers_takes_its_children_along() {
    let setup = Setup::new();
    // The child keeps the helper's stdout open.
    setup.add_helper("leaves", &with_child(&helper_prints(USER, PASSWORD)));
    setup.configure(&json!({"credsStore": "leaves"}));
    let outcome = setup.pull("private/x:1").succeeds();
    assert!(outcome.took < Duration::from_secs(5), "too slow\n{outcome}");
    assert_eq!(helper_processes(&setup.capsid), [""; 0]);
}

#[test]
fn credentials_that_others_can_read_are_warned_of() {
    let setup = Setup::new();
    let path = setup.capsid.folder("home/.docker/config.json");
    let auth = base64(format!("{USER}:{PASSWORD}").as_bytes());
    let secrets = json!({"auths": {setup.host(): {"auth": auth}}});
    for (config, mode, warns) in [
        (&secrets, 0o640, true),
        (&secrets, 0o600, false),
        (&json!({}), 0o644, false),
    ] {
        setup.configure(config);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let outcome = setup.pull("public/x:1").succeeds();
        let warnings = outcome.stderr.matches("chmod 600").count();
        assert_eq!(warnings, usize::from(warns), "{mode:o}\n{outcome}");
    }
}

/// Returns every form in which a secret could be sent.
fn secrets() -> Vec<String> {
    let basic = base64(format!("{USER}:{PASSWORD}").as_bytes());
    let form = PASSWORD.replace(' ', "+");
    let escaped = PASSWORD.replace(' ', "%20");
    [PASSWORD, &basic, &form, &escaped, IDENTITY, TOKEN]
        .map(str::to_owned)
        .to_vec()
}

fn sees_secret(recorder: &Recorder) -> bool {
    let text = recorder.text();
    secrets().iter().any(|secret| text.contains(secret.as_str()))
}

/// Pulls a missing image from `registry`, with a client that has credentials.
fn pull_from(capsid: &Capsid, registry: &str, flags: &[&str], entry: &Value) -> Invocation {
    configure(capsid, &json!({"auths": {registry: entry}}));
    let image = format!("{registry}/x:1");
    capsid.call([&["pull"], flags, &[image.as_str()]].concat())
}

fn entries() -> [Value; 2] {
    let auth = base64(format!("{USER}:{PASSWORD}").as_bytes());
    [json!({"auth": auth}), json!({"identitytoken": IDENTITY})]
}

#[test]
fn credentials_are_seen_by_the_registry_alone() {
    let (capsid, registry, other) = (Capsid::empty(), Recorder::start(), Recorder::start());
    fs::create_dir_all(capsid.folder("home/.docker")).unwrap();
    let name = format!("127.0.0.1:{}", registry.port());
    for shape in SHAPES {
        for entry in entries() {
            play(shape, &registry, &other);
            let outcome = pull_from(&capsid, &name, &[], &entry)
                .wait()
                .exits(1)
                .complains_in_one_line();
            assert!(!sees_secret(&other), "{}: {}\n{outcome}", shape.name, other.text());
            // A basic challenge does not ask for an identity token.
            let answers = entry.get("auth").is_some() || !shape.registry.contains(&BASIC);
            assert!(
                !answers || outcome.stderr.contains(shape.words),
                "{}: expected {:?}\n{outcome}",
                shape.name,
                shape.words
            );
            let is_asked = matches!(shape.name, "bearer" | "own redirect") || (shape.name == "basic" && answers);
            assert!(!is_asked || sees_secret(&registry), "{}\n{outcome}", shape.name);
        }
    }
}

#[test]
fn a_token_service_that_the_user_named_gets_credentials() {
    let (capsid, registry, other) = (Capsid::empty(), Recorder::start(), Recorder::start());
    fs::create_dir_all(capsid.folder("home/.docker")).unwrap();
    let name = format!("127.0.0.1:{}", registry.port());
    name_token_realm(&capsid, &name, &format!("127.0.0.1:{}", other.port()));
    let shape = shape("named", &[OTHER_BEARER, OTHER], "404", "no such image");
    for (entry, secret) in entries().iter().zip([1, 4]) {
        play(&shape, &registry, &other);
        let outcome = pull_from(&capsid, &name, &[], entry)
            .wait()
            .exits(1)
            .complains(shape.words);
        assert!(other.text().contains(&secrets()[secret]), "{}\n{outcome}", other.text());
        assert!(registry.text().contains(TOKEN), "{}\n{outcome}", registry.text());
        // Neither the registry gets the user's secret, nor a host that it redirects to the token.
        assert!(!registry.text().contains(&secrets()[secret]), "{outcome}");
        assert!(!other.text().contains(TOKEN), "{}\n{outcome}", other.text());
    }
}

/// Test with a proxy that plays the internet: a request for any name is seen there.
#[test]
fn a_public_registry_does_not_lead_into_private_networks() {
    let (capsid, internet, local) = (Capsid::empty(), Recorder::start(), Recorder::start());
    fs::create_dir_all(capsid.folder("home/.docker")).unwrap();
    let [entry, _] = entries();
    let pull = |target: &str| {
        let location = target.replace("{port}", &local.port().to_string());
        internet.play(move |request| match request.target() {
            "http://registry.example/v2/" => Reply::found("{}"),
            target if target.starts_with("http://registry.example/") => {
                Reply::redirect("307 Temporary Redirect", &location)
            }
            _ => Reply::missing(),
        });
        local.play(|_| Reply::missing());
        let proxy = format!("http://127.0.0.1:{}", internet.port());
        let call = pull_from(
            &capsid,
            "registry.example",
            &["--insecure-registry", "registry.example"],
            &entry,
        );
        let call = call.env("http_proxy", &proxy).env("https_proxy", &proxy);
        let outcome = call.wait().exits(1).complains_in_one_line();
        assert!(!sees_secret(&internet) && !sees_secret(&local), "{target}\n{outcome}");
        assert_eq!(local.text(), "", "{target}\n{outcome}");
        outcome
    };
    for target in [
        "http://127.0.0.1:{port}/",
        "http://2130706433:{port}/",
        "http://[::1]:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/",
        "http://0:{port}/",
        "http://10.0.0.1/",
        "http://192.168.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[fd00:ec2::254]/",
        "https://172.16.0.1/",
    ] {
        let outcome = pull(target).complains("refused to connect");
        let requests: Vec<_> = internet
            .text()
            .lines()
            .filter(|line| line.starts_with("GET "))
            .map(String::from)
            .collect();
        let is_own = |line: &String| line.starts_with("GET http://registry.example/");
        assert!(
            !requests.is_empty() && requests.iter().all(is_own),
            "{target}: {requests:?}\n{outcome}"
        );
    }
    pull("http://store.example/x").complains("no such image");
    assert!(internet.text().contains("GET http://store.example/x"));
}
