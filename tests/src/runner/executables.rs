//! Test executables that cargo has built, and the tests in them.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

/// Test executable.
#[derive(Debug, Clone)]
pub(crate) struct Executable {
    /// Name of the suite (`run`), or of the crate and its target (`capsid-vmm`, `capsid-image/store`).
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// Folder of the executable's package, where cargo runs tests.
    pub(crate) folder: PathBuf,
    /// Whether the executable is an end-to-end suite of `tests/tests`.
    pub(crate) is_suite: bool,
    /// Whether the executable was made for tests alone; that of a crate may have none.
    pub(crate) is_integration: bool,
    /// Names of the tests.
    pub(crate) tests: Vec<String>,
}

/// All test executables.
#[derive(Debug)]
pub(crate) struct Executables(pub(crate) Vec<Executable>);

impl Executables {
    /// Asks cargo for the executables; cargo builds missing ones.
    pub(crate) fn find() -> Result<Self, String> {
        let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["test", "--locked", "--workspace", "--no-run", "--message-format=json"])
            .stderr(Stdio::inherit())
            .output()
            .map_err(|error| format!("cargo: {error}"))?;
        if !output.status.success() {
            return Err(format!("cargo cannot build the tests: {}", output.status));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let mut found: Vec<Executable> = text.lines().filter_map(parse_message).collect();
        for executable in &mut found {
            executable.tests = list_tests(executable)?;
        }
        Ok(Self(found))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Executable> {
        self.0.iter()
    }

    /// Returns the end-to-end suite of this name.
    pub(crate) fn suite(&self, name: &str) -> Option<&Executable> {
        self.0
            .iter()
            .find(|executable| executable.is_suite && executable.name == name)
    }
}

fn list_tests(executable: &Executable) -> Result<Vec<String>, String> {
    let output = Command::new(&executable.path)
        .args(["--list", "--format", "terse"])
        .current_dir(&executable.folder)
        .output()
        .map_err(|error| format!("{}: {error}", executable.path.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let names = text.lines().filter_map(|line| line.strip_suffix(": test"));
    let names: Vec<String> = names.map(str::to_owned).collect();
    // An executable that does not know the flag would be left out in silence.
    if !output.status.success() || (executable.is_integration && names.is_empty()) {
        return Err(format!(
            "{} does not list its tests: {}",
            executable.name, output.status
        ));
    }
    Ok(names)
}

/// Parses a line of cargo's `--message-format=json` (cargo's reference, "External tools"): `None` if it is not a test.
fn parse_message(line: &str) -> Option<Executable> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let path = PathBuf::from(message["executable"].as_str()?);
    let folder = PathBuf::from(message["manifest_path"].as_str()?).parent()?.to_owned();
    let target = message["target"]["name"].as_str()?;
    let is_integration = message["target"]["kind"][0] == "test";
    let package = folder.file_name()?.to_str()?;
    let is_suite = is_integration && package == "tests";
    let name = match (is_suite, is_integration) {
        (true, _) => target.to_owned(),
        (false, true) => format!("{package}/{target}"),
        (false, false) => format!("{package}:{target}"),
    };
    Some(Executable {
        name,
        path,
        folder,
        is_suite,
        is_integration,
        tests: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: &str, target: &str, manifest: &str, is_test: bool) -> String {
        serde_json::json!({
            "reason": "compiler-artifact",
            "manifest_path": manifest,
            "profile": { "test": is_test },
            "target": { "kind": [kind], "name": target },
            "executable": "/target/debug/deps/x",
        })
        .to_string()
    }

    #[test]
    fn suites_and_unit_tests_are_told_apart() {
        let suite = parse_message(&message("test", "run", "/src/tests/Cargo.toml", true)).expect("a suite");
        assert_eq!((suite.name.as_str(), suite.is_suite), ("run", true));
        let other = parse_message(&message("test", "store", "/src/image/Cargo.toml", true)).expect("a test");
        assert_eq!((other.name.as_str(), other.is_suite), ("image/store", false));
        let unit = parse_message(&message("lib", "capsid_vmm", "/src/vmm/Cargo.toml", true)).expect("a test");
        assert_eq!((unit.name.as_str(), unit.is_suite), ("vmm:capsid_vmm", false));
        assert_eq!(unit.folder, PathBuf::from("/src/vmm"));
    }

    #[test]
    fn an_executable_that_lists_no_tests_is_an_error() {
        let executable = |path: &str| Executable {
            name: "image/store".to_owned(),
            path: PathBuf::from(path),
            folder: PathBuf::from("/"),
            is_suite: false,
            is_integration: true,
            tests: Vec::new(),
        };
        for path in ["true", "false"] {
            let refused = list_tests(&executable(path)).expect_err("no tests");
            assert!(refused.contains("image/store does not list its tests"), "{refused}");
        }
    }

    #[test]
    fn what_is_no_test_is_left_out() {
        assert!(parse_message(&message("bin", "capsid", "/src/host-cli/Cargo.toml", false)).is_none());
        assert!(parse_message("{\"reason\":\"build-finished\",\"success\":true}").is_none());
        assert!(parse_message("warning: words").is_none());
    }
}
