//! Tests of disk slots as their guest and their supervisor see them.

use std::fs::File;
use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, socketpair,
};

use super::tests::{DATA, FLUSH, Fixture, IN, OUT};
use super::*;
use crate::disk_slots::{Change, DONE, REFUSED, SLOT_BYTES};

struct Bench {
    fixture: Fixture,
    control: File,
}

impl Bench {
    fn new() -> Self {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a socket");
        Self {
            fixture: Fixture::of(BlockDevice::with_disk_slots(theirs, "disk slots")),
            control: File::from(ours),
        }
    }

    fn send(&mut self, change: &Change, files: &[&File]) -> u8 {
        self.post(change, files);
        self.fixture.poke();
        self.answer()
    }

    fn answer(&mut self) -> u8 {
        let mut word = [0];
        self.control.read_exact(&mut word).expect("an answer");
        word[0]
    }

    /// Sends a change that the device does not notice yet.
    fn post(&mut self, change: &Change, files: &[&File]) {
        let fds: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
        let bytes = change.encode();
        rustix::net::sendmsg(
            &self.control,
            &[IoSlice::new(&bytes)],
            &mut ancillary,
            SendFlags::empty(),
        )
        .expect("a reader");
    }

    fn insert(&mut self, slot: u16, readonly: bool, files: &[&File]) -> u8 {
        let lengths = files
            .iter()
            .map(|file| file.metadata().expect("a file").len())
            .collect();
        let change = Change::Plug {
            slot,
            readonly,
            ignore_flush: false,
            lengths,
        };
        self.send(&change, files)
    }

    /// Plugs a disk into slot 1 that has no room for any write.
    fn insert_full(&mut self) {
        let full = File::options().read(true).write(true).open("/dev/full");
        assert_eq!(self.send(&one_page(), &[&full.expect("a device")]), DONE);
    }

    fn status(&mut self, kind: u32, slot: u64, sector: u64) -> u8 {
        let sector = slot * (SLOT_BYTES / SECTOR_BYTES) + sector;
        let writes = kind == IN;
        let parts: &[_] = if kind == FLUSH { &[] } else { &[(DATA, 512, writes)] };
        self.fixture.request(kind, sector, parts).1
    }
}

/// Change that plugs a writable disk of 4096 bytes into slot 1.
fn one_page() -> Change {
    Change::Plug {
        slot: 1,
        readonly: false,
        ignore_flush: false,
        lengths: vec![4096],
    }
}

fn file(content: u8) -> File {
    let file = tempfile::tempfile().expect("a file");
    file.write_all_at(&[content; 4096], 0).expect("space");
    file
}

#[test]
fn disks_come_and_go() {
    let mut bench = Bench::new();
    let (one, two) = (file(1), file(2));
    assert_eq!(bench.status(IN, 1, 0), STATUS_IOERR);
    assert_eq!(bench.insert(1, false, &[&one]), DONE);
    assert_eq!(bench.insert(255, true, &[&one, &two]), DONE);
    assert_eq!(bench.status(IN, 255, 15), STATUS_OK);
    assert_eq!(bench.fixture.bytes(DATA, 512), [2; 512]);
    assert_eq!(bench.status(OUT, 1, 7), STATUS_OK);
    assert_eq!(bench.status(FLUSH, 0, 0), STATUS_OK);
    let mut written = [0; 512];
    one.read_exact_at(&mut written, 4096 - 512).expect("readable");
    assert_eq!(written, [2; 512]);
    assert_eq!(bench.send(&Change::Unplug { slot: 1 }, &[]), DONE);
    assert_eq!(bench.status(IN, 1, 0), STATUS_IOERR);
    assert_eq!(bench.insert(1, false, &[&two]), DONE);
    assert_eq!(bench.status(IN, 1, 0), STATUS_OK);
}

#[test]
fn nothing_beside_a_disk_is_reached() {
    let mut bench = Bench::new();
    let one = file(1);
    assert_eq!(bench.insert(1, true, &[&one]), DONE);
    // After its end, before its beginning, and where it is read-only.
    for (kind, slot, sector) in [(IN, 1, 8), (IN, 0, 0), (IN, 2, 0), (OUT, 1, 0), (OUT, 3, 0)] {
        assert_eq!(bench.status(kind, slot, sector), STATUS_IOERR, "{kind} {slot} {sector}");
    }
    let counters = bench.fixture.counters();
    assert_eq!((counters.refused, counters.failed), (5, 0));
    let mut content = [0; 4096];
    one.read_exact_at(&mut content, 0).expect("readable");
    assert_eq!(content, [1; 4096]);
}

/// Tests a full host disk, which `/dev/full` always is, until there is room.
#[test]
fn a_write_without_room_is_held_and_nothing_waits_for_it() {
    let mut bench = Bench::new();
    let (roomy, other) = (file(0), file(3));
    bench.insert_full();
    assert_eq!(bench.insert(2, false, &[&other]), DONE);
    let sector = SLOT_BYTES / SECTOR_BYTES;
    bench.fixture.submit(OUT, sector, [9; 512]);
    assert!(!bench.fixture.run().any(), "answered");
    assert_eq!(bench.status(IN, 2, 0), STATUS_OK);
    bench.fixture.poke();
    assert_eq!(bench.fixture.counters().held, 2);
    bench.post(&Change::Unplug { slot: 1 }, &[]);
    bench.post(&one_page(), &[&roomy]);
    bench.fixture.poke();
    assert_eq!((bench.answer(), bench.answer()), (DONE, DONE));
    assert_eq!(bench.fixture.submitted(), Some(STATUS_OK));
    let mut content = [0; 512];
    roomy.read_exact_at(&mut content, 0).expect("readable");
    assert_eq!(content, [9; 512]);
}

/// Tests a driver that makes one chain available again and again.
#[test]
fn no_more_writes_are_held_than_a_queue_has() {
    let mut bench = Bench::new();
    bench.insert_full();
    bench.fixture.submit(OUT, SLOT_BYTES / SECTOR_BYTES, [9; 512]);
    bench.fixture.run();
    for _ in 0..1000 {
        bench.fixture.offer_again();
        bench.fixture.run();
    }
    assert_eq!(bench.fixture.counters().held, 256);
    assert_eq!(bench.fixture.counters().failed, 1001 - 256);
}

#[test]
fn a_write_without_room_is_forgotten_with_its_driver() {
    let mut bench = Bench::new();
    bench.insert_full();
    bench.fixture.submit(OUT, SLOT_BYTES / SECTOR_BYTES, [9; 512]);
    bench.fixture.run();
    bench.fixture.reset();
    assert_eq!(bench.send(&Change::Unplug { slot: 1 }, &[]), DONE);
    assert_eq!(bench.fixture.submitted(), None);
}

#[test]
fn a_change_that_cannot_be_is_refused() {
    let mut bench = Bench::new();
    let (one, two) = (file(1), file(2));
    assert_eq!(bench.send(&Change::Unplug { slot: 1 }, &[]), REFUSED);
    assert_eq!(bench.insert(1, false, &[&one]), DONE);
    assert_eq!(bench.insert(1, false, &[&two]), REFUSED);
    assert_eq!(bench.insert(2, false, &[&one, &two]), REFUSED);
    let missing = Change::Plug {
        slot: 3,
        readonly: true,
        ignore_flush: false,
        lengths: vec![4096, 4096],
    };
    assert_eq!(bench.send(&missing, &[&one]), REFUSED);
    one.set_len(SLOT_BYTES + 512).expect("sparse");
    assert_eq!(bench.insert(4, false, &[&one]), REFUSED);
}
