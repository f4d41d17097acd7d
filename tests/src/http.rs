//! The part of HTTP/1.1 that the fixtures' small servers need: one request per connection.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;

/// Maximum bytes of a head.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// First line and header fields of a message.
#[derive(Debug, Clone)]
pub struct Head {
    /// First line.
    pub start: String,
    /// Names in lower case and values, in order.
    pub fields: Vec<(String, String)>,
    /// Part of the body that arrived with the head.
    pub rest: Vec<u8>,
}

impl Head {
    /// Reads up to the empty line; `None` for data that is not HTTP, such as a client's attempt at TLS.
    pub fn read(stream: &mut impl Read) -> io::Result<Option<Self>> {
        let mut bytes = Vec::new();
        let mut buffer = [0; 16 << 10];
        let end = loop {
            if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break at;
            }
            let count = stream.read(&mut buffer)?;
            bytes.extend_from_slice(&buffer[..count]);
            if count == 0 || bytes.len() > HEAD_BYTES_MAX || !bytes[0].is_ascii_uppercase() {
                return Ok(None);
            }
        };
        let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = text.split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let field = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.trim().to_lowercase(), value.trim().to_owned()))
        };
        Ok(Some(Self {
            start,
            fields: lines.filter_map(field).collect(),
            rest: bytes[end + 4..].to_vec(),
        }))
    }

    /// Returns a header field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }

    /// Returns the method of a request.
    pub fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or_default()
    }

    /// Returns path and query of a request.
    pub fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    /// Reads the rest of the body, as long as `content-length` says.
    pub fn body(&self, stream: &mut impl Read) -> io::Result<Vec<u8>> {
        let length: usize = self
            .field("content-length")
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        let mut body = self.rest.clone();
        let missing = length.saturating_sub(body.len());
        stream.by_ref().take(missing as u64).read_to_end(&mut body)?;
        Ok(body)
    }

    /// Writes the head of a message of one connection.
    pub fn write(&self, stream: &mut TcpStream) -> io::Result<()> {
        let mut text = format!("{}\r\n", self.start);
        for (name, value) in self.fields.iter().filter(|(name, _)| name != "connection") {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("connection: close\r\n\r\n");
        stream.write_all(text.as_bytes())
    }
}

/// Answers a request with these header fields besides those of every answer, and ends the connection.
pub fn answer_with(stream: &mut TcpStream, status: &str, fields: &[(&str, String)], body: &[u8]) -> io::Result<()> {
    let fields: String = fields
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\n{fields}content-length: {length}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)
}

/// Answers a request and ends the connection.
pub fn answer(stream: &mut TcpStream, status: &str, body: &[u8]) -> io::Result<()> {
    answer_with(stream, status, &[("content-type", "application/json".into())], body)
}

/// Decodes `name=value&...`.
pub fn form(text: &str) -> HashMap<String, String> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        Some((decode(name), decode(value)))
    };
    text.split('&').filter_map(pair).collect()
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        let code = (byte == b'%')
            .then(|| std::str::from_utf8(tail.get(..2)?).ok())
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (byte, code) {
            (_, Some(code)) => {
                bytes.push(code);
                rest = &tail[2..];
            }
            (b'+', None) => bytes.push(b' '),
            (byte, None) => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::form;

    #[test]
    fn forms_are_decoded() {
        let fields = form("service=a+b&scope=repository%3Ax%2Fy%3Apull&odd=%zz");
        assert_eq!(fields["service"], "a b");
        assert_eq!(fields["scope"], "repository:x/y:pull");
        assert_eq!(fields["odd"], "%zz");
    }
}
