//! Tests of the disk as a guest sees it, including a hostile one.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::request::STATUS_UNSUPPORTED;
use super::*;
use crate::virtio::test_driver::{Part, TestQueue, memory, process};

const HEADER: u64 = TestQueue::FREE;
const STATUS: u64 = TestQueue::FREE + 0x100;
pub(super) const DATA: u64 = TestQueue::FREE + 0x1000;
/// Border between the two regions of memory.
const BORDER: u64 = crate::virtio::test_driver::MEMORY_BYTES / 2;

pub(super) const IN: u32 = 0;
pub(super) const OUT: u32 = 1;
pub(super) const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

pub(super) struct Fixture {
    device: BlockDevice,
    memory: GuestMemoryMmap,
    queue: TestQueue,
    files: Vec<File>,
}

impl Fixture {
    fn new(contents: &[&[u8]], readonly: bool) -> Self {
        let files: Vec<File> = contents
            .iter()
            .map(|bytes| {
                let file = tempfile::tempfile().expect("a file");
                file.write_all_at(bytes, 0).expect("space");
                file
            })
            .collect();
        let handed = files.iter().map(|file| file.try_clone().expect("an fd")).collect();
        Self {
            files,
            ..Self::of(BlockDevice::new(
                Disk::new(handed, readonly).expect("a disk"),
                "serial",
                false,
            ))
        }
    }

    pub(super) fn of(device: BlockDevice) -> Self {
        Self {
            device,
            memory: memory(),
            queue: TestQueue::new(0),
            files: Vec::new(),
        }
    }

    /// Makes the device read its control socket.
    pub(super) fn poke(&mut self) {
        let queues = &mut [&mut self.queue];
        process(&mut self.device, Cause::Backend, &self.memory, queues).expect("no queue is touched");
    }

    pub(super) fn counters(&self) -> BlockCounters {
        self.device.counters()
    }

    /// Sends a request whose data are `parts`; returns the number of used bytes and the status.
    pub(super) fn request(&mut self, kind: u32, sector: u64, parts: &[Part]) -> (u32, u8) {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.memory
            .write_slice(&header, GuestAddress(HEADER))
            .expect("in memory");
        self.memory.write_obj(0xff_u8, GuestAddress(STATUS)).expect("in memory");
        let mut chain = vec![(HEADER, 16, false)];
        chain.extend(parts);
        chain.push((STATUS, 1, true));
        let head = self.queue.add(&self.memory, &chain);
        let signals = self.run();
        assert!(signals.any());
        let used = self.queue.used(&self.memory);
        assert_eq!(used.len(), 1);
        assert_eq!(used[0].0, head);
        (
            used[0].1,
            self.memory.read_obj(GuestAddress(STATUS)).expect("in memory"),
        )
    }

    /// Makes a request of 512 bytes available, at addresses apart from those of [`Self::request`], which may overtake
    /// it.
    pub(super) fn submit(&mut self, kind: u32, sector: u64, data: [u8; 512]) {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.put(HEADER + 0x40, &header);
        self.put(STATUS + 0x40, &[0xff]);
        self.put(DATA + 0x1000, &data);
        let chain = [
            (HEADER + 0x40, 16, false),
            (DATA + 0x1000, 512, false),
            (STATUS + 0x40, 1, true),
        ];
        self.queue.add(&self.memory, &chain);
    }

    /// Makes the submitted request available once more.
    pub(super) fn offer_again(&mut self) {
        self.queue.offer(&self.memory, 0);
    }

    /// Status of the submitted request, once it is answered.
    pub(super) fn submitted(&mut self) -> Option<u8> {
        let is_answered = !self.queue.used(&self.memory).is_empty();
        is_answered.then(|| self.bytes(STATUS + 0x40, 1)[0])
    }

    pub(super) fn reset(&mut self) {
        self.device.reset();
    }

    pub(super) fn run(&mut self) -> Signals {
        process(&mut self.device, Cause::Queue(0), &self.memory, &mut [&mut self.queue]).expect("a good queue")
    }

    pub(super) fn bytes(&self, address: u64, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .expect("in memory");
        bytes
    }

    fn put(&self, address: u64, bytes: &[u8]) {
        self.memory
            .write_slice(bytes, GuestAddress(address))
            .expect("in memory");
    }

    fn file_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.files[0].metadata().expect("a file").len() as usize];
        self.files[0].read_exact_at(&mut bytes, 0).expect("readable");
        bytes
    }
}

fn segment(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}

#[test]
fn files_follow_each_other_in_whole_pages() {
    let mut fixture = Fixture::new(&[&[1; 4096], &[2; 5000], &[3; 100]], true);
    assert_eq!(fixture.device.config()[..8], 32_u64.to_le_bytes());
    fixture.put(DATA, &[9; 16384]);
    assert_eq!(fixture.request(IN, 0, &[(DATA, 16384, true)]), (16385, STATUS_OK));
    let bytes = fixture.bytes(DATA, 16384);
    assert!(bytes[..4096].iter().all(|&byte| byte == 1));
    assert!(bytes[4096..9096].iter().all(|&byte| byte == 2));
    assert!(bytes[9096..12288].iter().all(|&byte| byte == 0));
    assert!(bytes[12288..12388].iter().all(|&byte| byte == 3));
    assert!(bytes[12388..].iter().all(|&byte| byte == 0));
    // A read of one sector at the end of the second file's bytes.
    assert_eq!(fixture.request(IN, 17, &[(DATA, 512, true)]), (513, STATUS_OK));
    assert_eq!(
        fixture.bytes(DATA, 512),
        [vec![2; 9096 - 17 * 512], vec![0; 18 * 512 - 9096]].concat()
    );
}

#[test]
fn data_lie_in_any_number_of_pieces() {
    let contents: Vec<u8> = (0..8192_u32).map(|n| (n / 7) as u8).collect();
    let mut fixture = Fixture::new(&[&contents], true);
    let parts = [(DATA, 1, true), (BORDER - 100, 511, true), (DATA + 1, 1024, true)];
    assert_eq!(fixture.request(IN, 2, &parts), (1537, STATUS_OK));
    let read = [
        fixture.bytes(DATA, 1),
        fixture.bytes(BORDER - 100, 511),
        fixture.bytes(DATA + 1, 1024),
    ]
    .concat();
    assert_eq!(read, contents[1024..2560]);
}

#[test]
fn what_is_written_is_in_the_file() {
    let mut fixture = Fixture::new(&[&[0; 8192]], false);
    fixture.put(DATA, &[7; 1024]);
    assert_eq!(
        fixture.request(OUT, 3, &[(DATA, 1000, false), (DATA, 24, false)]),
        (1, STATUS_OK)
    );
    assert_eq!(fixture.request(FLUSH, 0, &[]), (1, STATUS_OK));
    let bytes = fixture.file_bytes();
    assert!(bytes[..1536].iter().all(|&byte| byte == 0));
    assert!(bytes[1536..2560].iter().all(|&byte| byte == 7));
    assert!(bytes[2560..].iter().all(|&byte| byte == 0));
}

#[test]
fn a_readonly_disk_never_changes() {
    let mut fixture = Fixture::new(&[&[5; 8192]], true);
    assert_ne!(fixture.device.features() & 1 << VIRTIO_BLK_F_RO, 0);
    assert_eq!(fixture.device.features() & 1 << VIRTIO_BLK_F_DISCARD, 0);
    fixture.put(DATA, &segment(0, 8, 0));
    for (kind, bytes) in [(OUT, 512), (DISCARD, 16), (WRITE_ZEROES, 16)] {
        assert_eq!(fixture.request(kind, 0, &[(DATA, bytes, false)]), (1, STATUS_IOERR));
    }
    assert_eq!(fixture.file_bytes(), [5; 8192]);
    assert_eq!(fixture.device.counters().refused, 3);
}

#[test]
fn nothing_past_the_end_is_touched() {
    let mut fixture = Fixture::new(&[&[5; 8192]], false);
    for sector in [16, 15, u64::MAX, u64::MAX / 512, u64::MAX / 512 + 1, i64::MAX as u64] {
        let bytes = 1024;
        assert_eq!(fixture.request(IN, sector, &[(DATA, bytes, true)]), (1, STATUS_IOERR));
        assert_eq!(fixture.request(OUT, sector, &[(DATA, bytes, false)]), (1, STATUS_IOERR));
        fixture.put(DATA, &segment(sector, 2, 0));
        assert_eq!(fixture.request(DISCARD, 0, &[(DATA, 16, false)]), (1, STATUS_IOERR));
    }
    assert_eq!(fixture.file_bytes(), [5; 8192]);
}

#[test]
fn a_request_has_whole_sectors_and_a_bounded_size() {
    let mut fixture = Fixture::new(&[&vec![5; 2 << 20]], true);
    assert_eq!(fixture.request(IN, 0, &[(DATA, 511, true)]), (1, STATUS_IOERR));
    assert_eq!(
        fixture.request(IN, 0, &[(DATA, 1 << 20, true)]),
        ((1 << 20) + 1, STATUS_OK)
    );
    assert_eq!(
        fixture.request(IN, 0, &[(DATA, 1 << 20, true), (DATA, 512, true)]),
        (1, STATUS_IOERR)
    );
}

#[test]
fn discards_give_space_back_and_read_as_zero() {
    let mut fixture = Fixture::new(&[&[5; 16384]], false);
    let before = fixture.files[0].metadata().expect("a file").blocks();
    fixture.put(DATA, &[segment(0, 8, 0), segment(16, 8, 0)].concat());
    assert_eq!(fixture.request(DISCARD, 0, &[(DATA, 32, false)]), (1, STATUS_OK));
    let after = fixture.files[0].metadata().expect("a file").blocks();
    assert!(after < before, "{after} blocks of {before}");
    let expected = [[0; 4096], [5; 4096], [0; 4096], [5; 4096]].concat();
    assert_eq!(fixture.file_bytes(), expected);
}

#[test]
fn discards_keep_to_their_limits() {
    let mut fixture = Fixture::new(&[&[5; 16384]], false);
    fixture.put(DATA, &segment(0, 8, 1));
    assert_eq!(
        fixture.request(DISCARD, 0, &[(DATA, 16, false)]),
        (1, STATUS_UNSUPPORTED)
    );
    fixture.put(DATA, &segment(0, 8, 2));
    assert_eq!(
        fixture.request(WRITE_ZEROES, 0, &[(DATA, 16, false)]),
        (1, STATUS_UNSUPPORTED)
    );
    fixture.put(DATA, &segment(0, u32::MAX, 0));
    assert_eq!(fixture.request(DISCARD, 0, &[(DATA, 16, false)]), (1, STATUS_IOERR));
    fixture.put(DATA, &segment(0, 1, 0).repeat(17));
    assert_eq!(
        fixture.request(DISCARD, 0, &[(DATA, 17 * 16, false)]),
        (1, STATUS_IOERR)
    );
    assert_eq!(fixture.request(DISCARD, 0, &[(DATA, 15, false)]), (1, STATUS_IOERR));
    assert_eq!(fixture.request(DISCARD, 0, &[]), (1, STATUS_IOERR));
    assert_eq!(fixture.file_bytes(), [5; 16384]);
}

#[test]
fn zeroes_are_written_with_and_without_giving_space_back() {
    for flags in [0, 1] {
        let mut fixture = Fixture::new(&[&[5; 16384]], false);
        fixture.put(DATA, &segment(8, 8, flags));
        let (bytes, status) = fixture.request(WRITE_ZEROES, 0, &[(DATA, 16, false)]);
        // Not every file system of a host can zero a range in place; then the guest's kernel writes zeros itself.
        if flags == 0 && status == STATUS_IOERR {
            println!("skipped: no FALLOC_FL_ZERO_RANGE here");
            continue;
        }
        assert_eq!((bytes, status), (1, STATUS_OK));
        assert_eq!(
            fixture.file_bytes(),
            [vec![5; 4096], vec![0; 4096], vec![5; 8192]].concat()
        );
    }
}

#[test]
fn the_serial_is_padded_with_zeros() {
    let mut fixture = Fixture::new(&[&[0; 4096]], true);
    fixture.put(DATA, &[9; 32]);
    assert_eq!(fixture.request(GET_ID, 0, &[(DATA, 20, true)]), (21, STATUS_OK));
    assert_eq!(&fixture.bytes(DATA, 21), b"serial\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x09");
    assert_eq!(fixture.request(GET_ID, 0, &[(DATA, 19, true)]), (1, STATUS_IOERR));
}

#[test]
fn unknown_requests_are_unsupported() {
    let mut fixture = Fixture::new(&[&[0; 4096]], true);
    assert_eq!(fixture.request(99, 0, &[]), (1, STATUS_UNSUPPORTED));
}

#[test]
fn chains_that_cannot_be_answered_are_counted_and_given_back() {
    let mut fixture = Fixture::new(&[&[0; 4096]], true);
    let chains: [&[Part]; 6] = [
        &[(HEADER, 16, false)],
        &[(HEADER, 15, false), (STATUS, 1, true)],
        &[(STATUS, 1, true), (HEADER, 16, false)],
        &[(HEADER, 16, false), (u64::MAX - 4, 8, true)],
        &[(HEADER, 16, false), (DATA, u32::MAX, true)],
        &[(STATUS, 1, true)],
    ];
    for (count, chain) in chains.into_iter().enumerate() {
        let head = fixture.queue.add(&fixture.memory, chain);
        fixture.run();
        assert_eq!(fixture.queue.used(&fixture.memory), [(head, 0)]);
        assert_eq!(fixture.device.counters().malformed, count as u64 + 1);
    }
}

#[test]
fn a_file_that_was_cut_fails_instead_of_lying() {
    let mut fixture = Fixture::new(&[&[5; 8192]], true);
    fixture.files[0].set_len(4096).expect("cut");
    assert_eq!(fixture.request(IN, 8, &[(DATA, 512, true)]).1, STATUS_IOERR);
    assert_eq!(fixture.device.counters().failed, 1);
}

#[test]
fn impossible_disks_are_refused() {
    let file = |bytes| {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(bytes).expect("sparse");
        file
    };
    assert!(matches!(
        Disk::new(vec![], true),
        Err(DiskError::ExtentCount { count: 0 })
    ));
    assert!(matches!(
        Disk::new(vec![file(512), file(512)], false),
        Err(DiskError::WritableExtents { count: 2 })
    ));
    assert!(matches!(
        Disk::new(vec![file(513)], false),
        Err(DiskError::PartialSector { bytes: 513 })
    ));
    let null = File::open("/dev/null").expect("it is everywhere");
    assert!(matches!(
        Disk::new(vec![null], true),
        Err(DiskError::NotRegular { index: 0 })
    ));
}

fn part() -> impl Strategy<Value = Part> {
    let address = prop_oneof![
        0..crate::virtio::test_driver::MEMORY_BYTES + 0x1000,
        Just(HEADER),
        Just(DATA),
        Just(BORDER - 8),
        any::<u64>()
    ];
    let bytes = prop_oneof![Just(16_u32), Just(1), Just(0), Just(512), 0..70000_u32, any::<u32>()];
    (address, bytes, any::<bool>())
}

proptest! {
    #[test]
    fn no_chain_harms_a_readonly_disk(
        kind in prop_oneof![0..16_u32, any::<u32>()],
        sector in prop_oneof![0..64_u64, any::<u64>()],
        chains in prop::collection::vec(prop::collection::vec(part(), 1..6), 1..8),
    ) {
        let mut fixture = Fixture::new(&[&[5; 8192]], true);
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        fixture.put(HEADER, &header);
        for chain in &chains {
            fixture.queue.add(&fixture.memory, chain);
        }
        // The data may have overwritten the rings: then the queue is at fault, and nothing else.
        let _ = process(&mut fixture.device, Cause::Queue(0), &fixture.memory, &mut [&mut fixture.queue]);
        prop_assert_eq!(fixture.file_bytes(), vec![5; 8192]);
    }
}
