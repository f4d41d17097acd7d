use super::*;

fn header(kind: u8, name: &[u8], size: &[u8]) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[..name.len()].copy_from_slice(name);
    block[100..107].copy_from_slice(b"0000644");
    block[124..124 + size.len()].copy_from_slice(size);
    block[156] = kind;
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
    block[154] = 0;
    block
}

fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

/// Name, kind and content of a member.
type Listed = (Vec<u8>, u8, Vec<u8>);

fn members(archive: &[u8]) -> Result<Vec<Listed>, ReadTarError> {
    let mut tar = TarReader::new(archive);
    let mut all = Vec::new();
    while let Some(member) = tar.next_member()? {
        let mut content = Vec::new();
        tar.read_to_end(&mut content).unwrap();
        assert_eq!(content.len() as u64, member.size);
        all.push((member.path, member.kind, content));
    }
    Ok(all)
}

#[test]
fn names_and_sizes_come_from_the_last_word() {
    let pax = b"12 path=abc\n10 size=3\n";
    let archive = [
        header(b'L', b"././@LongLink", b"5"),
        padded(b"long\0"),
        header(b'0', b"short", b"2"),
        padded(b"hi"),
        header(b'x', b"pax", b"26"),
        padded(pax),
        header(b'0', b"other", b"0"),
        padded(b"xyz"),
        header(0, b"dir/", b"0"),
        header(b'1', b"link", b"7"),
        vec![0; 1024],
    ]
    .concat();
    let found = members(&archive).unwrap();
    let expected: [(&[u8], u8, &[u8]); 4] = [
        (b"long", b'0', b"hi"),
        (b"abc", b'0', b"xyz"),
        (b"dir/", b'5', b""),
        (b"link", b'1', b""),
    ];
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!((found.0.as_slice(), found.1, found.2.as_slice()), expected);
    }
}

#[test]
fn sparse_files_have_their_holes() {
    let map = padded(b"2\n0\n2\n6\n2\n");
    let records = b"22 GNU.sparse.major=1\n26 GNU.sparse.realsize=10\n";
    let pax = [
        header(b'x', b"pax", format!("{:o}", records.len()).as_bytes()),
        padded(records),
    ]
    .concat();
    let size = format!("{:o}", map.len() + 4);
    let archive = [
        pax,
        header(b'0', b"s", size.as_bytes()),
        map,
        padded(b"abcd"),
        vec![0; 1024],
    ]
    .concat();
    assert_eq!(members(&archive).unwrap()[0].2, b"ab\0\0\0\0cd\0\0");
}

#[test]
fn damage_is_told() {
    let good = [header(b'0', b"a", b"2"), padded(b"hi"), vec![0; 1024]].concat();
    assert!(members(&good).is_ok());
    let mut bad = good.clone();
    bad[0] = b'b';
    assert!(matches!(members(&bad), Err(ReadTarError::Checksum)));
    assert!(matches!(
        members(b"not a tar at all, but longer than nothing"),
        Err(ReadTarError::Truncated)
    ));
    assert!(matches!(
        members(&header(b'x', b"p", b"77777777")),
        Err(ReadTarError::LongHeader)
    ));
    assert!(matches!(
        members(&header(b'L', b"p", b"0")),
        Err(ReadTarError::Truncated)
    ));
    assert!(matches!(
        members(&header(b'0', b"p", b"9")),
        Err(ReadTarError::Field("size"))
    ));
}

#[test]
fn what_stands_before_a_member_is_bounded() {
    // Endless global headers: empty ones, and large ones.
    let empty = header(b'g', b"pax", b"0");
    let large = [header(b'g', b"pax", b"4000000"), vec![0; 0o4_000_000]].concat();
    for (one, most) in [(empty, 9000), (large, 6)] {
        let mut tar = TarReader::new(io::repeat(0).take(0).chain(Repeated { one, at: 0, read: 0 }));
        assert!(matches!(tar.next_member(), Err(ReadTarError::LongHeader)));
        let Repeated { one, read, .. } = tar.into_inner().into_inner().1;
        assert!(read < one.len() * most, "{read} bytes were read");
    }
    let many: String = (0..300).map(|n| format!("25 SCHILY.xattr.user.{n:03}=\n")).collect();
    let size = format!("{:o}", many.len());
    let archive = [header(b'x', b"pax", size.as_bytes()), padded(many.as_bytes())].concat();
    assert!(matches!(members(&archive), Err(ReadTarError::Pax)));
}

/// Endless input of repeated bytes.
struct Repeated {
    one: Vec<u8>,
    at: usize,
    read: usize,
}

impl Read for Repeated {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min(self.one.len() - self.at);
        buffer[..count].copy_from_slice(&self.one[self.at..self.at + count]);
        self.at = (self.at + count) % self.one.len();
        self.read += count;
        Ok(count)
    }
}

#[test]
fn a_line_of_a_sparse_map_ends() {
    let records = b"22 GNU.sparse.major=1\n26 GNU.sparse.realsize=10\n";
    let size = format!("{:o}", records.len());
    let archive = [
        header(b'x', b"pax", size.as_bytes()),
        padded(records),
        header(b'0', b"file", b"77777777777"),
        b"1\n".to_vec(),
    ]
    .concat();
    let endless = Repeated {
        one: b"0".to_vec(),
        at: 0,
        read: 0,
    };
    let mut tar = TarReader::new(archive.as_slice().chain(endless));
    assert!(matches!(tar.next_member(), Err(ReadTarError::Sparse)));
    assert!(tar.into_inner().into_inner().1.read <= BLOCK);
}

#[test]
fn numbers_in_both_writings() {
    assert_eq!(number(b"0000644\0"), Some(0o644));
    assert_eq!(number(b"  644 \0\0"), Some(0o644));
    assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
    assert_eq!(number(&[0x80, 0, 0, 0, 0, 1, 0, 0]), Some(65536));
    assert_eq!(number(&[0xff; 12]), Some(-1));
    assert_eq!(number(b"8"), None);
    assert_eq!(number(&[0xbf; 12]), None);
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..2048)) {
        let mut block = bytes;
        if block.len() >= BLOCK {
            block[148..156].fill(b' ');
            let sum: u32 = block[..BLOCK].iter().map(|&byte| u32::from(byte)).sum();
            block[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
        }
        let mut tar = TarReader::new(&block[..]);
        while let Ok(Some(_)) = tar.next_member() {
            let _ = std::io::copy(&mut tar, &mut std::io::sink());
        }
    }
}
