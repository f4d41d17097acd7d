//! A proxy on loopback in front of a plain registry, which disturbs the transfer of large blobs.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use crate::http::Head;
use crate::registry::Registry;
use crate::server::{Ended, Server};

/// Fault of an answer that carries more than `after` bytes of a blob.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// Bytes of the body that get through.
    pub after: u64,
    /// End of the answer after these bytes.
    pub then: Then,
    /// Whether the registry receives `Range`; if not, it answers with all of the blob.
    pub ranges: bool,
    /// Number of spoilt answers; those after them arrive whole.
    pub times: usize,
}

/// End of a spoilt answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// The connection breaks.
    Cut,
    /// Nothing more is sent.
    Stall,
}

/// Proxy with the record of spoilt answers.
#[derive(Debug)]
pub struct FlakyProxy {
    server: Server,
    spoilt: Arc<Mutex<Vec<Option<String>>>>,
}

impl FlakyProxy {
    /// Starts the proxy in front of a registry without TLS.
    pub fn start(registry: &Registry, fault: Fault) -> Self {
        let upstream = registry.port();
        let spoilt = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&spoilt);
        let server = Server::start(move |client, ended| serve(client, upstream, fault, &seen, ended));
        Self { server, spoilt }
    }

    /// Returns `localhost:PORT/NAME`.
    pub fn reference(&self, name: &str) -> String {
        format!("localhost:{}/{name}", self.server.port())
    }

    /// Returns the `Range` of each request whose answer was spoilt, in order.
    pub fn spoilt(&self) -> Vec<Option<String>> {
        self.spoilt.lock().expect("no panic in a server").clone()
    }
}

fn serve(
    mut client: TcpStream,
    upstream: u16,
    fault: Fault,
    spoilt: &Mutex<Vec<Option<String>>>,
    ended: &Ended,
) -> io::Result<()> {
    let Some(mut request) = Head::read(&mut client)? else {
        return Ok(());
    };
    let range = request.field("range").map(str::to_owned);
    if !fault.ranges {
        request.fields.retain(|(name, _)| name != "range");
    }
    let mut registry = TcpStream::connect(("127.0.0.1", upstream))?;
    request.write(&mut registry)?;
    let Some(answer) = Head::read(&mut registry)? else {
        return Ok(());
    };
    answer.write(&mut client)?;
    let length: u64 = answer
        .field("content-length")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let is_blob = request.target().contains("/blobs/");
    let spoils = is_blob && length > fault.after && {
        let mut spoilt = spoilt.lock().expect("no panic in a server");
        let spoils = spoilt.len() < fault.times;
        if spoils {
            spoilt.push(range);
        }
        spoils
    };
    if !spoils {
        client.write_all(&answer.rest)?;
        return io::copy(&mut registry, &mut client).map(drop);
    }
    let mut body = answer.rest.chain(registry).take(fault.after);
    io::copy(&mut body, &mut client)?;
    if fault.then == Then::Stall {
        ended.wait();
    }
    Ok(())
}
