//! Costs of a pod's network: bytes and answers through a published port, against QEMU's own virtio-net with the same
//! helper (passt) and against a process without a machine, in a namespace of that helper's (pasta); and the time that
//! it adds to a start.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use capsid_tests::{Capsid, invocation::eventually};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::figure::Figure;
use crate::floor::{KVM_COMMAND_LINE, archive, bare_machine};
use crate::start_figure::{emulated_command_line, in_turns};

/// Bytes sent to measure the throughput.
const STREAM_BYTES: u64 = 8 << 20;
/// Bytes that another pod sends back.
const ECHOED_BYTES: u64 = 4 << 20;
/// Number of questions, one after the other, to measure the time of an answer.
const QUESTIONS: u32 = 50;
/// Script that serves one connection: a stream, or an answer to each line. The client speaks first, which passt waits
/// for.
const SERVE: &str = "read wish; case $wish in stream) busybox head -c 8388608 /dev/zero;; *) while read line; do echo $line; done;; esac";
/// Address of a pod; gateway and hardware address follow.
const ADDRESS: &str = "100.96.0.2";
const GATEWAY: &str = "100.96.0.1";
const GATEWAY_MAC: &str = "02:ca:00:00:00:01";

/// Server that is reached at a port of this host, ended with the value.
struct Served {
    at: SocketAddr,
    processes: Vec<Child>,
}

impl Drop for Served {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // With the processes that it has started itself.
            let _ = killpg(Pid::from_raw(process.id().cast_signed()), Signal::SIGKILL);
            let _ = process.wait();
        }
    }
}

impl Served {
    /// Waits until the server answers.
    fn wait(self) -> Self {
        eventually("the server answers", 60, || try_questions(self.at, 1).is_ok());
        self
    }

    fn stream(&self) -> Duration {
        let started = Instant::now();
        let mut socket = TcpStream::connect(self.at).unwrap();
        socket.write_all(b"stream\n").unwrap();
        let received = std::io::copy(&mut socket.take(STREAM_BYTES), &mut std::io::sink()).unwrap();
        assert_eq!(received, STREAM_BYTES);
        started.elapsed()
    }

    fn questions(&self) -> Duration {
        try_questions(self.at, QUESTIONS).unwrap() / QUESTIONS
    }
}

fn try_questions(at: SocketAddr, count: u32) -> std::io::Result<Duration> {
    let mut socket = TcpStream::connect(at)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut answers = BufReader::new(socket.try_clone()?);
    socket.write_all(b"answer\n")?;
    let started = Instant::now();
    for _ in 0..count {
        socket.write_all(b"question\n")?;
        let mut answer = String::new();
        answers.read_line(&mut answer)?;
        if answer != "question\n" {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(started.elapsed())
}

/// Measures all figures of a published port.
pub(crate) fn against_others(accelerator: &str) -> Vec<Figure> {
    let capsid = Capsid::with_busybox();
    let pod = pod(&capsid, accelerator);
    let bare = bare(&capsid, accelerator);
    let process = process();
    let mut figures = Vec::new();
    for (name, other) in [
        ("QEMU's virtio-net and passt", &bare),
        ("a process and pasta", &process),
    ] {
        let (ours, reference) = in_turns(|| pod.stream(), || other.stream());
        let what = format!("8 MiB from a pod / {name} ({accelerator})");
        figures.push(Figure::of_times(&what, None, &ours, &reference));
        let (ours, reference) = in_turns(|| pod.questions(), || other.questions());
        let what = format!("an answer of a pod's / {name} ({accelerator})");
        figures.push(Figure::of_times(&what, None, &ours, &reference));
    }
    figures
}

/// Measures `run --rm` with the default network against none.
pub(crate) fn start(accelerator: &str) -> Figure {
    let capsid = Capsid::with_busybox();
    let run = |network| {
        let words = ["--accel", accelerator, "--network", network, "busybox", "true"];
        capsid.run(words).succeeds().took
    };
    let (ours, reference) = in_turns(|| run("default"), || run("none"));
    let name = format!("run --rm busybox true / --network none ({accelerator})");
    Figure::of_times(&name, None, &ours, &reference)
}

/// Measures a stream that another pod of a user-defined network sends back, against the same within one pod, by its own
/// loopback: what the two machines' devices and the switch add to the guest's own work.
pub(crate) fn between_pods(accelerator: &str) -> Figure {
    let capsid = Capsid::with_busybox();
    capsid.call(["network", "create", "back"]).wait().succeeds();
    let on = ["--accel", accelerator, "--network", "back", "busybox"];
    capsid.detached("echo", &[&on[..], &["nc", "-ll", "-p", "7", "-e", "cat"]].concat());
    capsid.detached("client", &[&on[..], &["sleep", "100000"]].concat());
    let echoed = |from: &str, to: &str| {
        let bytes = ECHOED_BYTES;
        let script = format!("head -c {bytes} /dev/zero | nc {to} 7 | head -c {bytes} | wc -c");
        let outcome = capsid.call(["exec", from, "sh", "-c", &script]).within(300).wait();
        let outcome = outcome.succeeds().prints(format!("{bytes}\n"));
        outcome.took
    };
    let (ours, reference) = in_turns(|| echoed("client", "echo"), || echoed("echo", "127.0.0.1"));
    let name = format!("4 MiB echoed by another pod / within a pod ({accelerator})");
    Figure::of_times(&name, None, &ours, &reference)
}

fn pod(capsid: &Capsid, accelerator: &str) -> Served {
    let server = ["busybox", "nc", "-ll", "-p", "80", "-e", "sh", "-c", SERVE];
    capsid.detached(
        "served",
        &[&["--accel", accelerator, "-p", "127.0.0.1::80"][..], &server].concat(),
    );
    let at = capsid.call(["port", "served", "80"]).wait().succeeds().text();
    let served = Served {
        at: at.trim().parse().unwrap(),
        processes: Vec::new(),
    };
    served.wait()
}

/// Starts the same server in a bare machine, whose network device is QEMU's own.
fn bare(capsid: &Capsid, accelerator: &str) -> Served {
    let folder = capsid.folder("tmp");
    // When started as root, passt becomes nobody.
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
    let (at, socket) = (free_port(), folder.join("passt"));
    let passt = passt(at, &socket);
    eventually("passt listens", 10, || socket.exists());
    let initramfs = folder.join("served.cpio");
    fs::write(&initramfs, initramfs_of_server()).unwrap();
    let (qemus, line) = match accelerator {
        "kvm" => ("kvm", KVM_COMMAND_LINE.to_owned()),
        _ => ("tcg", emulated_command_line(capsid)),
    };
    let mut machine = bare_machine(qemus, &initramfs, &format!("{line} rdinit=/init"));
    machine
        .args(["-global", "virtio-mmio.force-legacy=false", "-netdev"])
        .arg(format!(
            "stream,id=net,server=off,addr.type=unix,addr.path={}",
            socket.display()
        ))
        .args(["-device", "virtio-net-device,netdev=net"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    let machine = machine.spawn().expect("qemu-system-x86 is installed");
    let processes = vec![machine, passt];
    Served { at, processes }.wait()
}

fn passt(at: SocketAddr, socket: &Path) -> Child {
    Command::new("passt")
        .args([
            "--foreground",
            "--quiet",
            "--ipv4-only",
            "--address",
            ADDRESS,
            "--netmask",
            "30",
        ])
        // A lab has no uplink that passt could inspect instead.
        .args(["--gateway", GATEWAY, "--interface", "lo", "--mac-addr", GATEWAY_MAC])
        .args(["--udp-ports", "none", "--tcp-ports"])
        .arg(format!("{}/{}:80", at.ip(), at.port()))
        .arg("--socket")
        .arg(socket)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("passt is installed")
}

fn initramfs_of_server() -> Vec<u8> {
    let init = format!(
        "#!/bin/busybox sh
        busybox mkdir -p /dev; busybox mount -t devtmpfs dev /dev
        busybox ip link set lo up; busybox ip link set eth0 up mtu 65520
        busybox ip addr add {ADDRESS}/30 dev eth0; busybox ip route add default via {GATEWAY}
        exec busybox nc -ll -p 80 -e busybox sh -c '{SERVE}'"
    );
    let busybox = fs::read("/bin/busybox").expect("busybox-static is installed");
    archive(&[
        ("bin", 0o040_755, b""),
        ("bin/busybox", 0o100_755, &busybox),
        ("init", 0o100_755, init.as_bytes()),
    ])
}

/// Starts the same server as a process of this host in a namespace of its own.
fn process() -> Served {
    let at = free_port();
    // When started as root, pasta would become nobody, who may not make the namespace.
    let pasta = Command::new("pasta")
        .args([
            "--runas",
            "0",
            "--netns-only",
            "--config-net",
            "--foreground",
            "--quiet",
            "--ipv4-only",
        ])
        .args(["--interface", "lo", "--ns-ifname", "eth0", "--mac-addr", GATEWAY_MAC])
        .args(["--address", ADDRESS])
        .args(["--netmask", "30", "--gateway", GATEWAY, "--udp-ports", "none"])
        .args(["--tcp-ports", &format!("{}/{}:80", at.ip(), at.port())])
        .args([
            "--", "busybox", "nc", "-ll", "-p", "80", "-e", "busybox", "sh", "-c", SERVE,
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("passt is installed");
    let processes = vec![pasta];
    Served { at, processes }.wait()
}

/// Returns a port that was free a moment ago.
fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
