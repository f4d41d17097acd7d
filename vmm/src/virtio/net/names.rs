//! Answers of the resolver: which addresses the names of a guest's rules have. Questions for other names are not
//! forwarded, because a question is a message to whoever serves the name.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use domain::base::iana::{Rcode, Rtype};
use domain::base::{Message, ParsedName};
use domain::rdata::{A, Aaaa};

use crate::limits::{NET_NAME_ADDRESSES_MAX, NET_NAMES_ASKED_MAX};

/// Minimum time for which an address is remembered: programs keep answers longer than they should.
const MEMORY_MIN: Duration = Duration::from_secs(600);
/// Maximum time for which an address is remembered.
const MEMORY_MAX: Duration = Duration::from_secs(24 * 3600);

/// Question as the guest asked it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    id: u16,
    port: u16,
    name: String,
}

/// Known addresses by name as asked for, and the questions that wait for an answer.
#[derive(Debug, Default)]
pub(super) struct Names {
    known: HashMap<(String, IpAddr), Instant>,
    asked: VecDeque<Asked>,
}

/// Decision about a question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// The question is forwarded.
    Pass,
    /// The question is refused with this answer.
    Refuse(Vec<u8>),
    /// The question is malformed and cannot be answered.
    Malformed,
}

impl Names {
    /// Decides about a question from the guest's `port`, when only `permitted` names may be asked for.
    pub(super) fn ask(&mut self, message: &[u8], port: u16, permitted: &[&str]) -> Question {
        let Some((id, name)) = question(message, false) else {
            return Question::Malformed;
        };
        if !permitted.iter().any(|permitted| covers(permitted, &name)) {
            return refuse(message).map_or(Question::Malformed, Question::Refuse);
        }
        if self.asked.len() == NET_NAMES_ASKED_MAX {
            self.asked.pop_front();
        }
        self.asked.push_back(Asked { id, port, name });
        Question::Pass
    }

    /// Records the addresses in an answer to the guest's `port`, if it was asked for.
    pub(super) fn answer(&mut self, message: &[u8], port: u16, now: Instant) {
        let Some((id, name)) = question(message, true) else {
            return;
        };
        let asked = Asked { id, port, name };
        let Some(index) = self.asked.iter().position(|known| *known == asked) else {
            return;
        };
        self.asked.remove(index);
        for (address, life) in addresses(message) {
            if self.known.len() >= NET_NAME_ADDRESSES_MAX {
                self.known.retain(|_, until| *until > now);
            }
            if self.known.len() < NET_NAME_ADDRESSES_MAX {
                let until = now + life.clamp(MEMORY_MIN, MEMORY_MAX);
                self.known.insert((asked.name.clone(), address), until);
            }
        }
    }

    /// Whether a name that `rule` covers has `address`.
    pub(super) fn has(&self, rule: &str, address: IpAddr, now: Instant) -> bool {
        let mut known = self.known.iter();
        known.any(|((name, known), until)| *known == address && *until > now && covers(rule, name))
    }

    pub(super) fn clear(&mut self) {
        self.known.clear();
        self.asked.clear();
    }
}

/// Whether a rule's name is `name`, or, in the form `*.example.com`, covers it as a name below.
fn covers(rule: &str, name: &str) -> bool {
    match rule.strip_prefix("*.") {
        Some(parent) => name.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.')),
        None => rule == name,
    }
}

/// Id and name of a message with exactly one question; the name is in lower case and without a dot at its end.
fn question(message: &[u8], is_answer: bool) -> Option<(u16, String)> {
    let message = Message::from_octets(message).ok()?;
    if message.header().qr() != is_answer {
        return None;
    }
    let question = message.sole_question().ok()?;
    Some((message.header().id(), plain(question.qname())))
}

fn plain(name: &ParsedName<&[u8]>) -> String {
    name.to_string().trim_end_matches('.').to_ascii_lowercase()
}

/// Addresses in an answer, and for how long they are valid. Addresses that alias names lead to are included.
fn addresses(message: &[u8]) -> Vec<(IpAddr, Duration)> {
    let Ok(message) = Message::from_octets(message) else {
        return Vec::new();
    };
    let Ok(section) = message.answer() else {
        return Vec::new();
    };
    let mut found = Vec::new();
    // An invalid record ends the answer: the records before it are used.
    for record in section.flatten().take(NET_NAME_ADDRESSES_MAX) {
        let life = record.ttl().into_duration();
        let address = match record.rtype() {
            Rtype::A => record
                .to_record::<A>()
                .ok()
                .flatten()
                .map(|a| IpAddr::V4(a.data().addr())),
            Rtype::AAAA => record
                .to_record::<Aaaa>()
                .ok()
                .flatten()
                .map(|a| IpAddr::V6(a.data().addr())),
            _ => None,
        };
        found.extend(address.map(|address| (address, life)));
    }
    found
}

/// Answer that refuses a question that was parsed (RFC 1035, section 4.1.1: REFUSED).
fn refuse(question: &[u8]) -> Option<Vec<u8>> {
    let parsed = Message::from_octets(question).ok()?;
    // Header and question only: nothing else that the guest wrote is returned.
    let mut section = parsed.question();
    section.next()?.ok()?;
    let mut answer = question.get(..section.pos())?.to_vec();
    let message = Message::from_slice(question).ok()?;
    let mut header = message.header();
    header.set_qr(true);
    header.set_ra(true);
    header.set_rcode(Rcode::REFUSED);
    answer[..4].copy_from_slice(&header.as_slice()[..4]);
    // No records besides the question.
    answer[6..12].fill(0);
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Query or answer for `name` with A records.
    fn message(id: u16, name: &str, is_answer: bool, records: &[([u8; 4], u32)]) -> Vec<u8> {
        let mut bytes = id.to_be_bytes().to_vec();
        bytes.extend([if is_answer { 0x81 } else { 0x01 }, 0]);
        bytes.extend([0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
        for label in name.split('.') {
            bytes.push(label.len() as u8);
            bytes.extend(label.bytes());
        }
        bytes.extend([0, 0, 1, 0, 1]);
        for (address, ttl) in records {
            bytes.extend([0xc0, 12, 0, 1, 0, 1]);
            bytes.extend(ttl.to_be_bytes());
            bytes.extend([0, 4]);
            bytes.extend(address);
        }
        bytes
    }

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 5));

    #[test]
    fn an_answer_to_a_question_opens_its_addresses_for_a_while() {
        let (mut names, now) = (Names::default(), Instant::now());
        let question = message(7, "WWW.example.com", false, &[]);
        assert_eq!(names.ask(&question, 4000, &["*.example.com"]), Question::Pass);
        names.answer(
            &message(7, "www.example.com", true, &[([203, 0, 113, 5], 60)]),
            4000,
            now,
        );
        assert!(names.has("*.example.com", ADDRESS, now) && names.has("www.example.com", ADDRESS, now));
        assert!(!names.has("example.com", ADDRESS, now));
        assert!(!names.has("*.example.com", ADDRESS, now + MEMORY_MIN + Duration::from_secs(1)));
    }

    #[test]
    fn an_answer_that_was_not_asked_for_opens_nothing() {
        let (mut names, now) = (Names::default(), Instant::now());
        let answer = message(7, "a.test", true, &[([203, 0, 113, 5], 60)]);
        names.answer(&answer, 4000, now);
        assert_eq!(
            names.ask(&message(7, "a.test", false, &[]), 4000, &["a.test"]),
            Question::Pass
        );
        names.answer(&message(8, "a.test", true, &[([203, 0, 113, 5], 60)]), 4000, now);
        names.answer(&answer, 4001, now);
        names.answer(&message(7, "b.test", true, &[([203, 0, 113, 5], 60)]), 4000, now);
        assert!(!names.has("a.test", ADDRESS, now));
        names.answer(&answer, 4000, now);
        assert!(names.has("a.test", ADDRESS, now));
    }

    #[test]
    fn other_names_are_refused_and_nonsense_is_nothing() {
        let mut names = Names::default();
        let question = message(7, "b.test", false, &[]);
        let Question::Refuse(answer) = names.ask(&question, 4000, &["a.test"]) else {
            panic!("it was not refused");
        };
        assert_eq!(answer[..2], question[..2]);
        assert_eq!((answer[2] & 0x80, answer[3] & 0x0f), (0x80, 5));
        assert_eq!(answer[12..], question[12..]);
        for bytes in [&b""[..], &[0; 12], &question[..20], &message(7, "a.test", true, &[])] {
            assert_eq!(names.ask(bytes, 1, &["a.test"]), Question::Malformed);
        }
        assert!(names.asked.is_empty());
    }
}
