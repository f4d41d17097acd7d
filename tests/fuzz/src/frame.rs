//! Frames of a network.

use crate::Bytes;

/// Hardware address of the guest.
pub const OWN: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Hardware address of the other end.
pub const GATEWAY: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// IPv4 address of the guest.
pub const OWN_V4: [u8; 4] = [100, 96, 0, 2];
/// IPv4 address of the resolver.
pub const RESOLVER_V4: [u8; 4] = [100, 96, 0, 1];
/// IPv6 address of the guest.
pub const OWN_V6: [u8; 16] = [0xfd, 0x63, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

/// Address of names below `.test`.
pub const NAMED_V4: [u8; 4] = [203, 0, 113, 5];
/// Peers that a packet filter should distinguish: resolver, a network that a rule opens, a name's, private, loopback,
/// metadata, a member, broadcast.
const PEERS_V4: [[u8; 4]; 8] = [
    RESOLVER_V4,
    [10, 0, 0, 9],
    NAMED_V4,
    [192, 168, 1, 1],
    [127, 0, 0, 1],
    [168, 63, 129, 16],
    [100, 96, 0, 3],
    [255; 4],
];
/// First two bytes of IPv6 peers.
const PREFIXES_V6: [[u8; 2]; 8] = [
    [0xfd, 0x63],
    [0xfe, 0x80],
    [0xff, 0x02],
    [0x20, 0x01],
    [0x20, 0x02],
    [0, 0],
    [0xfd, 0x98],
    [0, 0x64],
];
/// Protocols and extension headers.
const NUMBERS: [u8; 16] = [17, 6, 58, 1, 44, 0, 43, 60, 51, 50, 59, 135, 139, 253, 132, 2];

/// Builds a frame whose headers mostly agree with each other, so that the code behind them is reached too.
pub fn frame(bytes: &mut Bytes<'_>, from: [u8; 6], to: [u8; 6]) -> Vec<u8> {
    let kind = bytes.byte();
    let is_own = from == OWN;
    let (link, packet) = match kind % 8 {
        0 => ([8, 6], arp(bytes, from)),
        1..=3 => ([0x86, 0xdd], ipv6(bytes, is_own)),
        4..=6 => ([8, 0], ipv4(bytes, is_own)),
        _ => ([bytes.byte(), bytes.byte()], raw(bytes)),
    };
    let mut frame = [&to[..], &from, &link, &packet].concat();
    // Something behind the packet, or one byte of it changed.
    match kind >> 5 {
        6 => frame.extend(raw(bytes)),
        7 => {
            let place = bytes.number::<2>() as usize % frame.len();
            frame[place] = bytes.byte();
        }
        _ => {}
    }
    frame
}

fn raw(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let count = usize::from(bytes.byte());
    (0..count).map(|_| bytes.byte()).collect()
}

fn arp(bytes: &mut Bytes<'_>, from: [u8; 6]) -> Vec<u8> {
    let sender = if from == OWN { OWN_V4 } else { RESOLVER_V4 };
    let operation = bytes.byte();
    let target = PEERS_V4[usize::from(bytes.byte() % 8)];
    [&[0, 1, 8, 0, 6, 4, 0, operation][..], &from, &sender, &[0; 6], &target].concat()
}

fn ipv4(bytes: &mut Bytes<'_>, is_own: bool) -> Vec<u8> {
    let odd = bytes.byte();
    let protocol = NUMBERS[usize::from(bytes.byte() % 16)];
    let peer = PEERS_V4[usize::from(bytes.byte() % 8)];
    let payload = transport(bytes, protocol, is_own);
    let options = if odd & 7 == 7 { &[1, 1, 1, 0][..] } else { &[] };
    let flags = if odd >> 3 & 3 == 3 { bytes.number::<2>() as u16 } else { 0x4000 };
    let header_bytes = 20 + options.len();
    let length = (header_bytes + payload.len()) as u16;
    let (source, target) = if is_own { (OWN_V4, peer) } else { (peer, OWN_V4) };
    let mut packet = vec![0x40 | (header_bytes / 4) as u8, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 1]);
    packet.extend(flags.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend([&source[..], &target, options, &payload].concat());
    packet
}

fn ipv6(bytes: &mut Bytes<'_>, is_own: bool) -> Vec<u8> {
    let odd = bytes.byte();
    let mut numbers: Vec<u8> = (0..odd & 3).map(|_| NUMBERS[usize::from(bytes.byte() % 16)]).collect();
    numbers.push(NUMBERS[usize::from(bytes.byte() % 16)]);
    let mut payload = Vec::new();
    for next in &numbers[1..] {
        // Eight bytes, whatever length they claim.
        payload.extend([*next, bytes.byte() & 7, 1, 4, 0, 0, 0, 0]);
    }
    payload.extend(transport(bytes, numbers[numbers.len() - 1], is_own));
    let mut peer = [0; 16];
    peer[..2].copy_from_slice(&PREFIXES_V6[usize::from(bytes.byte() % 8)]);
    (peer[13], peer[15]) = (bytes.byte() & 1, bytes.byte());
    if odd & 4 != 0 {
        // The solicited-node multicast address of the target below.
        peer = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 1];
    }
    let own = if odd & 8 == 0 { OWN_V6 } else { LINK_V6 };
    let (source, target) = if is_own { (own, peer) } else { (peer, own) };
    let hops = if odd & 16 == 0 { 255 } else { 64 };
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([numbers[0], hops]);
    packet.extend([&source[..], &target, &payload].concat());
    packet
}

/// Link-local address that the guest gives itself.
pub const LINK_V6: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, 2];

fn transport(bytes: &mut Bytes<'_>, protocol: u8, is_own: bool) -> Vec<u8> {
    let own_port = [[15, 160], [0, 80], [6, 80], [17, 80]][usize::from(bytes.byte() % 4)];
    let port = [[0, 53], [1, 187], [0, 80], [0, bytes.byte()]][usize::from(bytes.byte() % 4)];
    let (from, to) = if is_own { (own_port, port) } else { (port, own_port) };
    match protocol {
        6 => {
            let flags = [2, 16, 18, 4, 0x32][usize::from(bytes.byte() % 5)];
            let rest = [0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 3, 0xe8, 0, 0, 0, flags >> 5];
            [&from[..], &to, &rest, &raw(bytes)].concat()
        }
        17 => {
            let payload = if port == [0, 53] { question(bytes) } else { raw(bytes) };
            let length = (8 + payload.len() as u16).to_be_bytes();
            [&from[..], &to, &length, &[0, 0], &payload].concat()
        }
        58 => {
            let kind = [128, 129, 133, 134, 135, 136, 137, 1][usize::from(bytes.byte() % 8)];
            let mut target = [0; 16];
            (target[0], target[1], target[15]) = (0xfd, 0x63, 1);
            let body = if (135..=137).contains(&kind) { &target[..] } else { &[] };
            let options = if bytes.byte() & 1 == 0 { [&[1, 1][..], &OWN].concat() } else { raw(bytes) };
            [&[kind, 0, 0, 0, 0, 7, 0, 1][..], body, &options].concat()
        }
        1 => [&[[8, 0, 3, 5][usize::from(bytes.byte() % 4)], 0, 0, 0, 0, 7, 0, 1][..], &raw(bytes)].concat(),
        _ => raw(bytes),
    }
}

/// Builds a question for a name, or any bytes.
fn question(bytes: &mut Bytes<'_>) -> Vec<u8> {
    if bytes.byte() & 3 == 3 {
        return raw(bytes);
    }
    let name = b'a' + (bytes.byte() & 1);
    [&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, name][..], b"\x04test\0\0\x01\0\x01"].concat()
}

/// Builds the answer to a [`question`] of the guest: a frame that gives the name [`NAMED_V4`].
pub fn answer(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let name = b'a' + (bytes.byte() & 1);
    let header = [0, 7, 0x81, 0, 0, 1, 0, 1, 0, 0, 0, 0, 1, name];
    let record = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4];
    let message = [&header[..], b"\x04test\0\0\x01\0\x01", &record, &NAMED_V4].concat();
    let mut frame = [&OWN[..], &GATEWAY, &[8, 0, 0x45, 0, 0, 28 + message.len() as u8]].concat();
    frame.extend([0, 1, 0x40, 0, 64, 17, 0, 0]);
    frame.extend([RESOLVER_V4, OWN_V4].concat());
    frame.extend([0, 53, 15, 160, 0, 8 + message.len() as u8, 0, 0]);
    frame.extend(message);
    frame
}
