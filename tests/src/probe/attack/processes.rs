//! Attacks on processes that are not the container's: the agent above all.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process;
use std::time::Duration;

use super::{Verdict, all_blocked, one_call};
use crate::sys::{self, Arg};

/// Upper bound of the ports that are tried, below which services listen.
const TCP_PORTS: u16 = 2048;

fn other_processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok());
    numbers.filter(|pid| *pid != process::id()).collect()
}

/// Looks for the agent and kernel threads, which belong to the machine's pid namespace, not to this one.
pub(crate) fn see_agent() -> Verdict {
    let mut attempts = vec![Verdict::Blocked(format!(
        "{} other processes in sight",
        other_processes().len()
    ))];
    for pid in other_processes() {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if ["capsid-agent", "kthreadd"].contains(&name.trim()) {
            attempts.push(Verdict::Succeeded(format!("process {pid} is {name}")));
        }
    }
    all_blocked(attempts)
}

/// Traces every process in sight, and numbers that the agent has in its own namespace.
pub(crate) fn trace_processes() -> Verdict {
    let pids = other_processes()
        .into_iter()
        .chain([1, 2, 3])
        .filter(|pid| *pid != process::id());
    // PTRACE_ATTACH
    let attach = |pid: u32| {
        sys::call(
            libc::SYS_ptrace,
            vec![Arg::Int(16), Arg::Int(i64::from(pid)), Arg::Int(0), Arg::Int(0)],
        )
    };
    all_blocked(
        [Verdict::Blocked("nobody to trace".to_owned())]
            .into_iter()
            .chain(pids.map(|pid| one_call(&format!("ptrace {pid}"), attach(pid)))),
    )
}

/// Reads `/proc/1/mem` at the address where a static program begins: for pid 1 of this namespace that is its own.
pub(crate) fn read_agent_memory() -> Verdict {
    if process::id() == 1 {
        return Verdict::Blocked("pid 1 of this namespace is the probe itself".to_owned());
    }
    let command = fs::read("/proc/1/cmdline").unwrap_or_default();
    if !command.windows(6).any(|window| window == b"capsid") {
        return Verdict::Blocked("pid 1 of this namespace is the container's own".to_owned());
    }
    let maps = fs::read_to_string("/proc/1/maps").unwrap_or_default();
    let start = maps
        .split('-')
        .next()
        .and_then(|text| u64::from_str_radix(text, 16).ok());
    let Some(start) = start else {
        return Verdict::Blocked("no map of pid 1".to_owned());
    };
    let read = File::open("/proc/1/mem").and_then(|mut memory| {
        memory.seek(SeekFrom::Start(start))?;
        memory.read_exact(&mut [0; 64])
    });
    one_call("/proc/1/mem", read)
}

/// Connects to local services: none of the agent's listens where the container can reach it, on loopback or on UNIX
/// sockets in the abstract namespace.
pub(crate) fn local_services() -> Verdict {
    let connect = |port: u16| {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        one_call(
            &format!("TCP port {port}"),
            TcpStream::connect_timeout(&address, Duration::from_millis(200)),
        )
    };
    let sockets = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let named = sockets
        .lines()
        .skip(1)
        .filter(|line| line.contains('@') || line.contains('/'));
    let named: Vec<Verdict> = named
        .map(|line| Verdict::Succeeded(format!("UNIX socket {line}")))
        .collect();
    all_blocked((1..TCP_PORTS).map(connect).chain(named))
}
