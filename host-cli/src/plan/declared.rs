//! Properties from image and flags that a container's spec does not keep separately, for `inspect` and filters.

use std::collections::BTreeSet;

use capsid_image::ImageConfig;

use crate::cli::RunArgs;
use crate::model::Declared;

/// Builds docker's config of a container from flags and image.
pub(crate) fn declared(args: &RunArgs, command: &[Vec<u8>], image: &ImageConfig) -> Declared {
    let text = |word: &Vec<u8>| String::from_utf8_lossy(word).into_owned();
    let (entrypoint, default_cmd) = match args.entrypoint.as_deref() {
        Some("") => (Vec::new(), Vec::new()),
        Some(program) => (vec![program.to_owned()], Vec::new()),
        None => (image.entrypoint.clone(), image.cmd.clone()),
    };
    let cmd = match command {
        [] => default_cmd,
        command => command.iter().map(text).collect(),
    };
    let exposed = image.exposed_ports.iter().chain(&args.network.expose);
    let exposed: BTreeSet<String> = exposed.map(|port| exposed_port(port)).collect();
    let anonymous = args.volume.iter().filter(|flag| !flag.contains(':'));
    let volumes: BTreeSet<String> = image.volumes.iter().chain(anonymous).cloned().collect();
    Declared {
        entrypoint,
        cmd,
        exposed_ports: exposed.into_iter().collect(),
        volumes: volumes.into_iter().collect(),
        binds: args.volume.iter().filter(|flag| flag.contains(':')).cloned().collect(),
        cap_add: args.cap_add.clone(),
        cap_drop: args.cap_drop.clone(),
        security_opt: args.security_opt.clone(),
    }
}

/// Formats an exposed port as docker does: `80/tcp`.
fn exposed_port(text: &str) -> String {
    let port = text.to_ascii_lowercase();
    match port.contains('/') {
        true => port,
        false => format!("{port}/tcp"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn of(flags: &str, command: &[&str]) -> Declared {
        let image = r#"{"architecture": "amd64", "os": "linux", "config": {"Entrypoint": ["/entry"], "Cmd": ["serve"],
            "ExposedPorts": {"80": {}, "53/UDP": {}}, "Volumes": {"/data": {}}},
            "rootfs": {"type": "layers", "diff_ids": []}}"#;
        let image = ImageConfig::parse(image.as_bytes()).unwrap();
        let line = format!("capsid run {flags} image");
        let Command::Run(args) = Cli::try_parse_from(line.split_whitespace()).unwrap().command else {
            unreachable!("the verb is run")
        };
        let command: Vec<Vec<u8>> = command.iter().map(|word| word.as_bytes().to_vec()).collect();
        declared(&args, &command, &image)
    }

    #[test]
    fn entrypoint_and_command_stay_apart() {
        let words = |declared: Declared| (declared.entrypoint, declared.cmd);
        let list = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(words(of("", &[])), (list(&["/entry"]), list(&["serve"])));
        assert_eq!(words(of("", &["sh", "-c"])), (list(&["/entry"]), list(&["sh", "-c"])));
        assert_eq!(words(of("--entrypoint sh", &[])), (list(&["sh"]), list(&[])));
        assert_eq!(words(of("--entrypoint= ", &["id"])), (list(&[]), list(&["id"])));
    }

    #[test]
    fn images_and_flags_add_up() {
        let declared = of("--expose 9000 -v /cache -v name:/x:ro --cap-drop ALL", &[]);
        assert_eq!(declared.exposed_ports, ["53/udp", "80/tcp", "9000/tcp"]);
        assert_eq!(
            (declared.volumes, declared.binds),
            (vec!["/cache".into(), "/data".into()], vec!["name:/x:ro".into()])
        );
        assert_eq!(declared.cap_drop, ["ALL"]);
    }
}
