//! `capsid run`: docker's command lines have docker's effects.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use capsid_tests::environment::patience;
use capsid_tests::invocation::{eventually, wait_until};
use capsid_tests::resident::descendants;
use capsid_tests::{Capsid, Layer};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

#[test]
fn echo_prints_its_words() {
    let capsid = Capsid::with_busybox();
    capsid.run(["busybox", "echo", "hi"]).succeeds().prints("hi\n");
}

#[test]
fn stdin_reaches_the_container_and_ends() {
    let capsid = Capsid::with_busybox();
    capsid
        .run_call(["-i", "busybox", "cat"])
        .input("hi\n")
        .wait()
        .succeeds()
        .prints("hi\n");
}

#[test]
fn without_interactive_stdin_is_empty() {
    let capsid = Capsid::with_busybox();
    capsid
        .run_call(["busybox", "cat"])
        .input("not for you")
        .wait()
        .succeeds()
        .prints("");
}

#[test]
fn exit_codes_come_back() {
    let capsid = Capsid::with_busybox();
    for code in [0, 1, 42, 124, 255] {
        capsid.run(["busybox", "sh", "-c", &format!("exit {code}")]).exits(code);
    }
}

#[test]
fn death_by_signal_is_128_and_its_number() {
    let capsid = Capsid::with_busybox();
    for (name, number) in [("KILL", 9), ("TERM", 15), ("SEGV", 11)] {
        let script = format!("sh -c 'kill -{name} $$'; exit $?");
        capsid.run(["busybox", "sh", "-c", &script]).exits(128 + number);
    }
}

#[test]
fn death_of_the_first_process_by_signal_is_128_and_its_number() {
    let capsid = Capsid::with_probe();
    capsid.run(["--init", "probe", "/probe", "kill-self", "9"]).exits(137);
}

#[test]
fn a_command_that_is_not_there_is_127() {
    let capsid = Capsid::with_busybox();
    capsid
        .run(["busybox", "no-such-command"])
        .exits(127)
        .complains("no-such-command")
        .complains_in_one_line();
}

#[test]
fn a_command_that_cannot_be_executed_is_126() {
    let capsid = Capsid::with_probe();
    capsid
        .run(["probe", "/not-executable"])
        .exits(126)
        .complains("/not-executable")
        .complains_in_one_line();
    capsid.run(["probe", "/etc"]).exits(126).complains_in_one_line();
}

#[test]
fn an_error_of_capsid_is_125() {
    let capsid = Capsid::with_busybox();
    capsid
        .run(["--no-such-flag", "busybox", "true"])
        .exits(125)
        .complains("--no-such-flag");
    capsid
        .run(["-m", "lots", "busybox", "true"])
        .exits(125)
        .complains("lots");
}

#[test]
fn flags_that_are_not_honoured_yet_are_refused_by_name() {
    let capsid = Capsid::with_busybox();
    for flag in ["--ipc=host", "--gpus=all", "--cgroupns=host"] {
        let name = flag.split('=').next().unwrap();
        capsid.run([flag, "busybox", "true"]).exits(125).complains(name);
    }
}

#[test]
fn working_folder_is_made_and_entered() {
    let capsid = Capsid::with_busybox();
    capsid
        .run(["-w", "/made/for/you", "busybox", "pwd"])
        .succeeds()
        .prints("/made/for/you\n");
}

#[test]
fn user_is_resolved_from_the_images_own_files() {
    let capsid = Capsid::with_probe();
    let report = capsid.probe(&["-u", "alice"]);
    assert_eq!(report["uid"][0], 1234);
    assert_eq!(report["gid"][0], 2345);
    assert!(
        report["groups"].as_array().unwrap().contains(&json!(3456)),
        "{}",
        report["groups"]
    );
    assert_eq!(report["env"]["HOME"], "/home/alice");
}

#[test]
fn user_may_be_numbers_and_groups_may_be_added() {
    let capsid = Capsid::with_probe();
    let report = capsid.probe(&["-u", "77:88", "--group-add", "extra"]);
    assert_eq!((&report["uid"][0], &report["gid"][0]), (&json!(77), &json!(88)));
    assert!(
        report["groups"].as_array().unwrap().contains(&json!(4567)),
        "{}",
        report["groups"]
    );
}

#[test]
fn an_unknown_user_is_an_error_of_capsid() {
    let capsid = Capsid::with_busybox();
    capsid
        .run(["-u", "nobody-here", "busybox", "true"])
        .exits(125)
        .complains("nobody-here")
        .complains_in_one_line();
}

#[test]
fn environment_comes_from_flags_files_and_the_caller() {
    let capsid = Capsid::with_probe();
    let file = capsid.folder("tmp").join("variables");
    fs::write(&file, "# comment\nFROM_FILE=one two\nOVERRIDDEN=file\n").unwrap();
    let arguments = [
        "-e",
        "A=1",
        "-e",
        "FROM_CALLER",
        "-e",
        "OVERRIDDEN=flag",
        "--env-file",
        file.to_str().unwrap(),
    ];
    let arguments = arguments.iter().chain(&["probe", "/probe", "report"]);
    let report = capsid
        .run_call(arguments)
        .env("FROM_CALLER", "yes")
        .env("SECRET", "no")
        .wait()
        .succeeds()
        .json();
    let env = &report["env"];
    assert_eq!(
        (&env["A"], &env["FROM_FILE"], &env["FROM_CALLER"]),
        (&json!("1"), &json!("one two"), &json!("yes"))
    );
    assert_eq!(env["OVERRIDDEN"], "flag");
    assert_eq!(env["SECRET"], json!(null));
    assert!(env["PATH"].as_str().unwrap().contains("/usr/bin"));
}

#[test]
fn entrypoint_replaces_the_images_and_drops_its_command() {
    let capsid = Capsid::with_busybox();
    capsid
        .run(["--entrypoint", "echo", "busybox", "-n", "x"])
        .succeeds()
        .prints("x");
}

#[test]
fn hostname_is_set_and_resolves() {
    let capsid = Capsid::with_busybox();
    // A line for each of its addresses: where the host has IPv6 as well, two.
    let script = "hostname; cat /etc/hostname; sed -n 's/^[0-9a-f.:]*\\tbox7$/named/p' /etc/hosts | uniq";
    capsid
        .run(["--hostname", "box7", "busybox", "sh", "-c", script])
        .succeeds()
        .prints("box7\nbox7\nnamed\n");
}

#[test]
fn the_kernel_is_capsids() {
    let capsid = Capsid::with_busybox();
    let release = capsid.run(["busybox", "uname", "-r"]).succeeds().text();
    assert!(release.starts_with("6.12.") && release.contains("capsid"), "{release}");
}

#[test]
fn a_read_only_root_refuses_writes_but_not_its_tmpfs() {
    let capsid = Capsid::with_busybox();
    let script = "touch /file 2>/dev/null || echo refused; touch /scratch/file && echo written; touch /dev/shm/file && echo shared";
    let flags = ["--read-only", "--tmpfs", "/scratch", "busybox", "sh", "-c", script];
    capsid.run(flags).succeeds().prints("refused\nwritten\nshared\n");
}

#[test]
fn tmpfs_has_its_options() {
    let capsid = Capsid::with_probe();
    let report = capsid.probe(&["--tmpfs", "/scratch:size=1m,mode=0711"]);
    let mounts = report["mounts"].as_array().unwrap();
    let scratch = mounts
        .iter()
        .find(|mount| mount["target"] == "/scratch")
        .expect("a mount");
    let options = scratch["super_options"].as_array().unwrap();
    assert!(
        options.contains(&json!("size=1024k")) && options.contains(&json!("mode=711")),
        "{options:?}"
    );
}

#[test]
fn shared_memory_has_the_size_asked_for() {
    let capsid = Capsid::with_busybox();
    let script = "df -k /dev/shm | tail -n 1 | awk '{ print $2 }'";
    capsid.run(["busybox", "sh", "-c", script]).succeeds().prints("65536\n");
    capsid
        .run(["--shm-size", "8m", "busybox", "sh", "-c", script])
        .succeeds()
        .prints("8192\n");
}

#[test]
fn writes_to_the_root_are_gone_with_the_container() {
    let capsid = Capsid::with_busybox();
    capsid
        .run(["busybox", "sh", "-c", "echo x > /file; rm /etc/passwd; cat /file"])
        .succeeds()
        .prints("x\n");
    capsid
        .run(["busybox", "sh", "-c", "test ! -e /file && test -e /etc/passwd"])
        .succeeds();
}

#[test]
fn init_reaps_orphans() {
    let capsid = Capsid::with_probe();
    capsid
        .run(["--init", "probe", "/probe", "orphan"])
        .succeeds()
        .prints("0\n");
}

#[test]
fn termination_reaches_the_command() {
    let capsid = Capsid::with_busybox();
    let script = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.1; done";
    let mut child = capsid.run_call(["busybox", "sh", "-c", script]).spawn_with(|command| {
        command
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped());
    });
    let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut output, &mut line).unwrap();
    assert_eq!(line, "ready\n");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut output, &mut rest).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let status = capsid_tests::invocation::wait_until(&mut child, deadline).expect("an end");
    assert_eq!((rest.as_str(), status.code()), ("bye\n", Some(7)));
}

#[test]
fn ulimits_and_sysctls_are_set() {
    let capsid = Capsid::with_busybox();
    let flags = [
        "--ulimit",
        "nofile=123:456",
        "--sysctl",
        "net.ipv4.ip_forward=1",
        "busybox",
    ];
    let script = ["sh", "-c", "ulimit -n; ulimit -Hn; cat /proc/sys/net/ipv4/ip_forward"];
    capsid
        .run(flags.iter().chain(&script))
        .succeeds()
        .prints("123\n456\n1\n");
}

#[test]
fn virtual_processors_are_as_many_as_asked_for() {
    let capsid = Capsid::with_busybox();
    capsid
        .run(["--vcpus", "3", "busybox", "nproc"])
        .succeeds()
        .prints("3\n");
}

#[test]
fn timings_show_where_the_time_goes() {
    let capsid = Capsid::with_busybox();
    let outcome = capsid.run(["--timings", "busybox", "true"]).succeeds();
    assert!(outcome.stderr.contains("ms"), "{outcome}");
}

#[test]
fn an_image_without_a_command_says_so() {
    let capsid = Capsid::empty();
    let archive = capsid.folder("tmp").join("image.tar");
    let layer = capsid_tests::Layer::new().file("file", "x").finish();
    capsid_tests::ImageBuilder::new()
        .config("Cmd", json!(null))
        .layer(layer)
        .write_docker_archive(&archive, "bare:latest");
    capsid.load(&archive).succeeds();
    capsid
        .run(["bare"])
        .exits(125)
        .complains("command")
        .complains_in_one_line();
}

fn words<const N: usize>(words: [u64; N]) -> Vec<u8> {
    words.into_iter().flat_map(u64::to_le_bytes).collect()
}

/// Builds an x86-64 program of one page that exits with `code`; all of them have their code at the same place of the
/// page.
fn exiting_program(code: u8) -> Vec<u8> {
    const CODE_AT: u64 = 64 + 56;
    const BASE: u64 = 0x40_0000;
    // mov edi, code; mov eax, SYS_exit; syscall
    let text = [0xbf, code, 0, 0, 0, 0xb8, 60, 0, 0, 0, 0x0f, 0x05];
    let mut program = b"\x7fELF\x02\x01\x01".to_vec();
    program.resize(16, 0);
    let mut put = |bytes: &[u8]| program.extend_from_slice(bytes);
    // e_type, e_machine, e_version
    put(&[2, 0, 62, 0, 1, 0, 0, 0]);
    // e_entry, e_phoff, e_shoff
    put(&words([BASE + CODE_AT, 64, 0]));
    // e_flags, e_ehsize, e_phentsize, e_phnum, e_shentsize, e_shnum, e_shstrndx
    put(&[0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    // p_type, p_flags
    put(&[1, 0, 0, 0, 5, 0, 0, 0]);
    // p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align
    let bytes = CODE_AT + text.len() as u64;
    put(&words([0, BASE, BASE, bytes, bytes, 0x1000]));
    put(&text);
    program.resize(4096, 0);
    program
}

#[test]
fn programs_that_are_read_anew_run_as_they_are() {
    let programs = (0..60).fold(Layer::new(), |layer, code| {
        layer.program(&format!("x/{code}"), exiting_program(code))
    });
    // Each round reads them into pages that held the code of others.
    let script = "tar x; sync; for round in 1 2 3; do echo 3 > /proc/sys/vm/drop_caches; code=0; \
                  while [ $code -lt 60 ]; do /x/$code; ended=$?; [ $ended = $code ] || echo $code ended with $ended; \
                  code=$((code + 1)); done; done; echo done";
    let capsid = Capsid::with_busybox();
    let call = capsid.run_call(["-i", "--privileged", "-w", "/", "busybox", "sh", "-c", script]);
    call.input(programs.finish())
        .within(120)
        .wait()
        .succeeds()
        .prints("done\n");
}

#[test]
fn an_interrupted_start_in_the_background_leaves_nothing_running() {
    let capsid = Capsid::with_busybox();
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let mut child = capsid
            .call(["run", "-d", "--name", "early", "busybox", "sleep", "1000"])
            .spawn_with(|command| {
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            });
        eventually("its supervisor", 20, || {
            descendants(child.id()).iter().any(|process| process.pid != child.id())
        });
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        let status = wait_until(&mut child, Instant::now() + patience(30)).expect("an end");
        assert_eq!(status.code(), Some(code));
        assert_eq!(capsid.call(["ps", "-q"]).wait().succeeds().text(), "");
        capsid.call(["rm", "-f", "early"]).wait().succeeds();
    }
}
