//! Tests of the server, driven as QEMU drives it, by the protocol crate's own front end.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::QueueT;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::server::{Server, ServerError};
use crate::virtio::block::{BlockDevice, Disk};
use crate::virtio::test_driver::TestQueue;

const MEMORY_BYTES: usize = 4 << 20;
/// Address at which the front end claims to have guest memory: an address of its own, not the guest's.
const FRONTEND_ADDRESS: u64 = 0x7000_0000_0000;

struct Fixture {
    frontend: Frontend,
    memory: GuestMemoryMmap,
    memory_file: File,
    server: JoinHandle<Result<(), ServerError>>,
}

impl Fixture {
    fn new() -> Self {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        let file = tempfile::tempfile().expect("a file");
        file.write_all_at(&[5; 4096], 0).expect("space");
        let disk = Disk::new(vec![file], true).expect("a disk");
        let device = Box::new(BlockDevice::new(disk, "serial", false));
        let server = Server::new(device, theirs).expect("a server");
        let memory_file = tempfile::tempfile().expect("a file");
        memory_file.set_len(MEMORY_BYTES as u64).expect("sparse");
        let shared = FileOffset::new(memory_file.try_clone().expect("an fd"), 0);
        let range = (GuestAddress(0), MEMORY_BYTES, Some(shared));
        Self {
            frontend: Frontend::from_stream(ours, 1),
            memory: GuestMemoryMmap::from_ranges_with_files([range]).expect("a mapping"),
            memory_file,
            server: thread::spawn(|| server.run()),
        }
    }

    fn negotiate(&mut self) {
        let frontend = &mut self.frontend;
        frontend.set_owner().expect("taken");
        let features = frontend.get_features().expect("an answer");
        assert_ne!(features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits(), 0);
        let protocol = frontend.get_protocol_features().expect("an answer");
        assert!(protocol.contains(VhostUserProtocolFeatures::CONFIG));
        frontend.set_protocol_features(protocol).expect("taken");
        // The test's driver wants an interrupt for everything.
        let event_idx = 1 << VIRTIO_RING_F_EVENT_IDX;
        frontend.set_features(features & !event_idx).expect("taken");
    }

    fn share_memory(&self) {
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: 0,
            memory_size: MEMORY_BYTES as u64,
            userspace_addr: FRONTEND_ADDRESS,
            mmap_offset: 0,
            mmap_handle: self.memory_file.as_raw_fd(),
        };
        self.frontend.set_mem_table(&[region]).expect("taken");
    }

    /// Starts ring 0 as `queue`; returns its notification and its interrupt.
    fn start(&mut self, queue: &TestQueue) -> (EventFd, EventFd) {
        let [kick, call] = [(), ()].map(|()| EventFd::new(libc::EFD_NONBLOCK).expect("an eventfd"));
        let addresses = VringConfigData {
            queue_max_size: queue.queue.size(),
            queue_size: queue.queue.size(),
            flags: 0,
            desc_table_addr: FRONTEND_ADDRESS + queue.queue.desc_table(),
            used_ring_addr: FRONTEND_ADDRESS + queue.queue.used_ring(),
            avail_ring_addr: FRONTEND_ADDRESS + queue.queue.avail_ring(),
            log_addr: None,
        };
        self.frontend.set_vring_num(0, queue.queue.size()).expect("taken");
        self.frontend.set_vring_base(0, 0).expect("taken");
        self.frontend.set_vring_addr(0, &addresses).expect("taken");
        self.frontend.set_vring_call(0, &call).expect("taken");
        self.frontend.set_vring_kick(0, &kick).expect("taken");
        self.frontend.set_vring_enable(0, true).expect("taken");
        (kick, call)
    }

    fn offer_read(&self, queue: &mut TestQueue) {
        let at = TestQueue::FREE;
        self.memory.write_slice(&[0; 16], GuestAddress(at)).expect("in memory");
        queue.add(
            &self.memory,
            &[(at, 16, false), (at + 0x1000, 4096, true), (at + 0x100, 1, true)],
        );
    }

    fn end(self) -> Result<(), ServerError> {
        drop(self.frontend);
        self.server.join().expect("no panic")
    }
}

fn wait_for(event: &EventFd) {
    for _ in 0..500 {
        if event.read().is_ok() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("no interrupt in 5 s");
}

#[test]
fn a_disk_is_read_through_shared_memory() {
    let mut fixture = Fixture::new();
    fixture.negotiate();
    let flags = VhostUserConfigFlags::WRITABLE;
    let (_, config) = fixture.frontend.get_config(0, 60, flags, &[0; 60]).expect("an answer");
    assert_eq!(config[..8], 8_u64.to_le_bytes());
    fixture.share_memory();
    let mut queue = TestQueue::new(0);
    // One chain is there before the ring starts, one comes after.
    fixture.offer_read(&mut queue);
    let (kick, call) = fixture.start(&queue);
    wait_for(&call);
    fixture.offer_read(&mut queue);
    kick.write(1).expect("written");
    wait_for(&call);
    assert_eq!(queue.used(&fixture.memory).len(), 2);
    let mut bytes = [0; 4096];
    fixture
        .memory
        .read_slice(&mut bytes, GuestAddress(TestQueue::FREE + 0x1000))
        .expect("in memory");
    assert_eq!(bytes, [5; 4096]);
    assert_eq!(fixture.frontend.get_vring_base(0).expect("an answer"), 2);
    fixture.end().expect("a front end that goes is no error");
}

#[test]
fn a_disabled_ring_is_not_served() {
    let mut fixture = Fixture::new();
    fixture.negotiate();
    fixture.share_memory();
    let mut queue = TestQueue::new(0);
    let (kick, call) = fixture.start(&queue);
    fixture.frontend.set_vring_enable(0, false).expect("taken");
    // A request with an answer makes sure that the others have been handled.
    fixture.frontend.get_features().expect("an answer");
    fixture.offer_read(&mut queue);
    kick.write(1).expect("written");
    fixture.frontend.get_features().expect("an answer");
    assert!(queue.used(&fixture.memory).is_empty());
    fixture.frontend.set_vring_enable(0, true).expect("taken");
    wait_for(&call);
    assert_eq!(queue.used(&fixture.memory).len(), 1);
    fixture.end().expect("a front end that goes is no error");
}

#[test]
fn rings_outside_of_memory_are_refused() {
    let mut fixture = Fixture::new();
    fixture.negotiate();
    fixture.share_memory();
    let addresses = VringConfigData {
        queue_max_size: 64,
        queue_size: 64,
        flags: 0,
        desc_table_addr: FRONTEND_ADDRESS + MEMORY_BYTES as u64,
        used_ring_addr: FRONTEND_ADDRESS,
        avail_ring_addr: FRONTEND_ADDRESS,
        log_addr: None,
    };
    // The front end does not wait for an answer; the server ends.
    let _ = fixture.frontend.set_vring_addr(0, &addresses);
    assert!(matches!(fixture.end(), Err(ServerError::Request(_))));
}

#[test]
fn bytes_that_are_no_request_end_the_server() {
    let (mut ours, theirs) = UnixStream::pair().expect("sockets");
    let server = Server::new(Box::new(crate::virtio::rng::RngDevice::new()), theirs).expect("a server");
    ours.write_all(&[0xff; 64]).expect("open");
    assert!(matches!(server.run(), Err(ServerError::Request(_))));
}
