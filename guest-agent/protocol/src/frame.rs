//! A frame: a length (`u32`, little endian), then that many bytes of one prost message.

use std::io::{self, Read, Write};

use prost::Message;

/// Largest frame body in bytes. A container spec with every list full (environment, seccomp program, mounts) stays
/// below 1 MiB; 4 MiB leaves room and still bounds what a hostile peer makes us allocate.
pub const FRAME_BYTES_MAX: usize = 4 << 20;

/// Error of reading or writing a frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The peer closed the connection between two frames.
    #[error("the peer closed the connection")]
    Closed,
    /// The connection failed or ended inside a frame.
    #[error("cannot transfer a frame")]
    Io(#[source] io::Error),
    /// The length is over [`FRAME_BYTES_MAX`].
    #[error("frame of {0} bytes is over the limit of {FRAME_BYTES_MAX}")]
    TooLong(usize),
    /// The body is not a message of the expected type.
    #[error("frame body is not a valid message")]
    Malformed(#[source] prost::DecodeError),
}

/// Encodes `message` as one frame.
///
/// # Errors
/// [`FrameError::TooLong`] if the body is over [`FRAME_BYTES_MAX`].
pub fn encode_frame(message: &impl Message) -> Result<Vec<u8>, FrameError> {
    let body_bytes = message.encoded_len();
    if body_bytes > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong(body_bytes));
    }
    let mut frame = Vec::with_capacity(4 + body_bytes);
    frame.extend_from_slice(&(body_bytes as u32).to_le_bytes());
    frame.extend_from_slice(&message.encode_to_vec());
    Ok(frame)
}

/// Checks a length prefix before anything is allocated for the body.
///
/// # Errors
/// [`FrameError::TooLong`] if the length is over [`FRAME_BYTES_MAX`].
pub fn body_len(prefix: [u8; 4]) -> Result<usize, FrameError> {
    let body_bytes = u32::from_le_bytes(prefix) as usize;
    if body_bytes > FRAME_BYTES_MAX {
        Err(FrameError::TooLong(body_bytes))
    } else {
        Ok(body_bytes)
    }
}

/// Decodes the body of a frame.
///
/// # Errors
/// [`FrameError::Malformed`] if the body is not an `M`.
pub fn decode_body<M: Message + Default>(body: &[u8]) -> Result<M, FrameError> {
    M::decode(body).map_err(FrameError::Malformed)
}

/// Writes `message` as one frame, in one `write_all`.
///
/// # Errors
/// [`FrameError::TooLong`] or [`FrameError::Io`].
pub fn write_frame(to: &mut impl Write, message: &impl Message) -> Result<(), FrameError> {
    to.write_all(&encode_frame(message)?).map_err(FrameError::Io)
}

/// Reads one frame.
///
/// # Errors
/// [`FrameError::Closed`] at a clean end between frames, otherwise the error of the frame.
pub fn read_frame<M: Message + Default>(from: &mut impl Read) -> Result<M, FrameError> {
    let mut prefix = [0u8; 4];
    read_prefix(from, &mut prefix)?;
    let mut body = vec![0u8; body_len(prefix)?];
    from.read_exact(&mut body).map_err(FrameError::Io)?;
    decode_body(&body)
}

/// Fills `prefix`. An end of file before its first byte is [`FrameError::Closed`].
fn read_prefix(from: &mut impl Read, prefix: &mut [u8; 4]) -> Result<(), FrameError> {
    let mut filled = 0;
    while filled < prefix.len() {
        match from.read(&mut prefix[filled..]) {
            Ok(0) if filled == 0 => return Err(FrameError::Closed),
            Ok(0) => return Err(FrameError::Io(io::ErrorKind::UnexpectedEof.into())),
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(FrameError::Io(e)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::{AgentMessage, Resize};

    #[test]
    fn a_frame_survives_the_round_trip() {
        let mut wire = Vec::new();
        let sent = Resize {
            container: "c".into(),
            rows: 24,
            columns: 80,
        };
        write_frame(&mut wire, &sent).unwrap();
        assert_eq!(read_frame::<Resize>(&mut wire.as_slice()).unwrap(), sent);
    }

    #[test]
    fn an_end_between_frames_is_told_from_one_inside() {
        assert!(matches!(
            read_frame::<Resize>(&mut [].as_slice()),
            Err(FrameError::Closed)
        ));
        assert!(matches!(
            read_frame::<Resize>(&mut [1, 0].as_slice()),
            Err(FrameError::Io(_))
        ));
        assert!(matches!(
            read_frame::<Resize>(&mut [9, 0, 0, 0, 1].as_slice()),
            Err(FrameError::Io(_))
        ));
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_its_body() {
        let wire = (FRAME_BYTES_MAX as u32 + 1).to_le_bytes();
        assert!(matches!(
            read_frame::<Resize>(&mut wire.as_slice()),
            Err(FrameError::TooLong(_))
        ));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = read_frame::<AgentMessage>(&mut bytes.as_slice());
            let _ = decode_body::<AgentMessage>(&bytes);
        }
    }
}
