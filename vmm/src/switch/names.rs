//! Answers to questions for the names of members.

use std::net::IpAddr;

use domain::base::iana::{Class, Rcode, Rtype};
use domain::base::{Message, MessageBuilder, StaticCompressor, Ttl};
use domain::rdata::{A, Aaaa};

use super::members::Members;

/// Time for which an answer is valid: a pod may leave at any time.
const LIFE: Ttl = Ttl::from_secs(5);
/// Length in bytes of an answer that every resolver accepts (RFC 1035, section 4.2.1).
const ANSWER_BYTES_MAX: usize = 512;

/// Answer to a question for a member's name, whatever type of record is asked for; `None` if nobody has the name.
pub(super) fn answer(question: &[u8], members: &Members) -> Option<Vec<u8>> {
    let message = Message::from_octets(question).ok()?;
    if message.header().qr() {
        return None;
    }
    let asked = message.sole_question().ok()?;
    let name = asked.qname().to_string().trim_end_matches('.').to_ascii_lowercase();
    let mut addresses = members.named(&name)?;
    // The addresses take turns in being the first, and in being included if not all fit.
    let first = usize::from(message.header().id()) % addresses.len().max(1);
    addresses.rotate_left(first);
    let mut builder = MessageBuilder::from_target(StaticCompressor::new(Vec::new())).ok()?;
    builder.set_push_limit(ANSWER_BYTES_MAX);
    let mut answer = builder.start_answer(&message, Rcode::NOERROR).ok()?;
    answer.header_mut().set_aa(true);
    answer.header_mut().set_ra(true);
    for address in addresses {
        let pushed = match (address, asked.qtype()) {
            (IpAddr::V4(address), Rtype::A | Rtype::ANY) => {
                answer.push((asked.qname(), Class::IN, LIFE, A::new(address)))
            }
            (IpAddr::V6(address), Rtype::AAAA | Rtype::ANY) => {
                answer.push((asked.qname(), Class::IN, LIFE, Aaaa::new(address)))
            }
            _ => Ok(()),
        };
        if pushed.is_err() {
            break;
        }
    }
    Some(answer.finish().into_target())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::switch::membership::Join;

    /// Question as resolvers ask it.
    pub(in crate::switch) fn question(name: &str, kind: u8) -> Vec<u8> {
        let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            bytes.push(label.len() as u8);
            bytes.extend(label.bytes());
        }
        bytes.extend([0, 0, kind, 0, 1]);
        bytes
    }

    #[test]
    fn members_names_are_answered_and_no_others() {
        let mut members = Members::new(100);
        let join = Join {
            mac: [2; 6],
            addresses: vec!["10.89.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            names: vec!["db.internal".into()],
        };
        members.add(join).unwrap();
        let records = |members: &Members, name, kind| {
            let bytes = answer(&question(name, kind), members)?;
            assert_eq!(bytes[..2], [0x12, 0x34]);
            assert_eq!(bytes[3] & 0x0f, 0, "no error");
            Some(bytes[7])
        };
        assert_eq!(records(&members, "DB.internal", 1), Some(1));
        assert_eq!(records(&members, "db.internal", 28), Some(1));
        assert_eq!(records(&members, "db.internal", 255), Some(2));
        // Mail: the name exists, and has no record of this type.
        assert_eq!(records(&members, "db.internal", 15), Some(0));
        assert_eq!(records(&members, "db", 1), None);
        for last in 3..100 {
            let mac = [2, 0, 0, 0, 0, last];
            let addresses = vec![[10, 89, 0, last].into()];
            let names = vec!["many".into()];
            members.add(Join { mac, addresses, names }).unwrap();
        }
        let many = answer(&question("many", 1), &members).unwrap();
        assert!(many.len() <= 512 && many[7] > 25, "{} in {} bytes", many[7], many.len());
        assert_eq!(answer(&[], &members), None);
        assert_eq!(answer(&question("db.internal", 1)[..20], &members), None);
    }
}
