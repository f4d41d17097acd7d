//! What leads away from a guest, and what comes from there: streams, any of which may be missing, and the answers that
//! are made here in their place.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;

use vmm_sys_util::epoll::Epoll;

use super::segment::Slot;
use super::stream::Stream;
use crate::limits::NET_ANSWERS_MAX;
use crate::segments::SEGMENTS_MAX;

/// Where a frame of the guest's goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Port {
    Uplink,
    Segment(Slot),
}

/// Where a frame for the guest comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Answers,
    Link(Port),
}

/// All of them; none is there at first.
#[derive(Debug)]
pub(super) struct Links {
    /// The uplink, and a place for each segment.
    streams: [Option<Stream>; STREAMS],
    answers: VecDeque<Vec<u8>>,
    /// Whose frame was the last one: the others come first.
    last: Source,
}

const STREAMS: usize = 1 + SEGMENTS_MAX;

impl Port {
    /// Which of the streams.
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
    /// How many events are theirs.
    pub(super) const EVENTS: u64 = STREAMS as u64;

    /// A stream is there from now on. What waits on `epoll` has events below [`Self::EVENTS`].
    pub(super) fn connect(&mut self, port: Port, socket: OwnedFd, epoll: &Epoll) -> io::Result<()> {
        self.streams[port.index()] = Some(Stream::new(socket, epoll, port.index() as u64)?);
        Ok(())
    }

    /// It is not there any more, and what came from there and was not taken neither.
    pub(super) fn disconnect(&mut self, port: Port) {
        // With the last of its fds it leaves epoll as well.
        self.streams[port.index()] = None;
    }

    pub(super) fn has(&self, port: Port) -> bool {
        self.streams[port.index()].is_some()
    }

    /// Whether one of them has to take something first.
    pub(super) fn is_full(&self) -> bool {
        self.streams.iter().flatten().any(Stream::is_full)
    }

    /// Appends a frame to what is sent with the next [`Self::flush`].
    pub(super) fn append(&mut self, port: Port, frame: &[u8]) {
        if let Some(stream) = &mut self.streams[port.index()] {
            stream.append(frame);
        }
    }

    /// Sends a frame by itself; whether there was room.
    pub(super) fn send(&mut self, port: Port, frame: &[u8]) -> bool {
        let stream = self.streams[port.index()].as_mut();
        let Some(stream) = stream.filter(|stream| !stream.is_full()) else {
            return false;
        };
        stream.append(frame);
        stream.flush();
        true
    }

    /// Sends what was appended, as much as the other ends take.
    pub(super) fn flush(&mut self) {
        self.streams.iter_mut().flatten().for_each(Stream::flush);
    }

    /// Has the guest told this, if not too much waits to be told already.
    pub(super) fn answer(&mut self, frame: Vec<u8>) {
        if self.answers.len() < NET_ANSWERS_MAX {
            self.answers.push_back(frame);
        }
    }

    pub(super) fn forget_answers(&mut self) {
        self.answers.clear();
    }

    /// The next frame for the guest: each source has its turn.
    pub(super) fn next(&mut self) -> Option<(Source, &[u8])> {
        if self.waiting().is_none() {
            self.receive();
        }
        let source = self.waiting()?;
        Some((source, self.front(source)?))
    }

    /// The frame last given is done with.
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

    /// Takes in what is there, as far as there is space.
    pub(super) fn receive(&mut self) {
        self.streams.iter_mut().flatten().for_each(Stream::receive);
    }

    /// Waits for what matters now.
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
