//! Messages of the session, read by the host and by the agent. Each message is written and read again, and must be
//! unchanged.
#![no_main]

use capsid_protocol::{AgentMessage, HostMessage, read_frame, write_frame};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut agent = bytes;
    while let Ok(message) = read_frame::<AgentMessage>(&mut agent) {
        let mut again = Vec::new();
        if write_frame(&mut again, &message).is_ok() {
            assert_eq!(read_frame::<AgentMessage>(&mut &*again).ok(), Some(message));
        }
    }
    let mut host = bytes;
    while let Ok(message) = read_frame::<HostMessage>(&mut host) {
        let mut again = Vec::new();
        if write_frame(&mut again, &message).is_ok() {
            assert_eq!(read_frame::<HostMessage>(&mut &*again).ok(), Some(message));
        }
    }
});
