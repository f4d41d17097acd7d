//! Health checks: a command run in the container repeatedly, whose exit codes determine its health.

use std::convert::Infallible;
use std::os::unix::net::UnixStream as StdStream;
use std::time::{Duration, Instant};

use capsid_protocol::ExecSpec;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::guest::Guest;
use super::guest_process::status_code;
use super::specs;
use super::supervised_container::SupervisedContainer;
use crate::control::ExecRequest;
use crate::health::{Check, Health};
use crate::model::HealthCheck;
use crate::{clock, error_text, id};

/// Number of bytes of a check's output that are kept, as in docker.
const OUTPUT_BYTES_MAX: usize = 4096;
/// Time limit for sending the guest the kill signal for a check.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// Checks the container as long as it runs.
pub(super) async fn watch(supervised: &SupervisedContainer, guest: &Guest) -> Infallible {
    let Some(check) = supervised.container.borrow().config.health.clone() else {
        return std::future::pending().await;
    };
    let started = Instant::now();
    let mut health = Health::default();
    // A health file that cannot be written is not shown; the events are recorded all the same.
    let _ = health.write(&supervised.data, &supervised.id);
    loop {
        sleep(Duration::from_nanos(check.interval_ns)).await;
        if supervised.is_paused() {
            continue;
        }
        let start = clock::now_ns();
        let (code, output) = run(supervised, guest, &check).await;
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
async fn run(supervised: &SupervisedContainer, guest: &Guest, check: &HealthCheck) -> (i32, String) {
    let Ok(id) = id::new() else {
        return (-1, "no random bytes for its id".into());
    };
    let seconds = check.timeout_ns as f64 / 1e9;
    let spec = specs::exec(&supervised.container.borrow().spec, id.clone(), &request(check));
    match timeout(Duration::from_nanos(check.timeout_ns), execute(guest, spec)).await {
        Ok(ended) => ended,
        Err(_) => {
            // A guest that reads nothing is noticed elsewhere.
            let _ = timeout(KILL_PATIENCE, guest.signal(&id, libc::SIGKILL)).await;
            (-1, format!("Health check exceeded timeout ({seconds}s)"))
        }
    }
}

fn request(check: &HealthCheck) -> ExecRequest {
    ExecRequest {
        args: check.command.iter().map(|word| word.clone().into_bytes()).collect(),
        ..ExecRequest::default()
    }
}

async fn execute(guest: &Guest, spec: ExecSpec) -> (i32, String) {
    let mut process = match guest.spawn(spec).await {
        Ok(process) => process,
        Err(error) => return (-1, error_text::describe(&error)),
    };
    let mut streams = process.streams.drain(..);
    let (stdout, stderr) = (streams.next(), streams.next());
    drop(streams);
    // Both at once: a process that fills one stream must not wait for the end of the other.
    let read = async { tokio::join!(read_some(stdout), read_some(stderr)) };
    let ((mut output, errors), ended) = tokio::join!(read, process.ended());
    output.extend_from_slice(&errors);
    output.truncate(OUTPUT_BYTES_MAX);
    match ended {
        Ok(stopped) => (
            i32::from(status_code(&stopped)),
            String::from_utf8_lossy(&output).into_owned(),
        ),
        Err(error) if error.is_end_of_session() => (-1, "the container ended".into()),
        Err(error) => (i32::from(error.exit_code()), error_text::describe(&error)),
    }
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
