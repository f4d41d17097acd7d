//! Many commands at once about a few containers: none hangs, nothing leaks, nothing that was acknowledged is lost.
//!
//! `CAPSID_STORM_SECONDS`: duration; short here, a minute in `make test-full`.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use capsid_tests::dice::Dice;
use capsid_tests::environment::count;
use capsid_tests::running::{WATCHDOG_S, alone, call, remove_all, warmed_up};
use capsid_tests::{Capsid, Census, Outcome};

/// Messages that a command may fail with when others are faster.
const EXPECTED: [&str; 15] = [
    "no such container",
    "no such object",
    "is not running",
    "is running: stop it first",
    "is running already",
    "already in use",
    "is paused",
    "is already paused",
    "is not paused",
    "another command is working on",
    "the container was killed",
    "supervisor is gone",
    "supervisor was killed",
    "the agent closed the session",
    "no process of the container",
];

/// Acknowledged work: containers that were made, and those that were removed.
#[derive(Default)]
struct Acknowledged {
    made: BTreeSet<String>,
    removed: BTreeSet<String>,
}

/// Runs any command about any of a handful of names.
fn any_verb(capsid: &Capsid, dice: &mut Dice, acknowledged: &Mutex<Acknowledged>) -> Outcome {
    let names = ["ant", "bee", "cat", "dog"];
    let (name, other) = (names[dice.roll(names.len())], names[dice.roll(names.len())]);
    let lives = ["sleep 1000", "sleep 1; exit 3", "while :; do echo x; sleep 0.1; done"];
    let life = lives[dice.roll(lives.len())];
    let words: &[&str] = match dice.roll(18) {
        0 | 1 => {
            return make(
                capsid,
                &["run", "-d", "--name", name, "busybox", "sh", "-c", life],
                acknowledged,
            );
        }
        16 => {
            return make(
                capsid,
                &["create", "--name", name, "busybox", "sh", "-c", life],
                acknowledged,
            );
        }
        2 => &["run", "-d", "--rm", "--name", name, "busybox", "sh", "-c", life],
        3 => &["exec", name, "echo", "x"],
        4 => &["logs", name],
        5 => &["stop", "-t", "1", name],
        6 => &["start", name],
        7 => &["kill", name],
        8 | 17 => return remove_one(capsid, dice, acknowledged),
        9 => &["ps", "-a"],
        10 => &["inspect", name],
        11 => &["pause", name],
        12 => &["unpause", name],
        13 => &["rename", name, other],
        14 => &["restart", "-t", "0", name],
        _ => return wait_for_a_while(capsid, name),
    };
    call(capsid, words)
}

/// Makes a container that stays until it is removed.
fn make(capsid: &Capsid, words: &[&str], acknowledged: &Mutex<Acknowledged>) -> Outcome {
    let outcome = call(capsid, words);
    if outcome.code() == 0 {
        acknowledged.lock().unwrap().made.insert(outcome.text());
    }
    outcome
}

/// Removes a container by its id: a name may be another's meanwhile.
fn remove_one(capsid: &Capsid, dice: &mut Dice, acknowledged: &Mutex<Acknowledged>) -> Outcome {
    let listed = call(capsid, &["ps", "-aq", "--no-trunc"]).succeeds();
    let ids: Vec<String> = listed.text().lines().map(str::to_owned).collect();
    if ids.is_empty() {
        return listed;
    }
    let id = &ids[dice.roll(ids.len())];
    let outcome = call(capsid, &["rm", "-f", id]);
    if outcome.code() == 0 {
        acknowledged.lock().unwrap().removed.insert(id.clone());
    }
    outcome
}

/// Runs `capsid wait` for something that may never end: the command is interrupted like by a user.
fn wait_for_a_while(capsid: &Capsid, name: &str) -> Outcome {
    let mut invocation = capsid.call(["-s", "INT", "1", "x"]);
    let program = invocation.command().get_program().to_owned();
    let words = ["-s", "INT", "1"].map(Into::into);
    let line = words.into_iter().chain([program, "wait".into(), name.into()]);
    let mut timed = capsid_tests::Invocation::new("timeout", line).within(WATCHDOG_S);
    for (variable, value) in capsid.environment() {
        timed = timed.env(variable, value);
    }
    timed.wait()
}

#[test]
fn many_commands_at_once_neither_hang_nor_leak() {
    let _alone = alone();
    let capsid = warmed_up();
    let before = Census::take(&capsid);
    let end = Instant::now() + Duration::from_secs(count("CAPSID_STORM_SECONDS", 5) as u64);
    let surprises = Mutex::new(BTreeSet::new());
    let calls = Mutex::new((0, Duration::ZERO));
    let acknowledged = Mutex::default();
    thread::scope(|scope| {
        for number in 0..32 {
            let (capsid, surprises, calls, acknowledged) = (&capsid, &surprises, &calls, &acknowledged);
            scope.spawn(move || {
                let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ (number + 1));
                while Instant::now() < end {
                    let outcome = any_verb(capsid, &mut dice, acknowledged);
                    {
                        let mut calls = calls.lock().unwrap();
                        calls.0 += 1;
                        calls.1 = calls.1.max(outcome.took);
                    }
                    for line in outcome.complaints() {
                        if !EXPECTED.iter().any(|words| line.to_lowercase().contains(words)) {
                            surprises
                                .lock()
                                .unwrap()
                                .insert(format!("{}: {line}", outcome.line.rsplit('/').next().unwrap()));
                        }
                    }
                }
            });
        }
    });
    let (calls, slowest) = calls.into_inner().unwrap();
    let Acknowledged { made, removed } = acknowledged.into_inner().unwrap();
    println!(
        "{calls} calls, the slowest took {slowest:?}; {} containers made, {} removed",
        made.len(),
        removed.len()
    );
    let surprises = surprises.into_inner().unwrap();
    assert!(surprises.is_empty(), "unexpected words: {surprises:#?}");
    let listed = call(&capsid, &["ps", "-aq", "--no-trunc"]).succeeds().text();
    let there: BTreeSet<String> = listed.lines().map(str::to_owned).collect();
    let lost: Vec<&String> = made.difference(&removed).filter(|id| !there.contains(*id)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    let risen: Vec<&String> = removed.intersection(&there).collect();
    assert!(risen.is_empty(), "removed and there: {risen:?}");
    capsid.run(["busybox", "echo", "next"]).succeeds().prints("next\n");
    remove_all(&capsid);
    before.assert_nothing_new(&capsid);
}
