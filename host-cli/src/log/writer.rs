//! Writer of a log: lines, and files of bounded size.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use capsid_image::own_file;

use super::{Entry, LINE_BYTES_MAX, LogStream};
use crate::clock;
use crate::model::LogOptions;

/// Bytes of entries that are written in one call.
const BATCH_BYTES: usize = 128 << 10;

/// Log of a running container.
#[derive(Debug)]
pub(crate) struct LogWriter {
    path: PathBuf,
    options: LogOptions,
    file: File,
    /// Bytes in the current file.
    size: u64,
    /// Output on stdout without an end of line yet.
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl LogWriter {
    /// Continues the log at `path`, or creates it.
    pub(crate) fn open(path: &Path, options: LogOptions) -> io::Result<Self> {
        let mut file = open(path)?;
        let mut size = file.metadata()?.len();
        if size > 0 && !ends_a_line(&file, size)? {
            // The last line was torn by a full disk or a power cut: the following ones are whole again.
            file.write_all(b"\n")?;
            size += 1;
        }
        Ok(Self {
            path: path.into(),
            options,
            file,
            size,
            stdout: Vec::new(),
            stderr: Vec::new(),
        })
    }

    /// Writes output as it arrives.
    pub(crate) fn write(&mut self, stream: LogStream, bytes: &[u8]) -> io::Result<()> {
        let mut pending = std::mem::take(self.pending(stream));
        pending.extend_from_slice(bytes);
        let mut lines = Vec::new();
        let mut rest = &pending[..];
        // All lines arrived together.
        let time = clock::rfc3339(clock::now_ns());
        while let Some(length) = complete_line(rest) {
            append(&mut lines, &rest[..length], stream, &time)?;
            rest = &rest[length..];
            // An entry is many times as long as an empty line.
            if lines.len() >= BATCH_BYTES {
                self.put(&lines)?;
                lines.clear();
            }
        }
        *self.pending(stream) = rest.to_vec();
        self.put(&lines)
    }

    /// Writes the output that has no end of line: the stream has ended.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        for stream in [LogStream::Stdout, LogStream::Stderr] {
            let pending = std::mem::take(self.pending(stream));
            if !pending.is_empty() {
                let mut line = Vec::new();
                append(&mut line, &pending, stream, &clock::rfc3339(clock::now_ns()))?;
                self.put(&line)?;
            }
        }
        Ok(())
    }

    fn pending(&mut self, stream: LogStream) -> &mut Vec<u8> {
        match stream {
            LogStream::Stdout => &mut self.stdout,
            LogStream::Stderr => &mut self.stderr,
        }
    }

    /// Writes whole lines, in one call for all that fit into a file.
    fn put(&mut self, lines: &[u8]) -> io::Result<()> {
        let mut rest = lines;
        while !rest.is_empty() {
            let room = self.options.max_size.saturating_sub(self.size);
            let fitting = whole_lines_within(rest, usize::try_from(room).unwrap_or(usize::MAX));
            if fitting == 0 && self.size > 0 {
                self.rotate()?;
                continue;
            }
            // A line larger than a file gets a file of its own.
            let count = if fitting == 0 { first_line(rest) } else { fitting };
            if let Err(error) = self.file.write_all(&rest[..count]) {
                // Whole lines stay. On a full disk this also makes room for the notice that the log has ended.
                self.file.set_len(self.size)?;
                return Err(error);
            }
            self.size += count as u64;
            rest = &rest[count..];
        }
        Ok(())
    }

    /// Starts a new file; removes the oldest when there are too many.
    fn rotate(&mut self) -> io::Result<()> {
        let older = |number: u32| numbered(&self.path, number);
        let kept = self.options.max_files.max(1);
        if kept == 1 {
            self.file.set_len(0)?;
        } else {
            for number in (1..kept - 1).rev() {
                rename_if_there(&older(number), &older(number + 1))?;
            }
            rename_if_there(&self.path, &older(1))?;
            self.file = open(&self.path)?;
        }
        self.size = 0;
        Ok(())
    }
}

/// Returns the name of an older file.
pub(super) fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    own_file::open(path, options.create(true).read(true).append(true).mode(0o600))
}

fn ends_a_line(file: &File, size: u64) -> io::Result<bool> {
    let mut last = [0];
    file.read_exact_at(&mut last, size - 1)?;
    Ok(last == *b"\n")
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::rename(from, to) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        renamed => renamed,
    }
}

/// Returns the length of the first line, when it is complete or has the maximum length.
fn complete_line(bytes: &[u8]) -> Option<usize> {
    let within = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    match within.iter().position(|byte| *byte == b'\n') {
        Some(at) => Some(at + 1),
        None if bytes.len() >= LINE_BYTES_MAX => Some(LINE_BYTES_MAX),
        None => None,
    }
}

fn append(lines: &mut Vec<u8>, bytes: &[u8], stream: LogStream, time: &str) -> io::Result<()> {
    let entry = Entry::new(bytes, stream, time.into());
    serde_json::to_writer(&mut *lines, &entry)?;
    lines.push(b'\n');
    Ok(())
}

fn first_line(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .position(|byte| *byte == b'\n')
        .map_or(bytes.len(), |at| at + 1)
}

/// Counts the bytes of whole lines that end within `room`.
fn whole_lines_within(bytes: &[u8], room: usize) -> usize {
    let within = &bytes[..bytes.len().min(room)];
    within.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_rotate_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.json");
        let options = LogOptions {
            keep: true,
            max_size: 300,
            max_files: 3,
        };
        let mut writer = LogWriter::open(&path, options).unwrap();
        for number in 0..40 {
            writer
                .write(LogStream::Stdout, format!("line {number}\n").as_bytes())
                .unwrap();
        }
        let files = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(files, 3);
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            assert!(entry.unwrap().metadata().unwrap().len() <= 300);
        }
        assert!(std::fs::read_to_string(&path).unwrap().contains("line 39"));
    }

    #[test]
    fn lines_are_cut_where_docker_cuts_them() {
        assert_eq!(complete_line(b"a\nb"), Some(2));
        assert_eq!(complete_line(b"ab"), None);
        assert_eq!(complete_line(&vec![b'x'; LINE_BYTES_MAX + 1]), Some(LINE_BYTES_MAX));
    }
}
