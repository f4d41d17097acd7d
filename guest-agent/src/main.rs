//! `capsid-agent`: PID 1 of the guest. It makes containers from the specs that the host sends.
//!
//! The same binary is started again as the [`container_init`] of each container: the process that becomes its program.
//! PID 1 itself never panics over anything a container does; if it did, the kernel would panic too, and the machine
//! would end.
#![cfg_attr(not(test), no_main)]
#![cfg_attr(test, allow(dead_code, reason = "tests have an entry of their own"))]

mod arguments;
mod beneath;
mod capability;
mod cgroup;
mod clock;
mod container;
mod container_init;
mod control;
mod devices;
mod disk;
mod disk_slots;
mod disk_users;
mod exec;
mod exec_process;
mod failure;
mod free_space;
mod guest;
mod init;
mod limits;
mod log;
mod mount;
mod namespaces;
mod network;
mod plan;
mod pod;
mod pod_init;
mod populate;
mod process_lifecycle;
mod processes;
mod reaper;
mod request;
mod rootfs;
mod session;
mod share;
mod spawner;
mod spec;
mod stream;
mod sys;
mod task;
mod terminal;
mod threads;
mod user;
mod volume;

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use rustix::time::ClockId;

use crate::disk_users::DiskUsers;
use crate::process_lifecycle::AgentContext;
use crate::reaper::Reaper;
use crate::session::SessionError;
use crate::spawner::Spawner;

/// Runs the role that the binary was started in. Returns the exit code.
fn run(is_container_init: bool) -> i32 {
    if is_container_init {
        return container_init::run();
    }
    if !rustix::process::getpid().is_init() {
        log::warn("the agent is the first process of a guest, and nothing else");
        return 1;
    }
    let now = rustix::time::clock_gettime(ClockId::Boottime);
    let agent_start_ns = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
    match guest::set_up() {
        Ok(program) => {
            if let Err(e) = serve(program, agent_start_ns) {
                log::fatal(&format!("the session ended: {}", log::chain(&e)));
            }
        }
        Err(e) => log::fatal(&format!("cannot set up the guest: {}", log::chain(&e))),
    }
    guest::power_off();
    // Only when the machine cannot be reset: PID 1's end is a kernel panic, which ends it too.
    1
}

/// Serves the host until the session ends.
fn serve(program: OwnedFd, agent_start_ns: u64) -> Result<(), SessionError> {
    // Before any thread: threads inherit the mask, and the ends of children are announced by a signal.
    sys::block_signals();
    sys::ignore_sigpipe();
    let context = Arc::new(AgentContext {
        spawner: Spawner {
            program,
            reaper: Reaper::default(),
        },
        disk_users: DiskUsers::default(),
        pod: Mutex::default(),
        pod_network: Mutex::default(),
    });
    let reaped = Arc::clone(&context);
    threads::spawn("reaper", move || reaped.spawner.reaper.run()).map_err(SessionError::Thread)?;
    session::run(context, agent_start_ns)
}
