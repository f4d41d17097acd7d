//! Header before each frame (virtio 1.3, section 5.1.6): checksums left to the device, and large segments.

/// Size of `struct virtio_net_hdr_v1` in bytes.
pub(super) const HEADER_BYTES: usize = 12;

/// Flag: the checksum from `csum_start` on is to be completed.
const NEEDS_CSUM: u8 = 1;
/// Flag: the checksum was verified.
const DATA_VALID: u8 = 2;
/// Values of `gso_type`: none, TCP over IPv4 and IPv6, and the bit for TCP with congestion notification.
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_ECN: u8 = 0x80;

/// Error of a frame's header that is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadHeader;

/// Does the work that the header of a guest's frame leaves to the device. A segment larger than the guest's MTU stays
/// whole, because its receiver has no link of its own.
pub(super) fn finish(header: [u8; HEADER_BYTES], frame: &mut [u8]) -> Result<(), BadHeader> {
    let [
        flags,
        gso,
        _,
        _,
        _,
        _,
        start_low,
        start_high,
        offset_low,
        offset_high,
        _,
        _,
    ] = header;
    if !matches!(gso & !GSO_ECN, GSO_NONE | GSO_TCPV4 | GSO_TCPV6) {
        return Err(BadHeader);
    }
    if flags & NEEDS_CSUM == 0 {
        // A large segment whose checksum is not to be completed has none.
        return if gso == GSO_NONE { Ok(()) } else { Err(BadHeader) };
    }
    let start = usize::from(u16::from_le_bytes([start_low, start_high]));
    let offset = usize::from(u16::from_le_bytes([offset_low, offset_high]));
    let covered = frame.get_mut(start..).ok_or(BadHeader)?;
    // The checksum field holds the sum of the pseudo header, and is summed with the rest.
    let sum = checksum(covered);
    let place = covered
        .get_mut(offset..)
        .and_then(<[u8]>::first_chunk_mut::<2>)
        .ok_or(BadHeader)?;
    // UDP has no checksum of 0 (RFC 768); for TCP 0xffff is equivalent to 0.
    *place = if sum == 0 { 0xffff } else { sum }.to_be_bytes();
    Ok(())
}

/// Makes the header of a frame to the guest, in `buffers` receive buffers. Its checksums were made on this machine, and
/// are declared valid if the driver accepts that.
pub(super) fn received(buffers: u16, vouches: bool) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[0] = if vouches { DATA_VALID } else { 0 };
    header[10..].copy_from_slice(&buffers.to_le_bytes());
    header
}

/// Computes the internet checksum (RFC 1071).
pub(super) fn checksum(bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks::<4>();
    // No overflow: a frame has fewer than 2^32 words.
    let mut sum: u64 = words.iter().map(|word| u64::from(u32::from_be_bytes(*word))).sum();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    sum += u64::from(u32::from_be_bytes(last));
    !folded(sum)
}

/// Updates the checksum `sum` after the words `before`, which it covers, have become `after` (RFC 1624, equation 3).
/// The result is never 0, which would mean "none" for UDP.
pub(super) fn replaced(sum: [u8; 2], before: &[u8], after: &[u8]) -> [u8; 2] {
    let terms = [!u16::from_be_bytes(sum), checksum(before), !checksum(after)];
    let sum = !folded(terms.into_iter().map(u64::from).sum());
    if sum == 0 { 0xffff } else { sum }.to_be_bytes()
}

/// Folds a sum into 16 bits in one's complement.
fn folded(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_rfc_1071s() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(checksum(&[]), 0xffff);
        assert_eq!(checksum(&[0x12]), !0x1200);
        assert_eq!(checksum(&[0xff; 65535]), checksum(&[0xff, 0]));
    }

    #[test]
    fn a_checksum_follows_what_changes() {
        let mut bytes = [0x45, 0, 0, 60, 1, 2, 3, 4, 0, 0];
        for after in [[9, 9, 9, 9], [0; 4], [0xff; 4], [0xff, 0xfe, 0, 1]] {
            let sum = checksum(&bytes).to_be_bytes();
            let before = *bytes[4..].first_chunk::<4>().unwrap();
            bytes[4..8].copy_from_slice(&after);
            assert_eq!(replaced(sum, &before, &after), checksum(&bytes).to_be_bytes());
        }
        assert_eq!(replaced([0xff, 0xff], &[0; 2], &[0; 2]), [0xff, 0xff]);
    }

    fn header(flags: u8, gso: u8, start: u16, offset: u16) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        (header[0], header[1]) = (flags, gso);
        header[6..8].copy_from_slice(&start.to_le_bytes());
        header[8..10].copy_from_slice(&offset.to_le_bytes());
        header
    }

    #[test]
    fn a_checksum_is_completed_in_its_place() {
        let mut frame = [0xaa, 0xbb, 1, 2, 0, 5, 3, 4];
        finish(header(NEEDS_CSUM, GSO_NONE, 2, 2), &mut frame).unwrap();
        assert_eq!(
            checksum(&frame[2..]),
            5,
            "what is left is the pseudo header's sum, complemented twice"
        );
        let mut sums_to_zero = [0xff, 0xff, 0, 0];
        finish(header(NEEDS_CSUM, GSO_NONE, 0, 2), &mut sums_to_zero).unwrap();
        assert_eq!(sums_to_zero[2..], [0xff, 0xff]);
    }

    #[test]
    fn places_outside_of_the_frame_are_refused() {
        for (start, offset) in [(9, 0), (8, 0), (0, 7), (u16::MAX, u16::MAX), (4, 3)] {
            let mut frame = [0; 8];
            assert_eq!(
                finish(header(NEEDS_CSUM, GSO_NONE, start, offset), &mut frame),
                Err(BadHeader)
            );
            assert_eq!(frame, [0; 8]);
        }
        assert!(finish(header(0, GSO_TCPV4, 0, 0), &mut [0; 8]).is_err());
        assert!(
            finish(header(NEEDS_CSUM, 3, 0, 0), &mut [0; 8]).is_err(),
            "UDP fragmentation is not offered"
        );
        assert!(finish(header(NEEDS_CSUM, GSO_TCPV6 | GSO_ECN, 0, 0), &mut [0; 8]).is_ok());
    }
}
