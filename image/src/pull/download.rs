//! Download of one layer: bytes from the registry on this side, the converter on the other, a bounded channel between
//! them.

use std::io::{self, Read};

use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;

use super::endpoint::connection_error;
use super::registry::{Registry, back_off};
use super::{PullError, RegistryError};
use crate::limits::TRIES_MAX;
use crate::manifest::Descriptor;
use crate::progress::{LayerState, Progress};
use crate::store::{Allowance, HeldLayer, LayerName, Store};

/// Number of pieces of some 16 KiB on their way to the converter: enough to keep both sides busy.
const PIECES: usize = 64;

/// Provides a layer that the store has, or adds it now. The layer is downloaded only if no process has it.
pub(super) async fn fetch_layer(
    store: &Store,
    registry: &Registry,
    blob: &Descriptor,
    name: LayerName,
    allowance: &Allowance,
    progress: &dyn Progress,
    alive: &mpsc::Sender<()>,
) -> Result<HeldLayer, PullError> {
    let (pieces, receiver) = mpsc::channel(PIECES);
    let (ask, asked) = oneshot::channel();
    let (store, size, allowance, alive) = (store.clone(), blob.size, allowance.clone(), alive.clone());
    let keeping = spawn_blocking(move || {
        let _alive = alive;
        store.hold_layer(name, size, &allowance, || {
            let _ = ask.send(());
            Ok(PieceReader {
                receiver,
                piece: Vec::new(),
                at: 0,
                ended: false,
            })
        })
    });
    let download = async {
        // Otherwise the bytes were never requested: the layer was there, or the store failed.
        if asked.await.is_ok() {
            download(registry, blob, pieces, progress).await
        } else {
            Ok(())
        }
    };
    let (downloaded, kept) = tokio::join!(download, keeping);
    downloaded.map_err(|error| registry.explain(error))?;
    let held = kept.map_err(|_| PullError::Aborted)??;
    progress.layer(
        blob.digest,
        if held.existed {
            LayerState::AlreadyExists
        } else {
            LayerState::Done
        },
    );
    Ok(held)
}

/// Sends the blob's bytes, resuming after broken connections, and an empty piece as the end. Stops early without an
/// error if the receiver is gone: the converter has found a fault.
async fn download(
    registry: &Registry,
    blob: &Descriptor,
    pieces: mpsc::Sender<Vec<u8>>,
    progress: &dyn Progress,
) -> Result<(), RegistryError> {
    let mut sent = 0;
    let mut tries = 1;
    loop {
        let before = sent;
        match transfer(registry, blob, &mut sent, &pieces, progress).await {
            Ok(()) => {
                progress.layer(blob.digest, LayerState::Converting);
                let _ = pieces.send(Vec::new()).await;
                return Ok(());
            }
            Err(error) => {
                tries = if sent > before { 1 } else { tries + 1 };
                if !error.is_passing() || tries > TRIES_MAX {
                    return Err(error);
                }
                progress.layer(blob.digest, LayerState::Retrying);
                back_off(tries).await;
            }
        }
    }
}

/// Transfers the blob over one connection. `sent` counts the bytes sent to the converter so far.
async fn transfer(
    registry: &Registry,
    blob: &Descriptor,
    sent: &mut u64,
    pieces: &mpsc::Sender<Vec<u8>>,
    progress: &dyn Progress,
) -> Result<(), RegistryError> {
    let mut answer = registry.blob(blob.digest, *sent).await?;
    let mut skip = *sent - first_byte(&answer, *sent)?;
    while let Some(chunk) = answer.chunk().await.map_err(connection_error)? {
        let skipped = skip.min(chunk.len() as u64);
        skip -= skipped;
        let piece = chunk[skipped as usize..].to_vec();
        if piece.is_empty() {
            continue;
        }
        *sent += piece.len() as u64;
        if pieces.send(piece).await.is_err() {
            return Ok(());
        }
        progress.layer(
            blob.digest,
            LayerState::Downloading {
                bytes: *sent,
                total: blob.size,
            },
        );
        // The store refuses a blob that is longer than announced; no need to fetch the rest of it.
        if *sent > blob.size {
            return Ok(());
        }
    }
    if *sent < blob.size {
        return Err(RegistryError::Connection {
            reason: "ended early".into(),
        });
    }
    Ok(())
}

/// Offset at which the answer to a request from byte `asked` on begins.
fn first_byte(answer: &Response, asked: u64) -> Result<u64, RegistryError> {
    if answer.status() != StatusCode::PARTIAL_CONTENT {
        return Ok(0);
    }
    let range = answer
        .headers()
        .get(CONTENT_RANGE)
        .and_then(|value| value.to_str().ok());
    let first = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse::<u64>().ok());
    match first {
        Some(first) if first <= asked => Ok(first),
        _ => Err(RegistryError::Protocol { what: "wrong range" }),
    }
}

/// Reader of the pieces as a stream. A channel that closes without the final empty piece is a broken download, not an
/// end.
struct PieceReader {
    receiver: mpsc::Receiver<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() && !self.ended {
            let piece = self.receiver.blocking_recv();
            self.piece = piece.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted))?;
            self.at = 0;
            self.ended = self.piece.is_empty();
        }
        let count = buffer.len().min(self.piece.len() - self.at);
        buffer[..count].copy_from_slice(&self.piece[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}
