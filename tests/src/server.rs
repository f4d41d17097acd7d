//! A small TCP server of a test's own, one thread per connection, ended with the value.

use std::fmt;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Listening server.
pub struct Server {
    port: u16,
    ended: Ended,
    accepting: Option<JoinHandle<()>>,
}

/// Flag that the test is done with the server.
#[derive(Debug, Clone, Default)]
pub struct Ended(Arc<AtomicBool>);

impl Ended {
    /// Waits until the server ends.
    pub fn wait(&self) {
        while !self.0.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Server {
    /// Serves each connection with `serve`, whose errors come from clients that disconnected.
    pub fn start(serve: impl Fn(TcpStream, &Ended) -> std::io::Result<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("a bound socket").port();
        let (ended, serve) = (Ended::default(), Arc::new(serve));
        let accepting = thread::spawn({
            let ended = ended.clone();
            move || {
                for stream in listener.incoming().flatten() {
                    if ended.0.load(Ordering::Relaxed) {
                        return;
                    }
                    let (ended, serve) = (ended.clone(), Arc::clone(&serve));
                    thread::spawn(move || serve(stream, &ended));
                }
            }
        });
        Self {
            port,
            ended,
            accepting: Some(accepting),
        }
    }

    /// Returns the server's port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.0.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server(127.0.0.1:{})", self.port)
    }
}
