//! Reader of a log while it is written and rotated.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use capsid_image::own_file;

use super::Entry;
use super::writer::numbered;
use crate::clock;

/// Selection of entries.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Selection {
    /// Start of the time range in nanoseconds since 1970, inclusive.
    pub since_ns: Option<i64>,
    pub until_ns: Option<i64>,
    /// Number of lines from the end.
    pub tail: Option<usize>,
}

impl Selection {
    fn takes(&self, entry: &Entry) -> bool {
        if self.since_ns.is_none() && self.until_ns.is_none() {
            return true;
        }
        let time = clock::parse(&entry.time).unwrap_or(0);
        self.since_ns.is_none_or(|since| time >= since) && self.until_ns.is_none_or(|until| time <= until)
    }
}

/// Reader at a position in a container's log.
#[derive(Debug)]
pub(crate) struct LogReader {
    path: PathBuf,
    selection: Selection,
    current: Option<BufReader<File>>,
    /// Line whose end was not written yet.
    partial: Vec<u8>,
}

impl LogReader {
    /// Opens a reader before the first entry.
    pub(crate) fn open(path: &Path, selection: Selection) -> Self {
        Self {
            path: path.into(),
            selection,
            current: None,
            partial: Vec::new(),
        }
    }

    /// Passes the existing entries to `each`, the oldest first; the reader is at the end then.
    pub(crate) fn existing(&mut self, mut each: impl FnMut(Entry) -> io::Result<()>) -> io::Result<()> {
        if self.selection.tail == Some(0) {
            return self.read_all(|_| Ok(()));
        }
        let Some(count) = self.selection.tail else {
            return self.read_all(each);
        };
        let mut last = VecDeque::new();
        self.read_all(|entry| {
            if last.len() == count {
                last.pop_front();
            }
            last.push_back(entry);
            Ok(())
        })?;
        last.into_iter().try_for_each(&mut each)
    }

    fn read_all(&mut self, mut each: impl FnMut(Entry) -> io::Result<()>) -> io::Result<()> {
        let files = opened_at_once(&self.path)?;
        for file in files {
            self.current = Some(BufReader::new(file));
            self.drain(&mut each)?;
        }
        Ok(())
    }

    /// Passes the entries since the last call to `each`, also across a rotation.
    pub(crate) fn more(&mut self, mut each: impl FnMut(Entry) -> io::Result<()>) -> io::Result<()> {
        self.rewind_if_cut()?;
        self.drain(&mut each)?;
        while let Some(next) = self.successor()? {
            // Read what was written between the last read of this file and its rotation.
            self.drain(&mut each)?;
            self.current = Some(BufReader::new(next));
            self.partial.clear();
            self.drain(&mut each)?;
        }
        Ok(())
    }

    /// Returns to the start of a file that was emptied: with one file alone, a rotation empties it.
    fn rewind_if_cut(&mut self) -> io::Result<()> {
        let Some(file) = &mut self.current else { return Ok(()) };
        if file.get_ref().metadata()?.len() < file.stream_position()? {
            file.rewind()?;
            self.partial.clear();
        }
        Ok(())
    }

    /// Opens the file after the current one, if there is one: the oldest, if the current one has been removed
    /// meanwhile.
    fn successor(&self) -> io::Result<Option<File>> {
        let Some(current) = &self.current else {
            return Ok(opened_at_once(&self.path)?.into_iter().next());
        };
        let ours = current.get_ref().metadata()?.ino();
        if inode(&self.path)?.is_none_or(|newest| newest == ours) {
            return Ok(None);
        }
        let (mut files, mut after) = (opened_at_once(&self.path)?, 0);
        for (at, file) in files.iter().enumerate() {
            if file.metadata()?.ino() == ours {
                after = at + 1;
            }
        }
        Ok((after < files.len()).then(|| files.swap_remove(after)))
    }

    fn drain(&mut self, each: &mut impl FnMut(Entry) -> io::Result<()>) -> io::Result<()> {
        let Some(file) = &mut self.current else { return Ok(()) };
        loop {
            if file.read_until(b'\n', &mut self.partial)? == 0 || !self.partial.ends_with(b"\n") {
                return Ok(());
            }
            let line = std::mem::take(&mut self.partial);
            // Skip a line torn by a power cut: what follows is whole.
            if let Ok(entry) = serde_json::from_slice::<Entry>(&line)
                && self.selection.takes(&entry)
            {
                each(entry)?;
            }
        }
    }
}

/// Number of attempts to wait for a rotation in progress, [`ROTATION`] each. A rotation cut short by a kill leaves a
/// missing number until the next one.
const TRIES: u32 = 50;
const ROTATION: Duration = Duration::from_millis(1);

/// Opens all files of a log in the state between two rotations, the oldest first: renames move names, not open files.
fn opened_at_once(path: &Path) -> io::Result<Vec<File>> {
    let mut tries = 0;
    loop {
        let (found, is_whole) = opened_now(path)?;
        tries += 1;
        if is_whole || tries == TRIES {
            return Ok(found);
        }
        std::thread::sleep(ROTATION);
    }
}

/// Opens the files that exist now, and returns whether no rotation came in between.
fn opened_now(path: &Path) -> io::Result<(Vec<File>, bool)> {
    let (mut found, mut names) = (Vec::new(), Vec::new());
    // A rotation leaves out one number at a time.
    let mut missing = 0;
    for number in 0.. {
        let name = if number == 0 {
            path.to_owned()
        } else {
            numbered(path, number)
        };
        match own_file::read(&name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && missing == 1 => break,
            Err(e) if e.kind() == io::ErrorKind::NotFound => missing += 1,
            opened => {
                names.push((number as usize, name));
                found.push(opened?);
            }
        }
    }
    let mut is_whole = true;
    for (at, (number, name)) in names.iter().enumerate() {
        is_whole &= at == *number && inode(name)? == Some(found[at].metadata()?.ino());
    }
    found.reverse();
    Ok((found, is_whole))
}

fn inode(path: &Path) -> io::Result<Option<u64>> {
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(|metadata| Some(metadata.ino())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LogStream, LogWriter};
    use super::*;
    use crate::model::LogOptions;

    fn texts(read: impl FnOnce(&mut dyn FnMut(Entry) -> io::Result<()>)) -> Vec<String> {
        let mut found = Vec::new();
        read(&mut |entry| {
            found.push(entry.log);
            Ok(())
        });
        found
    }

    #[test]
    fn a_reader_follows_over_rotations() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.json");
        let options = LogOptions {
            keep: true,
            max_size: 300,
            max_files: 100,
        };
        let mut writer = LogWriter::open(&path, options).unwrap();
        let mut reader = LogReader::open(&path, Selection::default());
        let mut found = texts(|each| reader.existing(each).unwrap());
        for number in 0..50 {
            writer
                .write(LogStream::Stdout, format!("{number}\n").as_bytes())
                .unwrap();
            if number % 7 == 0 {
                found.extend(texts(|each| reader.more(each).unwrap()));
            }
        }
        found.extend(texts(|each| reader.more(each).unwrap()));
        let expected: Vec<String> = (0..50).map(|number| format!("{number}\n")).collect();
        assert_eq!(found, expected);
        let mut tail = LogReader::open(
            &path,
            Selection {
                tail: Some(2),
                ..Selection::default()
            },
        );
        assert_eq!(texts(|each| tail.existing(each).unwrap()), ["48\n", "49\n"]);
    }

    #[test]
    fn readers_beside_a_writer_that_rotates_miss_and_repeat_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.json");
        let options = LogOptions {
            keep: true,
            max_size: 20_000,
            max_files: 1000,
        };
        let mut writer = LogWriter::open(&path, options).unwrap();
        let numbers = 0..5000_u32;
        let lines: Vec<String> = numbers.map(|number| format!("{number}\n")).collect();
        std::thread::scope(|scope| {
            let follower = scope.spawn(|| {
                let mut reader = LogReader::open(&path, Selection::default());
                let mut found = texts(|each| reader.existing(each).unwrap());
                while found.last() != lines.last() {
                    found.extend(texts(|each| reader.more(each).unwrap()));
                }
                found
            });
            let looker = scope.spawn(|| {
                loop {
                    let mut reader = LogReader::open(&path, Selection::default());
                    let found = texts(|each| reader.existing(each).unwrap());
                    assert!(lines.starts_with(&found), "{:?}", found.last());
                    if found.len() == lines.len() {
                        break;
                    }
                }
            });
            for line in &lines {
                writer.write(LogStream::Stdout, line.as_bytes()).unwrap();
            }
            assert!(follower.join().unwrap() == lines);
            looker.join().unwrap();
        });
    }
}
