//! Specs of processes that are derived from a container's own: exec processes, and tasks of the agent on its files.

use capsid_protocol::spec::mount::Source;
use capsid_protocol::spec::task::Kind;
use capsid_protocol::spec::{Mount, Task};
use capsid_protocol::{ContainerSpec, ExecSpec, TaskSpec};

use crate::control::ExecRequest;
use crate::plan;

/// Creates the spec of an exec process: the container's own, except for what the request changes.
pub(super) fn exec(spec: &ContainerSpec, id: String, request: &ExecRequest) -> ExecSpec {
    let mut env = spec.env.clone();
    for variable in &request.env {
        let name = variable.split('=').next().unwrap_or_default();
        env.retain(|known| known.split(|byte| *byte == b'=').next() != Some(name.as_bytes()));
        env.push(variable.clone().into_bytes());
    }
    let (capabilities, seccomp) = if request.privileged {
        (plan::all_capabilities(), Vec::new())
    } else {
        (spec.capabilities, spec.seccomp.clone())
    };
    ExecSpec {
        id,
        container: spec.id.clone(),
        args: request.args.clone(),
        env,
        cwd: request.cwd.clone().unwrap_or_else(|| spec.cwd.clone()),
        user: request.user.clone().unwrap_or_else(|| spec.user.clone()),
        additional_groups: spec.additional_groups.clone(),
        terminal: request.size(),
        stdin: request.stdin,
        capabilities,
        no_new_privs: spec.no_new_privs && !request.privileged,
        seccomp,
        rlimits: spec.rlimits.clone(),
    }
}

/// Creates the spec of a process that does `task` in a running container.
pub(super) fn task_beside(spec: &ContainerSpec, id: String, task: Task) -> TaskSpec {
    TaskSpec {
        id,
        stdin: takes_input(&task),
        task,
        // For a comparison: the location of the container's files, and what was created as mount points.
        container: ContainerSpec {
            id: spec.id.clone(),
            cwd: "/".into(),
            root: spec.root.clone(),
            mounts: spec.mounts.clone(),
            files: spec.files.clone(),
            devices: spec.devices.clone(),
            ..ContainerSpec::default()
        },
        is_running: true,
    }
}

/// Creates the container's spec with `task` in place of its program, alone in its machine whatever pod it is in.
pub(super) fn task_in_place(spec: &ContainerSpec, task: Task) -> TaskSpec {
    let is_own = |mount: &&Mount| !matches!(mount.source, Some(Source::PodShm(_)));
    TaskSpec {
        id: spec.id.clone(),
        stdin: takes_input(&task),
        task,
        container: ContainerSpec {
            pod: None,
            mounts: spec.mounts.iter().filter(is_own).cloned().collect(),
            terminal: None,
            discards_disks: false,
            ..spec.clone()
        },
        is_running: false,
    }
}

fn takes_input(task: &Task) -> bool {
    matches!(task.kind, Some(Kind::Unpack(_)))
}

#[cfg(test)]
mod tests {
    use capsid_protocol::spec::{Rlimit, TerminalSize, Unit, Unpack};

    use super::*;

    fn container() -> ContainerSpec {
        ContainerSpec {
            id: "c".into(),
            args: vec![b"server".to_vec()],
            env: vec![b"PATH=/bin".to_vec(), b"A=1".to_vec(), b"AB=2".to_vec()],
            cwd: "/srv".into(),
            user: "www".into(),
            capabilities: 0b1010,
            no_new_privs: true,
            seccomp: vec![1, 2, 3],
            rlimits: vec![Rlimit::default()],
            terminal: Some(TerminalSize { rows: 1, columns: 2 }),
            init: true,
            stdin: true,
            discards_disks: true,
            ..ContainerSpec::default()
        }
    }

    fn request() -> ExecRequest {
        ExecRequest {
            args: vec![b"sh".to_vec()],
            ..ExecRequest::default()
        }
    }

    #[test]
    fn an_exec_process_is_as_confined_as_its_container() {
        let spec = exec(&container(), "e".into(), &request());
        assert_eq!((spec.id.as_str(), spec.container.as_str()), ("e", "c"));
        assert_eq!(spec.args, [b"sh".to_vec()]);
        assert_eq!((spec.cwd.as_str(), spec.user.as_str()), ("/srv", "www"));
        assert_eq!((spec.capabilities, spec.no_new_privs), (0b1010, true));
        assert_eq!(spec.seccomp, [1, 2, 3]);
        assert_eq!(spec.rlimits.len(), 1);
        assert!(spec.terminal.is_none() && !spec.stdin);
    }

    #[test]
    fn an_exec_process_has_its_own_directory_user_and_terminal_where_it_asks() {
        let request = ExecRequest {
            cwd: Some("/tmp".into()),
            user: Some("0:0".into()),
            terminal: Some((24, 80)),
            stdin: true,
            ..request()
        };
        let spec = exec(&container(), "e".into(), &request);
        assert_eq!(
            (spec.cwd.as_str(), spec.user.as_str(), spec.stdin),
            ("/tmp", "0:0", true)
        );
        assert_eq!(spec.terminal, Some(TerminalSize { rows: 24, columns: 80 }));
    }

    #[test]
    fn a_variable_replaces_the_one_of_its_whole_name() {
        let request = ExecRequest {
            env: vec!["A=9".into(), "NEW=".into()],
            ..request()
        };
        let spec = exec(&container(), "e".into(), &request);
        let expected: [&[u8]; 4] = [b"PATH=/bin", b"AB=2", b"A=9", b"NEW="];
        assert_eq!(spec.env, expected);
    }

    #[test]
    fn a_privileged_exec_process_has_all_rights_in_the_machine() {
        let request = ExecRequest {
            privileged: true,
            ..request()
        };
        let spec = exec(&container(), "e".into(), &request);
        assert_eq!(spec.capabilities, plan::all_capabilities());
        assert!(spec.seccomp.is_empty() && !spec.no_new_privs);
    }

    #[test]
    fn a_task_takes_input_only_to_unpack() {
        let task = |kind| Task { kind: Some(kind) };
        let unpacks = task_beside(&container(), "t".into(), task(Kind::Unpack(Unpack::default())));
        assert!(unpacks.stdin && unpacks.is_running && unpacks.container.id == "c");
        let mounts = task_in_place(&container(), task(Kind::Mount(Unit {})));
        assert!(!mounts.stdin && !mounts.is_running);
    }

    #[test]
    fn a_task_in_place_of_the_program_is_alone_and_keeps_what_it_writes() {
        let pod_shm = Mount {
            source: Some(Source::PodShm(Unit {})),
            ..Mount::default()
        };
        let spec = ContainerSpec {
            mounts: vec![Mount::default(), pod_shm],
            pod: Some(Default::default()),
            ..container()
        };
        let task = Task {
            kind: Some(Kind::Mount(Unit {})),
        };
        let spec = task_in_place(&spec, task);
        let container = spec.container;
        assert!(container.pod.is_none() && container.terminal.is_none() && !container.discards_disks);
        assert_eq!((spec.id.as_str(), container.id.as_str()), ("c", "c"));
        assert_eq!(container.mounts.len(), 1);
    }
}
