//! Rules about the sources that matter are checked here, not remembered: who depends on whom, what is never linked,
//! where unsafe code lives.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version=1",
            "--locked",
            "--offline",
            "--filter-platform=x86_64-unknown-linux-gnu",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn packages(metadata: &Value) -> &Vec<Value> {
    metadata["packages"].as_array().unwrap()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or("")
}

/// DESIGN's direction: the VMM knows no containers, the image crate no machines, the protocol nobody. The jail is
/// shared by whoever confines a process.
#[test]
fn workspace_crates_depend_in_one_direction() {
    let allowed = BTreeMap::from([
        ("capsid-protocol", vec![]),
        ("capsid-archive", vec![]),
        ("capsid-jail", vec![]),
        ("capsid-vmm", vec!["capsid-jail"]),
        ("capsid-fs", vec!["capsid-jail"]),
        ("capsid-image", vec!["capsid-archive", "capsid-jail"]),
        ("capsid-agent", vec!["capsid-archive", "capsid-protocol"]),
        (
            "capsid",
            vec![
                "capsid-archive",
                "capsid-image",
                "capsid-jail",
                "capsid-protocol",
                "capsid-vmm",
            ],
        ),
        (
            "capsid-tests",
            vec!["capsid", "capsid-image", "capsid-protocol", "capsid-vmm"],
        ),
    ]);
    let metadata = metadata();
    let members: BTreeSet<&str> = metadata["workspace_members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_str().unwrap())
        .collect();
    let members: Vec<&Value> = packages(&metadata)
        .iter()
        .filter(|package| members.contains(text(package, "id")))
        .collect();
    let names: BTreeSet<&str> = members.iter().map(|package| text(package, "name")).collect();
    for package in members {
        let name = text(package, "name");
        let permitted = allowed
            .get(name)
            .unwrap_or_else(|| panic!("{name} is new: give it a place in this test"));
        for dependency in package["dependencies"].as_array().unwrap() {
            let dependency = text(dependency, "name");
            let is_member = names.contains(dependency);
            assert!(
                !is_member || permitted.contains(&dependency),
                "{name} must not depend on {dependency}"
            );
        }
    }
}

/// The bans of `deny.toml` with what else must not meet in one binary.
#[test]
fn banned_crates_are_absent() {
    let banned = [
        "aws-lc-rs",
        "aws-lc-sys",
        "bincode",
        "cgroups-rs",
        "native-tls",
        "openssl",
        "openssl-sys",
        "tokio-tar",
        "virtio-vsock",
        "zbus",
    ];
    let metadata = metadata();
    for package in packages(&metadata) {
        let (name, version) = (text(package, "name"), text(package, "version"));
        assert!(
            !banned.contains(&name),
            "{name} {version} is banned: deny.toml says why"
        );
        if name == "tar" {
            let patch: u32 = version.rsplit('.').next().unwrap().parse().unwrap();
            assert!(
                version.starts_with("0.4.") && patch >= 46,
                "tar {version}: RUSTSEC-2026-0067"
            );
        }
    }
    let deny = fs::read_to_string(root().join("deny.toml")).unwrap();
    for name in banned {
        let named = deny.contains(&format!("\"{name}\"")) || name == "aws-lc-sys";
        assert!(named, "{name} is banned here but not in deny.toml");
    }
}

/// Types of two versions of these do not convert into each other: a member has one of each. (The file server's library
/// wants others than the VMM: two programs.)
#[test]
fn memory_crates_exist_once_in_each_member() {
    let metadata = metadata();
    let nodes: BTreeMap<&str, &Value> = metadata["resolve"]["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| (text(node, "id"), node))
        .collect();
    let names: BTreeMap<&str, &str> = packages(&metadata)
        .iter()
        .map(|package| (text(package, "id"), text(package, "name")))
        .collect();
    for member in metadata["workspace_members"].as_array().unwrap() {
        let mut reached = BTreeSet::new();
        let mut next = vec![member.as_str().unwrap()];
        while let Some(id) = next.pop() {
            if reached.insert(id) {
                next.extend(
                    nodes[id]["dependencies"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .filter_map(Value::as_str),
                );
            }
        }
        for name in ["vm-memory", "vmm-sys-util", "kvm-bindings", "virtio-queue"] {
            let versions: Vec<&&str> = reached.iter().filter(|id| names[**id] == name).collect();
            assert!(versions.len() <= 1, "{member}: {name} in versions {versions:?}");
        }
    }
}

/// Each crate can be used under a licence that `deny.toml` allows: one alternative of every OR.
#[test]
fn licences_are_allowed() {
    let deny = fs::read_to_string(root().join("deny.toml")).unwrap();
    let list = deny
        .split_once("allow = [")
        .and_then(|(_, rest)| rest.split_once(']'))
        .unwrap()
        .0;
    let allowed: BTreeSet<&str> = list.split('"').skip(1).step_by(2).collect();
    let metadata = metadata();
    for package in packages(&metadata) {
        // Old crates write "/" for OR.
        let expression = text(package, "license").replace('/', " OR ").replace(['(', ')'], " ");
        let fits = |alternative: &str| {
            alternative
                .split(" AND ")
                .all(|licence| allowed.contains(licence.trim()))
        };
        assert!(
            expression.split(" OR ").any(fits),
            "{} is under {expression:?}",
            text(package, "name")
        );
    }
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.') {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn all_sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    sources(&root(), &mut found);
    found
}

/// Unsafe code has one address per crate.
#[test]
fn unsafe_code_stays_at_its_address() {
    // In pieces, so that this file does not match itself.
    let marks = [
        ["allow(unsafe", "_code)"].concat(),
        ["expect(unsafe", "_code)"].concat(),
    ];
    for path in all_sources() {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let content = fs::read_to_string(&path).unwrap();
        let permits = marks.iter().any(|mark| content.contains(mark));
        assert!(
            !permits || ["sys.rs", "memory.rs"].contains(&name.as_str()) || declares_only(&content, &marks),
            "{}",
            path.display()
        );
    }
}

/// An allowance that stands on the declaration of the module with the address is the same address.
fn declares_only(content: &str, marks: &[String]) -> bool {
    let lines: Vec<&str> = content.lines().map(str::trim).collect();
    let permits = |line: &str| marks.iter().any(|mark| line.contains(mark.as_str()));
    lines
        .iter()
        .enumerate()
        .filter(|(_, line)| permits(line))
        .all(|(at, _)| {
            lines
                .get(at + 1)
                .is_some_and(|next| next.ends_with("mod sys;") || next.ends_with("mod memory;"))
        })
}

/// One noun a file: what grows past this has two.
#[test]
fn source_files_are_short() {
    for path in all_sources() {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= 600, "{}: {lines} lines", path.display());
    }
}

/// Doc comments can be read without what they stand at, in an editor's tooltip: they start with a noun phrase or a verb,
/// not with a pronoun or a question word.
#[test]
fn doc_comments_stand_alone() {
    let riddles = [
        "It", "Its", "Which", "What", "Those", "Who", "Whose", "They", "Where", "When", "How", "Why",
    ];
    let mut found = Vec::new();
    for path in all_sources() {
        let content = fs::read_to_string(&path).unwrap();
        let mut is_inside = false;
        for (number, line) in content.lines().enumerate() {
            let comment = ["///", "//!"]
                .iter()
                .find_map(|mark| line.trim_start().strip_prefix(mark));
            let first = comment.and_then(|text| text.split_whitespace().next()).unwrap_or("");
            let word = first.trim_end_matches(|c: char| !c.is_alphabetic());
            if !is_inside && riddles.contains(&word) {
                found.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
            is_inside = comment.is_some();
        }
    }
    assert!(found.is_empty(), "{} doc comments:\n{}", found.len(), found.join("\n"));
}

/// Modules directly below a crate's `src` or a module's folder, each with those of them that its code outside of tests
/// names after `prefix`.
fn module_graph(source: &Path, prefix: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut files = Vec::new();
    sources(source, &mut files);
    let module = |path: &Path| {
        let first = path.strip_prefix(source).unwrap().iter().next().unwrap();
        first.to_str().unwrap().trim_end_matches(".rs").to_owned()
    };
    let names: BTreeSet<String> = files.iter().map(|path| module(path)).collect();
    let mut graph = BTreeMap::new();
    let is_test = |path: &&PathBuf| path.iter().any(|part| part == "tests" || part == "tests.rs");
    for path in files.iter().filter(|path| !is_test(path)) {
        let content = fs::read_to_string(path).unwrap();
        let code: Vec<&str> = content
            .lines()
            .take_while(|line| line.trim() != "#[cfg(test)]")
            .map(|line| line.split("//").next().unwrap())
            .collect();
        let own = module(path);
        let named = named_after(prefix, &code.join(" "));
        let others = named.into_iter().filter(|name| names.contains(name) && *name != own);
        graph.entry(own.clone()).or_insert_with(BTreeSet::new).extend(others);
    }
    graph.remove("main");
    graph.remove("mod");
    graph
}

/// Names that follow a prefix such as `crate::`, alone or first in each part of a list in braces.
fn named_after(prefix: &str, code: &str) -> Vec<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let mut found = Vec::new();
    for rest in code.split(prefix).skip(1) {
        let Some(list) = rest.strip_prefix('{') else {
            found.push(word(rest));
            continue;
        };
        let mut depth = 0;
        let mut is_first = true;
        for (at, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => is_first = true,
                c if is_first && !c.is_whitespace() => {
                    found.push(word(&list[at..]));
                    is_first = false;
                }
                _ => {}
            }
        }
    }
    found
}

/// Takes modules away that depend on none of those left, until nothing changes: the rest is in cycles or above one.
fn cyclic(mut graph: BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    loop {
        let left: BTreeSet<String> = graph.keys().cloned().collect();
        graph.retain(|_, others| others.iter().any(|other| left.contains(other)));
        if graph.len() == left.len() {
            return left.into_iter().collect();
        }
    }
}

/// Plain data lies below everything: `model` names no sibling, and no module of `host-cli` is in an import cycle.
#[test]
fn host_modules_depend_in_one_direction() {
    let graph = module_graph(&root().join("host-cli/src"), "crate::");
    assert!(graph["model"].is_empty(), "model names {:?}", graph["model"]);
    assert!(graph["plan"].contains("model") && graph.len() > 40, "{graph:?}");
    assert_eq!(cyclic(graph), Vec::<String>::new());
}

/// Within the supervisor, as between the modules of the host's program.
#[test]
fn supervisor_modules_depend_in_one_direction() {
    let graph = module_graph(&root().join("host-cli/src/supervisor"), "super::");
    assert!(graph["client"].contains("orders") && graph.len() > 20, "{graph:?}");
    assert_eq!(cyclic(graph), Vec::<String>::new());
}

/// As in the host's program: mounts, namespaces and failures lie below those who use them.
#[test]
fn agent_modules_depend_in_one_direction() {
    let graph = module_graph(&root().join("guest-agent/src"), "crate::");
    assert!(graph["rootfs"].contains("mount") && graph.len() > 30, "{graph:?}");
    assert_eq!(cyclic(graph), Vec::<String>::new());
}
