//! Load and behavior on demand: what a container's program may do to its limits, streams and signals.

use std::fs;
use std::io::{self, BufRead, Read, Write};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use crate::sys;

/// Runs the load that the words name.
pub(crate) fn run(words: &[&str]) -> ExitCode {
    match words {
        ["burn", seconds] => burn(seconds.parse().unwrap()),
        ["eat", bytes] => eat(bytes.parse().unwrap()),
        ["forkbomb"] => fork_bomb(),
        ["sum"] => sum(),
        ["emit", bytes, seed] => emit(bytes.parse().unwrap(), seed.parse().unwrap()),
        ["echo-back"] => {
            io::copy(&mut io::stdin().lock(), &mut io::stdout().lock()).unwrap();
            ExitCode::SUCCESS
        }
        ["clock"] => clock(),
        ["sleep", seconds] => {
            println!("sleeping");
            thread::sleep(Duration::from_secs(seconds.parse().unwrap()));
            ExitCode::SUCCESS
        }
        ["ignore", signals @ ..] => {
            signals.iter().for_each(|signal| sys::ignore(signal.parse().unwrap()));
            println!("ready");
            thread::sleep(Duration::from_secs(600));
            ExitCode::SUCCESS
        }
        ["exit", code] => ExitCode::from(code.parse::<u8>().unwrap()),
        ["kill-self", signal] => kill_self(signal.parse().unwrap()),
        ["orphan"] => orphan(),
        ["read", path] => {
            io::stdout().write_all(&fs::read(path).unwrap()).unwrap();
            ExitCode::SUCCESS
        }
        ["map", path, offset, text] => {
            let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
            let old = sys::replace_mapped(&file, offset.parse().unwrap(), text.as_bytes()).unwrap();
            println!("{}", String::from_utf8_lossy(&old));
            ExitCode::SUCCESS
        }
        ["winsize"] => {
            let (rows, columns) = sys::window_size().unwrap();
            println!("{rows} {columns}");
            ExitCode::SUCCESS
        }
        ["announce"] => announce(),
        ["power-off"] => power_off(),
        _ => {
            eprintln!("capsid-probe: unknown words: {words:?}");
            ExitCode::from(2)
        }
    }
}

/// Answers every line with the wall clock, nanoseconds since 1970.
fn clock() -> ExitCode {
    for _ in io::stdin().lock().lines() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        println!("{}", now.as_nanos());
    }
    ExitCode::SUCCESS
}

/// Runs as the first process of a bare machine: announces itself on its console, which is not open yet, and ends the
/// machine.
fn announce() -> ExitCode {
    let words = sys::c_string("/console");
    // The first serial port: character device 4:64.
    let arguments = vec![
        sys::Arg::In(&words),
        sys::Arg::Int(i64::from(libc::S_IFCHR | 0o600)),
        sys::Arg::Int(0x440),
    ];
    let _ = sys::call(libc::SYS_mknod, arguments);
    if let Ok(mut console) = fs::OpenOptions::new().write(true).open("/console") {
        let _ = console.write_all(b"announced\n");
    }
    power_off()
}

/// Ends the machine with `LINUX_REBOOT_CMD_RESTART`, the only way without ACPI.
fn power_off() -> ExitCode {
    let arguments = [0xfee1_dead_u32, 672_274_793, 0x0123_4567, 0].map(|word| sys::Arg::Int(i64::from(word)));
    let _ = sys::call(libc::SYS_reboot, arguments.into());
    ExitCode::FAILURE
}

/// Uses processor time for `seconds` of wall time and prints how much it got: CPU and wall, in milliseconds.
fn burn(seconds: u64) -> ExitCode {
    // The same process made the container before it became this program.
    let used_before = processor_time_ms();
    let start = Instant::now();
    let mut word = 1_u64;
    while start.elapsed() < Duration::from_secs(seconds) {
        for _ in 0..100_000 {
            word = std::hint::black_box(word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
    }
    println!("{} {}", processor_time_ms() - used_before, start.elapsed().as_millis());
    ExitCode::SUCCESS
}

/// Returns `CLOCK_PROCESS_CPUTIME_ID` in milliseconds.
fn processor_time_ms() -> u64 {
    let mut time = [0_u8; 16];
    let arguments = vec![
        sys::Arg::Int(i64::from(libc::CLOCK_PROCESS_CPUTIME_ID)),
        sys::Arg::Out(&mut time),
    ];
    sys::call(libc::SYS_clock_gettime, arguments).unwrap();
    let word = |at: usize| u64::from_ne_bytes(time[at..at + 8].try_into().unwrap());
    word(0) * 1000 + word(8) / 1_000_000
}

/// Holds this much memory, every page of it touched.
fn eat(bytes: usize) -> ExitCode {
    let mut memory = vec![0_u8; bytes];
    for page in memory.chunks_mut(4096) {
        page[0] = 1;
    }
    println!("ate {}", std::hint::black_box(&memory).len());
    ExitCode::SUCCESS
}

/// Forks until it is refused, then prints the number of children.
fn fork_bomb() -> ExitCode {
    let mut children = Vec::new();
    let refusal = loop {
        let sleeper = || {
            thread::sleep(Duration::from_secs(600));
            0
        };
        match sys::fork(sleeper) {
            Ok(pid) => children.push(pid),
            Err(error) => break error,
        }
        // More than any limit under test: not limited at all.
        if children.len() > 20_000 {
            println!("unlimited");
            return ExitCode::from(3);
        }
    };
    println!("{} {}", children.len(), refusal.raw_os_error().unwrap_or(0));
    for pid in children {
        let _ = sys::call(
            libc::SYS_kill,
            vec![sys::Arg::Int(i64::from(pid)), sys::Arg::Int(i64::from(libc::SIGKILL))],
        );
    }
    ExitCode::SUCCESS
}

/// Prints SHA-256 and length of stdin.
fn sum() -> ExitCode {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    let mut total = 0_u64;
    loop {
        let count = io::stdin().lock().read(&mut buffer).unwrap();
        if count == 0 {
            break;
        }
        digest.update(&buffer[..count]);
        total += count as u64;
    }
    println!("{} {total}", hex::encode(digest.finalize()));
    ExitCode::SUCCESS
}

/// Writes reproducible bytes of every value.
fn emit(bytes: u64, seed: u64) -> ExitCode {
    let mut stdout = io::stdout().lock();
    capsid_tests::stream::Bytes::new(seed, bytes)
        .write_to(&mut stdout)
        .unwrap();
    ExitCode::SUCCESS
}

fn kill_self(signal: i64) -> ExitCode {
    let pid = i64::from(std::process::id());
    // As the first process of its pid namespace it is immune to its own signals: a child receives the signal instead.
    if pid == 1 {
        eprintln!("capsid-probe: kill-self as pid 1 does nothing");
        return ExitCode::from(4);
    }
    sys::call(libc::SYS_kill, vec![sys::Arg::Int(pid), sys::Arg::Int(signal)]).unwrap();
    thread::sleep(Duration::from_secs(5));
    ExitCode::from(5)
}

/// Leaves a grandchild behind that outlives its parent, then waits until init has reaped it.
fn orphan() -> ExitCode {
    let child = sys::fork(|| {
        let grandchild = sys::fork(|| {
            thread::sleep(Duration::from_millis(200));
            0
        });
        i32::from(grandchild.is_err())
    });
    let child = child.unwrap();
    let arguments = vec![
        sys::Arg::Int(i64::from(child)),
        sys::Arg::Int(0),
        sys::Arg::Int(0),
        sys::Arg::Int(0),
    ];
    sys::call(libc::SYS_wait4, arguments).unwrap();
    thread::sleep(Duration::from_millis(800));
    let zombies = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok())
        .filter(|stat| {
            stat.rsplit_once(')')
                .is_some_and(|(_, tail)| tail.trim_start().starts_with('Z'))
        })
        .count();
    println!("{zombies}");
    ExitCode::SUCCESS
}
