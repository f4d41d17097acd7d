//! Links of a guest's network device: streams, any of which may be missing, and the answers that are made here in their
//! place.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;

use vmm_sys_util::epoll::Epoll;

use super::segment::Slot;
use super::stream::Stream;
use crate::limits::NET_ANSWERS_MAX;
use crate::segments::SEGMENTS_MAX;

/// Destination link of a guest's frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Port {
    Uplink,
    Segment(Slot),
}

/// Source of a frame for the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Answers,
    Link(Port),
}

/// All links of a device; none is connected at first.
#[derive(Debug)]
pub(super) struct Links {
    /// Stream of the uplink, and a place for the stream of each segment.
    streams: [Option<Stream>; STREAMS],
    answers: VecDeque<Vec<u8>>,
    /// Source of the last frame: the other sources come first.
    last: Source,
}

const STREAMS: usize = 1 + SEGMENTS_MAX;

impl Port {
    /// Index of the stream.
    fn index(self) -> usize {
        match self {
            Self::Uplink => 0,
            Self::Segment(slot) => 1 + usize::from(slot),
        }
    }

    fn of(index: usize) -> Self {
        index
            .checked_sub(1)
            .map_or(Self::Uplink, |slot| Self::Segment(slot as Slot))
    }
}

impl Source {
    fn following(self) -> Self {
        match self {
            Self::Answers => Self::Link(Port::Uplink),
            Self::Link(port) if port.index() + 1 < STREAMS => Self::Link(Port::of(port.index() + 1)),
            Self::Link(_) => Self::Answers,
        }
    }
}

impl Default for Links {
    fn default() -> Self {
        Self {
            streams: [const { None }; STREAMS],
            answers: VecDeque::new(),
            last: Source::Answers,
        }
    }
}

impl Links {
    /// Number of epoll events that belong to the links.
    pub(super) const EVENTS: u64 = STREAMS as u64;

    /// Connects a stream. Its event on `epoll` is below [`Self::EVENTS`].
    pub(super) fn connect(&mut self, port: Port, socket: OwnedFd, epoll: &Epoll) -> io::Result<()> {
        self.streams[port.index()] = Some(Stream::new(socket, epoll, port.index() as u64)?);
        Ok(())
    }

    /// Disconnects a stream, and drops what it received and the guest did not take.
    pub(super) fn disconnect(&mut self, port: Port) {
        // Closing the last of its fds removes it from epoll as well.
        self.streams[port.index()] = None;
    }

    pub(super) fn has(&self, port: Port) -> bool {
        self.streams[port.index()].is_some()
    }

    /// Whether any stream is full, so that its other end has to read first.
    pub(super) fn is_full(&self) -> bool {
        self.streams.iter().flatten().any(Stream::is_full)
    }

    /// Appends a frame to what the next [`Self::flush`] sends.
    pub(super) fn append(&mut self, port: Port, frame: &[u8]) {
        if let Some(stream) = &mut self.streams[port.index()] {
            stream.append(frame);
        }
    }

    /// Sends a frame by itself; returns whether there was room.
    pub(super) fn send(&mut self, port: Port, frame: &[u8]) -> bool {
        let stream = self.streams[port.index()].as_mut();
        let Some(stream) = stream.filter(|stream| !stream.is_full()) else {
            return false;
        };
        stream.append(frame);
        stream.flush();
        true
    }

    /// Sends what was appended, as much as the other ends accept.
    pub(super) fn flush(&mut self) {
        self.streams.iter_mut().flatten().for_each(Stream::flush);
    }

    /// Queues an answer for the guest, unless too many are waiting already.
    pub(super) fn answer(&mut self, frame: Vec<u8>) {
        if self.answers.len() < NET_ANSWERS_MAX {
            self.answers.push_back(frame);
        }
    }

    pub(super) fn forget_answers(&mut self) {
        self.answers.clear();
    }

    /// Next frame for the guest: the sources take turns.
    pub(super) fn next(&mut self) -> Option<(Source, &[u8])> {
        if self.waiting().is_none() {
            self.receive();
        }
        let source = self.waiting()?;
        Some((source, self.front(source)?))
    }

    /// Discards the frame that was returned last.
    pub(super) fn skip(&mut self, source: Source) {
        match source {
            Source::Answers => drop(self.answers.pop_front()),
            Source::Link(port) => {
                if let Some(stream) = &mut self.streams[port.index()] {
                    stream.skip();
                }
            }
        }
        self.last = source;
    }

    /// Reads what the streams have received, as far as there is space.
    pub(super) fn receive(&mut self) {
        self.streams.iter_mut().flatten().for_each(Stream::receive);
    }

    /// Waits on `epoll` for the events that matter now.
    pub(super) fn watch(&mut self, epoll: &Epoll) {
        for (event, stream) in (0..).zip(&mut self.streams) {
            if let Some(stream) = stream {
                stream.watch(epoll, event);
            }
        }
    }

    fn waiting(&self) -> Option<Source> {
        let mut source = self.last;
        for _ in 0..=STREAMS {
            source = source.following();
            if self.front(source).is_some() {
                return Some(source);
            }
        }
        None
    }

    fn front(&self, source: Source) -> Option<&[u8]> {
        match source {
            Source::Answers => self.answers.front().map(Vec::as_slice),
            Source::Link(port) => self.streams[port.index()].as_ref()?.front(),
        }
    }
}
