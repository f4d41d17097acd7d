//! What leads away from a guest, and what comes from there: two streams, either of which may be missing, and the answers
//! that are made here in their place.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;

use vmm_sys_util::epoll::Epoll;

use super::segment::Segment;
use super::stream::Stream;
use crate::limits::NET_ANSWERS_MAX;

/// The sockets of a device, at least one of them: streams on which each frame follows its length.
#[derive(Debug)]
pub struct Sockets {
    /// To what carries frames everywhere (passt).
    pub uplink: Option<OwnedFd>,
    /// To the switch of a network of pods.
    pub segment: Option<(Segment, OwnedFd)>,
}

/// Where a frame of the guest's goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Uplink,
    Segment,
}

/// Where a frame for the guest comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Answers,
    Link(Way),
}

/// All of them.
#[derive(Debug)]
pub(super) struct Links {
    uplink: Option<Stream>,
    segment: Option<Stream>,
    answers: VecDeque<Vec<u8>>,
    /// Whose frame was the last one: the others come first.
    last: Source,
}

impl Way {
    /// What `epoll` tells of it.
    fn event(self) -> u64 {
        match self {
            Self::Uplink => 0,
            Self::Segment => 1,
        }
    }
}

impl Source {
    fn following(self) -> Self {
        match self {
            Self::Answers => Self::Link(Way::Uplink),
            Self::Link(Way::Uplink) => Self::Link(Way::Segment),
            Self::Link(Way::Segment) => Self::Answers,
        }
    }
}

impl Links {
    /// How many events are theirs.
    pub(super) const EVENTS: u64 = 2;

    /// Waits on `epoll`, with events below [`Self::EVENTS`].
    pub(super) fn new(uplink: Option<OwnedFd>, segment: Option<OwnedFd>, epoll: &Epoll) -> io::Result<Self> {
        let stream = |way: Way, socket: Option<OwnedFd>| {
            socket.map(|socket| Stream::new(socket, epoll, way.event())).transpose()
        };
        Ok(Self {
            uplink: stream(Way::Uplink, uplink)?,
            segment: stream(Way::Segment, segment)?,
            answers: VecDeque::new(),
            last: Source::Link(Way::Segment),
        })
    }

    /// Whether one of them has to take something first.
    pub(super) fn is_full(&self) -> bool {
        self.streams().any(Stream::is_full)
    }

    /// Appends a frame to what is sent with the next [`Self::flush`].
    pub(super) fn append(&mut self, way: Way, frame: &[u8]) {
        if let Some(stream) = self.stream_mut(way) {
            stream.append(frame);
        }
    }

    /// Sends a frame by itself; whether there was room.
    pub(super) fn send(&mut self, way: Way, frame: &[u8]) -> bool {
        let Some(stream) = self.stream_mut(way).filter(|stream| !stream.is_full()) else {
            return false;
        };
        stream.append(frame);
        stream.flush();
        true
    }

    /// Sends what was appended, as much as the other ends take.
    pub(super) fn flush(&mut self) {
        self.streams_mut().for_each(Stream::flush);
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
            Source::Link(way) => {
                if let Some(stream) = self.stream_mut(way) {
                    stream.skip();
                }
            }
        }
        self.last = source;
    }

    /// Takes in what is there, as far as there is space.
    pub(super) fn receive(&mut self) {
        self.streams_mut().for_each(Stream::receive);
    }

    /// Waits for what matters now.
    pub(super) fn watch(&mut self, epoll: &Epoll) {
        for way in [Way::Uplink, Way::Segment] {
            if let Some(stream) = self.stream_mut(way) {
                stream.watch(epoll, way.event());
            }
        }
    }

    fn waiting(&self) -> Option<Source> {
        let first = self.last.following();
        let order = [first, first.following(), self.last];
        order.into_iter().find(|source| self.front(*source).is_some())
    }

    fn front(&self, source: Source) -> Option<&[u8]> {
        match source {
            Source::Answers => self.answers.front().map(Vec::as_slice),
            Source::Link(Way::Uplink) => self.uplink.as_ref()?.front(),
            Source::Link(Way::Segment) => self.segment.as_ref()?.front(),
        }
    }

    fn stream_mut(&mut self, way: Way) -> Option<&mut Stream> {
        match way {
            Way::Uplink => self.uplink.as_mut(),
            Way::Segment => self.segment.as_mut(),
        }
    }

    fn streams(&self) -> impl Iterator<Item = &Stream> {
        self.uplink.iter().chain(&self.segment)
    }

    fn streams_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.uplink.iter_mut().chain(&mut self.segment)
    }
}
