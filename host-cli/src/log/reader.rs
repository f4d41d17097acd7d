//! Reading a log while it is written and rotated.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Entry;
use super::writer::numbered;
use crate::clock;

/// Which entries are wanted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Selection {
    /// Nanoseconds since 1970, inclusive.
    pub since_ns: Option<i64>,
    pub until_ns: Option<i64>,
    /// So many lines from the end.
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

/// A place in a container's log.
#[derive(Debug)]
pub(crate) struct LogReader {
    path: PathBuf,
    selection: Selection,
    current: Option<BufReader<File>>,
    /// A line whose end was not written yet.
    partial: Vec<u8>,
}

impl LogReader {
    /// Begins before the first entry.
    pub(crate) fn open(path: &Path, selection: Selection) -> Self {
        Self {
            path: path.into(),
            selection,
            current: None,
            partial: Vec::new(),
        }
    }

    /// What is there now, the oldest first; the reader is at the end then.
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
        // Opened all before the first is read: a rotation in between moves names, not open files.
        let mut files = Vec::new();
        for number in (1..).take_while(|number| numbered(&self.path, *number).exists()) {
            files.push(File::open(numbered(&self.path, number))?);
        }
        files.reverse();
        match File::open(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            opened => files.push(opened?),
        }
        for file in files {
            self.current = Some(BufReader::new(file));
            self.drain(&mut each)?;
        }
        Ok(())
    }

    /// What has come since, also over a rotation.
    pub(crate) fn more(&mut self, mut each: impl FnMut(Entry) -> io::Result<()>) -> io::Result<()> {
        self.rewind_if_cut()?;
        self.drain(&mut each)?;
        while let Some(next) = self.successor()? {
            self.current = Some(BufReader::new(next));
            self.partial.clear();
            self.drain(&mut each)?;
        }
        Ok(())
    }

    /// With one file alone, a rotation empties it.
    fn rewind_if_cut(&mut self) -> io::Result<()> {
        let Some(file) = &mut self.current else { return Ok(()) };
        if file.get_ref().metadata()?.len() < file.stream_position()? {
            file.rewind()?;
            self.partial.clear();
        }
        Ok(())
    }

    /// The file after the one that is being read, when there is one: the current file, or the one that was rotated
    /// just after ours.
    fn successor(&self) -> io::Result<Option<File>> {
        let newest = match File::open(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let Some(current) = &self.current else {
            return Ok(Some(newest));
        };
        let ours = current.get_ref().metadata()?.ino();
        let mut after = newest;
        for number in 0.. {
            if after.metadata()?.ino() == ours {
                return Ok(None);
            }
            let Ok(older) = File::open(numbered(&self.path, number + 1)) else {
                return Ok(Some(after));
            };
            if older.metadata()?.ino() == ours {
                return Ok(Some(after));
            }
            after = older;
        }
        Ok(None)
    }

    fn drain(&mut self, each: &mut impl FnMut(Entry) -> io::Result<()>) -> io::Result<()> {
        let Some(file) = &mut self.current else { return Ok(()) };
        loop {
            if file.read_until(b'\n', &mut self.partial)? == 0 || !self.partial.ends_with(b"\n") {
                return Ok(());
            }
            let line = std::mem::take(&mut self.partial);
            // A line torn by a power cut is passed over: what follows is whole.
            if let Ok(entry) = serde_json::from_slice::<Entry>(&line)
                && self.selection.takes(&entry)
            {
                each(entry)?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LogStream, LogWriter};
    use super::*;
    use crate::state::LogOptions;

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
}
