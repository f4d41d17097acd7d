//! An HTTP server on loopback that answers by a script and records every byte that it is sent.

use std::io::{self, Read};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::http::{Head, answer_with};
use crate::server::Server;

/// Reply of the server: status line without the version, header fields and body.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Status, such as `401 Unauthorized`.
    pub status: &'static str,
    /// Header fields besides those of every answer.
    pub fields: Vec<(&'static str, String)>,
    /// Body.
    pub body: String,
}

impl Reply {
    /// Creates a success with this body.
    pub fn found(body: impl Into<String>) -> Self {
        Self {
            status: "200 OK",
            fields: vec![("content-type", "application/json".into())],
            body: body.into(),
        }
    }

    /// Creates the reply for a missing resource.
    pub fn missing() -> Self {
        Self {
            status: "404 Not Found",
            fields: Vec::new(),
            body: String::new(),
        }
    }

    /// Creates a redirect.
    pub fn redirect(status: &'static str, location: impl Into<String>) -> Self {
        Self {
            status,
            fields: vec![("location", location.into())],
            body: String::new(),
        }
    }

    /// Creates a reply with challenges, one header field each.
    pub fn challenge<T: Into<String>>(challenges: impl IntoIterator<Item = T>) -> Self {
        let field = |challenge: T| ("www-authenticate", challenge.into());
        Self {
            status: "401 Unauthorized",
            fields: challenges.into_iter().map(field).collect(),
            body: String::new(),
        }
    }
}

/// Function that answers a request.
type Script = Box<dyn Fn(&Head) -> Reply + Send>;

/// Recording HTTP server.
#[derive(Debug)]
pub struct Recorder {
    server: Server,
    tape: Arc<Tape>,
}

#[derive(Default)]
struct Tape {
    script: Mutex<Option<Script>>,
    received: Mutex<Vec<u8>>,
}

impl std::fmt::Debug for Tape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tape")
    }
}

impl Recorder {
    /// Starts a server that has nothing.
    pub fn start() -> Self {
        let tape = Arc::<Tape>::default();
        let server = Server::start({
            let tape = Arc::clone(&tape);
            move |stream, _| serve(stream, &tape)
        });
        Self { server, tape }
    }

    /// Returns the server's port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// Answers by this script from now on, and forgets the bytes received so far.
    pub fn play(&self, script: impl Fn(&Head) -> Reply + Send + 'static) {
        *lock(&self.tape.script) = Some(Box::new(script));
        lock(&self.tape.received).clear();
    }

    /// Returns every byte that was sent to the server, of all connections.
    pub fn received(&self) -> Vec<u8> {
        lock(&self.tape.received).clone()
    }

    /// Returns the received bytes as text, for messages.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.received()).into_owned()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic in a server")
}

/// Stream whose bytes are recorded before anybody reads them.
struct Tapped<'a>(&'a TcpStream, &'a Tape);

impl Read for Tapped<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        lock(&self.1.received).extend_from_slice(&buffer[..count]);
        Ok(count)
    }
}

fn serve(mut stream: TcpStream, tape: &Tape) -> io::Result<()> {
    let mut tapped = Tapped(&stream, tape);
    let Some(request) = Head::read(&mut tapped)? else {
        return Ok(());
    };
    request.body(&mut tapped)?;
    let reply = lock(&tape.script)
        .as_ref()
        .map_or_else(Reply::missing, |script| script(&request));
    answer_with(&mut stream, reply.status, &reply.fields, reply.body.as_bytes())
}
