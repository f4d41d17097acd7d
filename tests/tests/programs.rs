//! Popular programs in the background, each used by its own client in the pod.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use capsid_tests::environment::workload;
use capsid_tests::invocation::eventually;
use capsid_tests::{Capsid, Outcome, TestImage};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Time limit for a server to start, and for its client's work, in seconds.
const PATIENCE_S: u64 = 120;

fn capsid() -> Capsid {
    Capsid::with(&[TestImage::Services])
}

fn call(capsid: &Capsid, words: &[&str]) -> Outcome {
    capsid.call(words).within(PATIENCE_S).wait()
}

/// Runs `capsid exec NAME sh -c SCRIPT`. Returns the output.
#[track_caller]
fn exec(capsid: &Capsid, name: &str, script: &str) -> String {
    call(capsid, &["exec", name, "sh", "-c", script]).succeeds().text()
}

/// Returns the whole output and error output of a container.
fn log(capsid: &Capsid, name: &str) -> String {
    let logs = call(capsid, &["logs", name]).succeeds();
    logs.text() + &logs.stderr
}

/// Waits until the container has printed the words, this many times since it was created: a request would slow its
/// start down.
#[track_caller]
fn says(capsid: &Capsid, name: &str, words: &str, times: usize) {
    eventually(words, PATIENCE_S, || log(capsid, name).matches(words).count() == times);
}

/// Stops a program as its own authors intend: it ends by itself, in time, with success.
#[track_caller]
fn stops(capsid: &Capsid, name: &str) {
    call(capsid, &["stop", "-t", "60", name]).succeeds();
    assert_eq!(capsid.field(name, ".State.ExitCode"), "0", "{}", log(capsid, name));
}

const REDIS_READY: &str = "Ready to accept connections";

#[test]
fn redis_keeps_its_keys() {
    let capsid = capsid();
    let server = ["redis-server", "--dir", "/var/lib/redis", "--appendonly", "yes"];
    let flags = ["-u", "redis", "-v", "keys:/var/lib/redis"];
    capsid.detached("cache", &words_of(&flags, &server));
    says(&capsid, "cache", REDIS_READY, 1);
    let requests = workload(2000);
    let benchmark = format!("redis-benchmark -q --csv -c 20 -n {requests} -t set,get,incr,lpush,lpop,sadd,mset");
    let figures = exec(&capsid, "cache", &benchmark);
    assert_eq!(figures.lines().count(), 8, "a title and seven figures: {figures}");
    let script = "redis-cli set greeting hello; redis-cli bgsave; redis-cli -x set large <$(which redis-server)";
    exec(&capsid, "cache", script);
    stops(&capsid, "cache");
    let words = log(&capsid, "cache");
    assert!(words.contains("bye bye"), "{words}");
    assert!(words.contains("Background saving terminated with success"), "{words}");
    call(&capsid, &["start", "cache"]).succeeds();
    says(&capsid, "cache", REDIS_READY, 2);
    assert_eq!(exec(&capsid, "cache", "redis-cli get greeting"), "hello");
    let same = "redis-cli get large | head -c -1 | cmp - $(which redis-server)";
    exec(&capsid, "cache", same);
    call(&capsid, &["rm", "-f", "cache"]).succeeds();
    capsid.detached(
        "cache",
        &words_of(&["-v", "keys:/var/lib/redis", "-u", "redis"], &server),
    );
    says(&capsid, "cache", REDIS_READY, 1);
    assert_eq!(exec(&capsid, "cache", "redis-cli get greeting"), "hello");
}

/// Joins flags, the image, and a command.
fn words_of<'a>(flags: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
    [flags, &["services"], command].concat()
}

/// Entry point like that of a PostgreSQL image: makes the cluster at the first start.
const POSTGRES: &str = r#"
    export PATH="$PATH:/usr/lib/postgresql/15/bin" PGDATA=/var/lib/postgresql/data
    [ -s $PGDATA/PG_VERSION ] || initdb --auth=trust >/dev/null || exit
    exec postgres -c listen_addresses=localhost
"#;

const POSTGRES_READY: &str = "database system is ready to accept connections";

fn start_database(capsid: &Capsid) {
    let flags = [
        "-u",
        "postgres",
        "-v",
        "rows:/var/lib/postgresql",
        "--stop-signal",
        "INT",
    ];
    capsid.detached("db", &words_of(&flags, &["sh", "-c", POSTGRES]));
    says(capsid, "db", POSTGRES_READY, 1);
}

fn ask(capsid: &Capsid, question: &str) -> String {
    call(capsid, &["exec", "db", "psql", "-qtAc", question])
        .succeeds()
        .text()
}

#[test]
fn postgres_loses_no_committed_row() {
    let capsid = capsid();
    start_database(&capsid);
    let transactions = workload(50);
    let path = "PATH=$PATH:/usr/lib/postgresql/15/bin";
    exec(
        &capsid,
        "db",
        &format!("{path} pgbench -iq 2>&1; {path} pgbench -h localhost -c 4 -j 2 -t {transactions}"),
    );
    let committed = (transactions * 4).to_string();
    assert_eq!(ask(&capsid, "select count(*) from pgbench_history"), committed);
    stops(&capsid, "db");
    call(&capsid, &["start", "db"]).succeeds();
    says(&capsid, "db", POSTGRES_READY, 2);
    call(&capsid, &["rm", "-f", "db"]).succeeds();

    start_database(&capsid);
    assert_eq!(ask(&capsid, "select count(*) from pgbench_history"), committed);
    ask(&capsid, "create table told (number int)");
    let last = last_row_told_before_the_machine_dies(&capsid);
    call(&capsid, &["rm", "-f", "db"]).succeeds();

    start_database(&capsid);
    let found: u64 = ask(&capsid, "select count(*) from told").parse().unwrap();
    // The row that was being committed may be there as well.
    assert!((last..=last + 1).contains(&found), "told of {last} rows, found {found}");
    assert_eq!(
        ask(&capsid, "select sum(number) from told"),
        (found * (found + 1) / 2).to_string()
    );
    assert_eq!(ask(&capsid, "select count(*) from pgbench_history"), committed);
}

/// Commits rows one by one, each reported when it is done, and kills the machine's process. Returns the last row
/// reported.
fn last_row_told_before_the_machine_dies(capsid: &Capsid) -> u64 {
    let script =
        "for n in $(seq 1 100000); do echo \"insert into told values ($n) returning number;\"; done | psql -qtA";
    let mut client = capsid.call(["exec", "db", "sh", "-c", script]).spawn_with(|command| {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
    });
    let machine = Pid::from_raw(i32::try_from(capsid.machine("db")).unwrap());
    let mut last = 0;
    for line in BufReader::new(client.stdout.take().unwrap()).lines() {
        // A row is one line; psql prints nothing after each result.
        last = line.unwrap().parse().unwrap();
        if last == 100 {
            kill(machine, Signal::SIGKILL).unwrap();
        }
    }
    assert!(!client.wait().unwrap().success());
    last
}

const NGINX_READY: &str = "start worker processes";

/// Returns a command that prints a page of the server.
fn fetch(path: &str) -> String {
    format!("busybox wget -qO- http://127.0.0.1/{path}")
}

#[test]
fn nginx_serves_and_logs() {
    let capsid = capsid();
    let flags = ["--stop-signal", "QUIT"];
    capsid.detached(
        "web",
        &words_of(&flags, &["nginx", "-g", "daemon off; error_log stderr notice;"]),
    );
    says(&capsid, "web", NGINX_READY, 1);
    assert_eq!(exec(&capsid, "web", &fetch("")), "served by nginx");
    let script = "cd /var/www/html; head -c 20000000 /dev/urandom >large";
    exec(&capsid, "web", &format!("{script}; {} | cmp - large", fetch("large")));
    exec(&capsid, "web", &format!("! {}", fetch("none")));
    exec(&capsid, "web", "nginx -s reload");
    says(&capsid, "web", NGINX_READY, 2);
    assert_eq!(exec(&capsid, "web", &fetch("")), "served by nginx");
    stops(&capsid, "web");
    let words = log(&capsid, "web");
    assert!(words.contains("\"GET /large HTTP/1.1\" 200 20000000"), "{words}");
    assert!(words.contains("\"GET /none HTTP/1.1\" 404"), "{words}");
    assert!(words.contains("gracefully shutting down"), "{words}");
    call(&capsid, &["start", "web"]).succeeds();
    says(&capsid, "web", NGINX_READY, 3);
    exec(
        &capsid,
        "web",
        &format!("{} | cmp - /var/www/html/large", fetch("large")),
    );
}

/// Script that asks the service of `service.py`, from inside.
const CLIENT: &str = r#"
import sys, urllib.request
body = b"a" * 100_000
answer = urllib.request.urlopen("http://127.0.0.1:8000/", body, timeout=30).read()
count, size, text = answer.split(b" ", 2)
assert int(size) == len(body) and text == body.upper(), answer[:100]
print(int(count))
"#;

#[test]
fn a_python_service_counts_on() {
    let capsid = capsid();
    capsid.detached("service", &words_of(&[], &["python3", "/srv/service.py"]));
    eventually("the service", PATIENCE_S, || {
        log(&capsid, "service").contains("listens")
    });
    let ask = || {
        let client = ["exec", "-i", "service", "python3", "-"];
        capsid
            .call(client)
            .input(CLIENT)
            .within(PATIENCE_S)
            .wait()
            .succeeds()
            .text()
    };
    assert_eq!([ask(), ask(), ask()], ["1", "2", "3"]);
    stops(&capsid, "service");
    let words = log(&capsid, "service");
    assert!(words.contains("ends on signal 15"), "{words}");
    assert_eq!(words.matches("\"POST / HTTP/1.1\" 200").count(), 3, "{words}");
    call(&capsid, &["start", "service"]).succeeds();
    eventually("the service", PATIENCE_S, || {
        log(&capsid, "service").matches("listens").count() == 2
    });
    assert_eq!(ask(), "4");
    call(&capsid, &["rm", "-f", "service"]).succeeds();
}
