//! Frames of a network's.

use crate::Bytes;

/// The guest's hardware address.
pub const OWN: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// The other end's.
pub const GATEWAY: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The guest's address.
pub const OWN_V4: [u8; 4] = [100, 96, 0, 2];
/// Where it asks for names.
pub const RESOLVER_V4: [u8; 4] = [100, 96, 0, 1];
/// The guest's address.
pub const OWN_V6: [u8; 16] = [0xfd, 0x63, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

/// A frame whose first headers are mostly right, so that what is behind them is reached too.
pub fn frame(bytes: &mut Bytes<'_>, from: [u8; 6], to: [u8; 6]) -> Vec<u8> {
    let kind = bytes.byte();
    let mut frame = [to, from].concat();
    match kind % 8 {
        0 => frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]),
        1 | 2 => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            let length = bytes.byte();
            frame.extend([0, length, [17, 6, 58, 44, 0][usize::from(kind / 8 % 5)], 255]);
            frame.extend(OWN_V6);
            frame.extend([0xfd, bytes.byte()]);
        }
        3..=6 => {
            let length = bytes.byte().wrapping_add(20);
            frame.extend([
                8,
                0,
                0x45,
                0,
                0,
                length,
                0,
                0,
                0,
                0,
                64,
                [17, 6, 1, 17][usize::from(kind / 8 % 4)],
                0,
                0,
            ]);
            frame.extend(if from == OWN { OWN_V4 } else { RESOLVER_V4 });
            frame.extend(if from == OWN { RESOLVER_V4 } else { OWN_V4 });
            frame.extend([15, 160, 0, 53]);
        }
        _ => {}
    }
    let rest = usize::from(bytes.byte());
    frame.extend((0..rest).map(|_| bytes.byte()));
    frame
}
