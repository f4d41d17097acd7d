//! Long lives: thousands of execs and starts, gigabytes of log, and everything is as it was after the first.
//!
//! Counts are small here and large in `make test-full`: `CAPSID_EXECS`, `CAPSID_CYCLES`, `CAPSID_LOG_MIB`,
//! `CAPSID_LISTINGS`, `CAPSID_EDIT_SECONDS`.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use capsid_tests::environment::{bin_dir, count, patience, workload};
use capsid_tests::invocation::{eventually, wait_until};
use capsid_tests::resident::{Held, descendants};
use capsid_tests::running::{alone, call, detached, spawn, warmed_up};
use capsid_tests::{Capsid, Census};

#[test]
fn many_execs_leave_no_trace_in_the_supervisor() {
    let _alone = alone();
    let capsid = warmed_up();
    detached(&capsid, "host", "sleep 100000");
    let pid = capsid.supervisor("host");
    let exec = |name: &str| {
        let started = Instant::now();
        call(&capsid, &["exec", name, "true"]).succeeds();
        started.elapsed()
    };
    for _ in 0..5 {
        exec("host");
    }
    let before = Held::of(pid);
    let execs = count("CAPSID_EXECS", 30);
    for _ in 0..execs {
        exec("host");
    }
    eventually("the last exec's descriptors", 20, || Held::of(pid).fds <= before.fds);
    let after = Held::of(pid);
    println!("{execs} execs: {before:?} -> {after:?}");
    detached(&capsid, "fresh", "sleep 100000");
    assert_as_quick_as_a_fresh_one(execs, || exec("host"), || exec("fresh"));
    assert!(after.fds <= before.fds && after.threads <= before.threads);
    assert!(
        after.anonymous_kib <= before.anonymous_kib + 512,
        "{before:?} -> {after:?}"
    );
    // An unoptimized binary with all its debug information is another one.
    if bin_dir().ends_with("release") {
        assert!(after.resident_kib <= 8 << 10, "{after:?}");
    }
}

/// Compares the durations after `count` times in turns with those of a new one: other load on the host slows both down.
#[track_caller]
fn assert_as_quick_as_a_fresh_one(
    count: usize,
    mut old: impl FnMut() -> Duration,
    mut fresh: impl FnMut() -> Duration,
) {
    let some = count.div_ceil(3).min(100);
    // The first of each warms caches.
    old();
    fresh();
    let (olds, news): (Vec<_>, Vec<_>) = (0..some).map(|_| (old(), fresh())).unzip();
    let median = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2].as_secs_f64()
    };
    let ratio = median(olds) / median(news);
    println!("the last {some} against those of a fresh one: {ratio:.2}");
    // Fewer measurements allow a weaker statement.
    assert!(
        ratio < if some == 100 { 1.25 } else { 2.0 },
        "the last take {ratio:.2} times as long as a fresh one's"
    );
}

#[test]
fn many_starts_leave_files_and_disk_as_they_are() {
    let _alone = alone();
    let capsid = warmed_up();
    let script = "echo x >>/count; wc -l </count; exec sleep 100000";
    let create = |name: &str| call(&capsid, &["create", "--name", name, "busybox", "sh", "-c", script]).succeeds();
    create("phoenix");
    let cycle = |number: usize| {
        call(&capsid, &["start", "phoenix"]).succeeds();
        eventually("its count", 20, || {
            call(&capsid, &["logs", "--tail", "1", "phoenix"]).text() == number.to_string()
        });
        let held = settled(capsid.supervisor("phoenix"));
        call(&capsid, &["stop", "-t", "0", "phoenix"]).succeeds();
        held
    };
    // From the second start on the row is written once more, and SQLite keeps a closed database's descriptor for its
    // next use while another connection of the process has locks (os_unix.c, "pUnused"): one for all that follow.
    cycle(1);
    let held_first = cycle(2);
    let (before, disk_before) = (Census::take(&capsid), disk_kib(&capsid.folder("data")));
    let cycles = count("CAPSID_CYCLES", 5);
    let held: Vec<Held> = (3..=cycles + 2).map(cycle).collect();
    before.assert_nothing_new(&capsid);
    let (held_last, disk) = (held[held.len() - 1], disk_kib(&capsid.folder("data")));
    println!("{cycles} cycles: {held_first:?} -> {held_last:?}; {disk_before} -> {disk} KiB of disk");
    assert!(held_last.fds <= held_first.fds && held_last.threads <= held_first.threads);
    assert!(held_last.anonymous_kib <= held_first.anonymous_kib + 512);
    // The filesystem in the scratch disk spreads what little it writes, to a bound; the log has a line for each.
    assert!(
        disk <= disk_before + (8 << 10),
        "{disk_before} KiB of disk, then {disk}"
    );
    create("fresh");
    let turn = |name: &str| {
        let started = Instant::now();
        call(&capsid, &["start", name]).succeeds();
        call(&capsid, &["stop", "-t", "0", name]).succeeds();
        started.elapsed()
    };
    assert_as_quick_as_a_fresh_one(cycles, || turn("phoenix"), || turn("fresh"));
}

/// Measures the resources of a process when no command is just ending: the minimum of some looks.
fn settled(pid: u32) -> Held {
    let looks = (0..5).map(|_| {
        thread::sleep(Duration::from_millis(50));
        Held::of(pid)
    });
    looks.min_by_key(|held| held.fds).unwrap()
}

/// Returns the disk space of a folder. Files that are removed while it is counted, such as a rotated log, take nothing.
fn disk_kib(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let sizes = entries.flatten().map(|entry| {
        let Ok(own) = entry.metadata() else { return 0 };
        let below = if own.is_dir() { disk_kib(&entry.path()) } else { 0 };
        own.blocks() / 2 + below
    });
    sizes.sum()
}

/// Number of lines of a round after its title.
const ROWS: u64 = 8192;

fn row(index: u64) -> String {
    format!("{index:06} {index:0120}")
}

/// Returns a script that writes rounds of 1 MiB each, and ends.
fn torrent(rounds: u64) -> String {
    format!(
        r#"awk 'BEGIN {{ for (i = 0; i < {ROWS}; i++) printf "%06d %0120d\n", i, i }}' >/rows
        n=0; while [ $n -lt {rounds} ]; do echo round $n; cat /rows; n=$((n + 1)); done"#
    )
}

/// Summary of what was read of a torrent.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Number of lines that do not follow on the one before.
    gaps: u64,
    first_round: Option<u64>,
    last_round: Option<u64>,
    /// Number of rows after the last title.
    rows: u64,
}

/// Reads to the end; every line is one of the torrent's, whole, and in its order.
fn read_torrent(output: impl Read, mut now_and_then: impl FnMut()) -> Seen {
    let mut seen = Seen::default();
    let mut expected = None;
    for (number, line) in BufReader::new(output).lines().enumerate() {
        let line = line.unwrap();
        if let Some(round) = line.strip_prefix("round ") {
            let round = round.parse().unwrap();
            assert!(
                seen.last_round.is_none_or(|last| round > last),
                "round {round} in {seen:?}"
            );
            seen.gaps += u64::from(
                expected.is_some_and(|row| row != ROWS) || seen.last_round.is_some_and(|last| round != last + 1),
            );
            seen.first_round = seen.first_round.or(Some(round));
            seen.last_round = Some(round);
            seen.rows = 0;
            expected = Some(0);
        } else {
            let index: u64 = line[..6].parse().unwrap();
            assert_eq!(line, row(index));
            seen.gaps += u64::from(expected.is_some_and(|row| row != index));
            seen.rows += 1;
            expected = Some(index + 1);
        }
        if number % (ROWS as usize / 4) == 0 {
            now_and_then();
        }
    }
    seen
}

/// Starts a reader that follows the log, slowly until told to hurry.
fn slow_reader<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    child: &mut Child,
    hurry: &'scope AtomicBool,
) -> thread::ScopedJoinHandle<'scope, Seen> {
    let output: ChildStdout = child.stdout.take().unwrap();
    scope.spawn(move || {
        read_torrent(output, || {
            if !hurry.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(500));
            }
        })
    })
}

/// Starts output that two readers follow, one of them slow, while others die.
fn follow_torrent(capsid: &Capsid, flags: &[&str], rounds: u64, mut meanwhile: impl FnMut()) -> Seen {
    let script = torrent(rounds);
    capsid.detached("torrent", &[flags, &["busybox", "sh", "-c", &script]].concat());
    let hurry = AtomicBool::new(false);
    let mut slow = spawn(capsid, &["logs", "-f", "torrent"]);
    let mut dead = spawn(capsid, &["logs", "-f", "torrent"]);
    let mut deaf = spawn(capsid, &["logs", "-f", "torrent"]);
    drop(deaf.stdout.take());
    let started = Instant::now();
    let seen = thread::scope(|scope| {
        let reader = slow_reader(scope, &mut slow, &hurry);
        let mut ends = capsid.call(["wait", "torrent"]).spawn_with(|command| {
            command.stdout(std::process::Stdio::null());
        });
        thread::sleep(Duration::from_millis(500));
        dead.kill().unwrap();
        let limit = patience(120 + rounds);
        while ends.try_wait().unwrap().is_none() {
            assert!(started.elapsed() < limit, "output stands still");
            meanwhile();
            thread::sleep(Duration::from_millis(100));
        }
        println!("{rounds} MiB in {:?}", started.elapsed());
        assert_eq!(capsid.field("torrent", ".State.ExitCode"), "0");
        hurry.store(true, Ordering::Relaxed);
        reader.join().unwrap()
    });
    for mut reader in [slow, dead, deaf] {
        wait_until(&mut reader, Instant::now() + patience(30)).expect("a reader that ends");
    }
    seen
}

fn logged(capsid: &Capsid) -> Seen {
    let mut logs = spawn(capsid, &["logs", "torrent"]);
    let seen = read_torrent(logs.stdout.take().unwrap(), || {});
    assert!(logs.wait().unwrap().success());
    seen
}

#[test]
fn a_torrent_is_in_the_log_to_the_byte() {
    let _alone = alone();
    let capsid = warmed_up();
    let rounds = workload(50);
    let whole = Seen {
        gaps: 0,
        first_round: Some(0),
        last_round: Some(rounds - 1),
        rows: ROWS,
    };
    assert_eq!(follow_torrent(&capsid, &[], rounds, || {}), whole);
    assert_eq!(logged(&capsid), whole);
}

#[test]
fn a_torrent_fills_no_disk_when_its_log_rotates() {
    let _alone = alone();
    let capsid = warmed_up();
    let rounds = workload(count("CAPSID_LOG_MIB", 50) as u64);
    let flags = ["--log-opt", "max-size=4m", "--log-opt", "max-file=3"];
    let before = disk_kib(&capsid.folder("data"));
    let mut most = 0;
    let containers = capsid.folder("data");
    let followed = follow_torrent(&capsid, &flags, rounds, || most = most.max(disk_kib(&containers)));
    println!("{followed:?}; at most {} KiB of disk", most - before);
    // 12 MiB of log, the writes of the guest, and its rows.
    assert!(most < before + (24 << 10), "{before} KiB of disk, then {most}");
    // A slow reader misses the unread part of a file that is gone; nothing else.
    assert_eq!((followed.last_round, followed.rows), (Some(rounds - 1), ROWS));
    let seen = logged(&capsid);
    println!("{seen:?} in the log");
    assert_eq!((seen.gaps, seen.last_round, seen.rows), (0, Some(rounds - 1), ROWS));
    // Eight to twelve MiB of entries, each half as long again as its line.
    let kept = rounds - seen.first_round.unwrap();
    assert!((4..=9).contains(&kept) || kept == rounds, "{kept} rounds are kept");
}

#[test]
fn many_listings_leave_the_file_server_as_it_was() {
    let _alone = alone();
    let capsid = warmed_up();
    let shared = tempfile::tempdir().unwrap();
    for name in ["one", "two", "three"] {
        fs::write(shared.path().join(name), "").unwrap();
    }
    let volume = format!("{}:/d", shared.path().display());
    capsid.detached("host", &["-v", &volume, "busybox", "sleep", "100000"]);
    let listings = count("CAPSID_LISTINGS", 2_000);
    let list = |times: usize| {
        let script = format!("i=0; while [ $i -lt {times} ]; do set -- /d/*; i=$((i + 1)); done; echo $#");
        let words = ["exec", "host", "sh", "-c", &script];
        capsid.call(words).within(36_000).wait().succeeds().prints("3\n");
    };
    // The server, and the process that waits for it outside of its namespaces.
    let mut servers = descendants(capsid.supervisor("host"));
    servers.retain(|process| process.name == "capsid-fs");
    let held = || servers.iter().map(|process| Held::of(process.pid)).collect::<Vec<_>>();
    list(200);
    let before = held();
    list(listings);
    let after = held();
    println!("{listings} listings: {before:?} -> {after:?}");
    assert!(!before.is_empty());
    for (after, before) in after.iter().zip(&before) {
        assert!(after.fds <= before.fds && after.threads <= before.threads);
        assert!(after.anonymous_kib <= before.anonymous_kib + 256);
    }
}

/// Test of edits like those of an editor, a compiler and a checkout: in place with the same length, appended, replaced,
/// removed.
#[test]
fn edits_of_the_host_are_seen_for_as_long_as_a_container_runs() {
    let capsid = warmed_up();
    let shared = tempfile::tempdir().unwrap();
    let path = |name: &str| shared.path().join(name);
    fs::create_dir(path("folder")).unwrap();
    let volume = format!("{}:/d", shared.path().display());
    capsid.detached("host", &["-v", &volume, "busybox", "sleep", "100000"]);
    let end = Instant::now() + Duration::from_secs(count("CAPSID_EDIT_SECONDS", 6) as u64);
    let mut log = String::new();
    for round in 0.. {
        log.push('x');
        fs::write(path("in-place"), format!("{round:08}")).unwrap();
        fs::write(path("log"), &log).unwrap();
        fs::write(path("new"), format!("replaced {round}")).unwrap();
        fs::rename(path("new"), path("folder/replaced")).unwrap();
        let _ = fs::remove_file(path(&format!("there-{}", round - 1)));
        fs::write(path(&format!("there-{round}")), "").unwrap();
        let script = "cd /d; cat in-place folder/replaced; echo; wc -c <log; echo there-*";
        let words = ["exec", "host", "sh", "-c", script];
        let expected = format!("{round:08}replaced {round}\n{}\nthere-{round}\n", log.len());
        capsid.call(words).wait().succeeds().prints(&expected);
        if Instant::now() >= end {
            break;
        }
        thread::sleep(Duration::from_millis(200));
    }
}
