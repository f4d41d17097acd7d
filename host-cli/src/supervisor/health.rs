//! Health checks: a command run in the container repeatedly, whose exit codes determine its health.

use std::convert::Infallible;
use std::os::unix::net::UnixStream as StdStream;
use std::time::{Duration, Instant};

use capsid_protocol::message::{agent_message, host_message};
use capsid_protocol::{Signal, Start};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::agent::Agent;
use super::client::exec_spec;
use super::lifecycle::{exit_code, failed_code, sanitise};
use super::supervised_container::SupervisedContainer;
use crate::control::ExecRequest;
use crate::health::{Check, Health};
use crate::model::HealthCheck;
use crate::{clock, id};

/// Number of bytes of a check's output that are kept, as in docker.
const OUTPUT_BYTES_MAX: usize = 4096;
/// Time limit for sending the guest the kill signal for a check.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// Checks the container as long as it runs.
pub(super) async fn watch(supervised: &SupervisedContainer, agent: &Agent) -> Infallible {
    let Some(check) = supervised.container.borrow().config.health.clone() else {
        return std::future::pending().await;
    };
    let started = Instant::now();
    let mut health = Health::default();
    // A health file that cannot be written is not shown; the events are recorded all the same.
    let _ = health.write(&supervised.data, &supervised.id);
    loop {
        sleep(Duration::from_nanos(check.interval_ns)).await;
        if supervised.paused.get() {
            continue;
        }
        let start = clock::now_ns();
        let (code, output) = run(supervised, agent, &check).await;
        let done = Check {
            start: clock::rfc3339(start),
            end: clock::rfc3339(clock::now_ns()),
            exit_code: code,
            output,
        };
        let counts = started.elapsed() >= Duration::from_nanos(check.start_period_ns);
        let has_changed = health.take(done, check.retries, counts);
        let _ = health.write(&supervised.data, &supervised.id);
        if has_changed {
            supervised.record_event(&format!("health_status: {}", health.status.as_str()), &[]);
        }
    }
}

/// Runs one check. Returns its exit code and output; the code is -1 for a check that timed out, as in docker.
async fn run(supervised: &SupervisedContainer, agent: &Agent, check: &HealthCheck) -> (i32, String) {
    let Ok(id) = id::new() else {
        return (-1, "no random bytes for its id".into());
    };
    let seconds = check.timeout_ns as f64 / 1e9;
    match timeout(
        Duration::from_nanos(check.timeout_ns),
        execute(supervised, agent, check, &id),
    )
    .await
    {
        Ok(ended) => ended,
        Err(_) => {
            let signal = Signal {
                container: id,
                number: libc::SIGKILL as u32,
            };
            // A guest that reads nothing is noticed elsewhere.
            let _ = timeout(KILL_PATIENCE, agent.send(host_message::Kind::Signal(signal))).await;
            (-1, format!("Health check exceeded timeout ({seconds}s)"))
        }
    }
}

async fn execute(supervised: &SupervisedContainer, agent: &Agent, check: &HealthCheck, id: &str) -> (i32, String) {
    let request = ExecRequest {
        args: check.command.iter().map(|word| word.clone().into_bytes()).collect(),
        env: Vec::new(),
        cwd: None,
        user: None,
        terminal: None,
        stdin: false,
        privileged: false,
        detached: false,
    };
    let spec = exec_spec(supervised, id, &request);
    let mut messages = agent.listen_to(id);
    let begin = async {
        agent.send(host_message::Kind::Create(Box::new(spec))).await?;
        agent
            .send(host_message::Kind::Start(Start { container: id.into() }))
            .await
    };
    if let Err(error) = begin.await {
        return (-1, error.to_string());
    }
    let streams = match agent.opener.open_all(id, false, false) {
        Ok(streams) => streams,
        Err(error) => return (-1, error.to_string()),
    };
    let mut streams = streams.into_iter();
    let (stdout, stderr) = (streams.next(), streams.next());
    // Both at once: a process that fills one stream must not wait for the end of the other.
    let read = async { tokio::join!(read_some(stdout), read_some(stderr)) };
    let end = async {
        loop {
            match messages.recv().await {
                Some(agent_message::Kind::Stopped(stopped)) => return (i32::from(exit_code(&stopped)), None),
                Some(agent_message::Kind::Failed(failed)) => {
                    return (i32::from(failed_code(&failed)), Some(sanitise(&failed.message)));
                }
                Some(_) => {}
                None => return (-1, Some("the container ended".into())),
            }
        }
    };
    let ((mut output, errors), (code, failure)) = tokio::join!(read, end);
    output.extend_from_slice(&errors);
    output.truncate(OUTPUT_BYTES_MAX);
    (
        code,
        failure.unwrap_or_else(|| String::from_utf8_lossy(&output).into_owned()),
    )
}

/// Reads the first bytes of a stream, then reads and drops the others.
async fn read_some(stream: Option<StdStream>) -> Vec<u8> {
    let mut output = Vec::new();
    if let Some(stream) = stream
        && stream.set_nonblocking(true).is_ok()
        && let Ok(mut stream) = UnixStream::from_std(stream)
    {
        // A stream that breaks has ended.
        let _ = (&mut stream)
            .take(OUTPUT_BYTES_MAX as u64)
            .read_to_end(&mut output)
            .await;
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    }
    output
}
