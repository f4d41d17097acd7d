//! Events of containers, and of networks by `network connect` and `disconnect`, in docker's format: `data/events.json`,
//! one JSON object per line.
//!
//! A file and not a table: an event reports a change that has its own row, so it needs no sync to disk and no
//! transaction with it, and a start does not wait for one; a line that a crash has cut harms no other. Writers are many
//! short commands and supervisors: each appends whole lines under the file's lock. A follower checks the file's length
//! ten times a second, which costs one system call and needs no notification.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use capsid_image::own_file;
use rustix::fs::FlockOperation;
use serde_json::{Value, json};

use crate::clock;
use crate::model::{ConnectTarget, Container, Pod};

/// Size in bytes at which the file is rotated and its predecessor removed: some 10 000 events each.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Most bytes of a line: names are bounded where they are made, and labels here.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// Most bytes of labels in an event. An image may keep a mebibyte in one, which would push other events out of the
/// file.
const LABELS_BYTES_MAX: usize = 64 << 10;

fn current(data: &Path) -> PathBuf {
    data.join("events.json")
}

fn previous(data: &Path) -> PathBuf {
    data.join("events.json.1")
}

/// Records an event of a container. An event that cannot be written is lost: the change itself remains.
pub(crate) fn record(data: &Path, container: &Container, action: &str, attributes: &[(&str, &str)]) {
    let line = format!("{}\n", describe(container, action, attributes, clock::now_ns()));
    let _ = append(data, line.as_bytes());
}

/// Records that a pod was connected to a network, or disconnected.
pub(crate) fn record_network(data: &Path, pod: &Pod, place: &ConnectTarget, action: &str) {
    let line = format!("{}\n", describe_network(pod, place, action, clock::now_ns()));
    let _ = append(data, line.as_bytes());
}

/// Builds docker's object of a network event; the pod takes the place of a container, whose id an implicit one has.
fn describe_network(pod: &Pod, place: &ConnectTarget, action: &str, at_ns: i64) -> Value {
    let id = match place {
        ConnectTarget::OwnLink => place.name(),
        ConnectTarget::UserDefined(endpoint) => &endpoint.network,
    };
    let attributes = json!({ "container": pod.id, "name": place.name(), "type": "bridge" });
    json!({
        "Type": "network",
        "Action": action,
        "Actor": { "ID": id, "Attributes": attributes },
        "scope": "local",
        "time": at_ns / 1_000_000_000,
        "timeNano": at_ns,
    })
}

/// Selects the labels that an event has room for.
fn short_labels(labels: &[String]) -> Vec<String> {
    let mut room = LABELS_BYTES_MAX;
    let fits = |label: &&String| match room.checked_sub(label.len()) {
        Some(left) => {
            room = left;
            true
        }
        None => false,
    };
    labels.iter().filter(fits).cloned().collect()
}

/// Builds docker's object of a container event.
fn describe(container: &Container, action: &str, attributes: &[(&str, &str)], at_ns: i64) -> Value {
    let mut all = crate::labels::object(&short_labels(&container.config.labels));
    for (name, value) in attributes {
        all.insert((*name).into(), json!(value));
    }
    all.insert("image".into(), json!(container.image));
    all.insert("name".into(), json!(container.name));
    json!({
        "status": action,
        "id": container.id,
        "from": container.image,
        "Type": "container",
        "Action": action,
        "Actor": { "ID": container.id, "Attributes": all },
        "scope": "local",
        "time": at_ns / 1_000_000_000,
        "timeNano": at_ns,
    })
}

fn append(data: &Path, line: &[u8]) -> io::Result<()> {
    let path = current(data);
    loop {
        let mut options = OpenOptions::new();
        let mut file = own_file::open(&path, options.create(true).append(true).mode(0o600))?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
        let ours = file.metadata()?;
        // Another writer may have rotated the file meanwhile.
        if !std::fs::symlink_metadata(&path).is_ok_and(|now| now.ino() == ours.ino()) {
            continue;
        }
        if ours.len() >= FILE_BYTES_MAX {
            std::fs::rename(&path, previous(data))?;
            continue;
        }
        return file.write_all(line);
    }
}

/// Reader of events, first of the existing ones, then of new ones.
#[derive(Debug)]
pub(crate) struct EventReader {
    data: PathBuf,
    file: Option<File>,
    position: u64,
}

impl EventReader {
    /// Opens a reader at the oldest event.
    pub(crate) fn open(data: &Path) -> Self {
        Self {
            data: data.into(),
            file: own_file::read(&previous(data)).ok(),
            position: 0,
        }
    }

    /// Returns the events since the last call.
    pub(crate) fn more(&mut self) -> io::Result<Vec<Value>> {
        let mut events = Vec::new();
        loop {
            if let Some(file) = &mut self.file {
                self.position = read_from(file, self.position, &mut events)?;
            }
            let next = match own_file::read(&current(&self.data)) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(events),
                opened => opened?,
            };
            let is_same = match &self.file {
                None => false,
                Some(file) => file.metadata()?.ino() == next.metadata()?.ino(),
            };
            if is_same {
                return Ok(events);
            }
            // Read what was written between the check and the rotation; nobody writes to the old file now.
            if let Some(file) = &mut self.file {
                read_from(file, self.position, &mut events)?;
            }
            (self.file, self.position) = (Some(next), 0);
        }
    }
}

/// Reads whole lines from `position` on, and returns the start of the next one. Skips lines that are not events.
fn read_from(file: &mut File, mut position: u64, events: &mut Vec<Value>) -> io::Result<u64> {
    if file.metadata()?.len() <= position {
        return Ok(position);
    }
    file.seek(SeekFrom::Start(position))?;
    let mut lines = BufReader::new(file);
    loop {
        let mut line = Vec::new();
        let count = lines.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)? as u64;
        if count == 0 || (!line.ends_with(b"\n") && count < LINE_BYTES_MAX) {
            return Ok(position);
        }
        position += count;
        events.extend(serde_json::from_slice::<Value>(&line).ok().filter(Value::is_object));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_are_long_are_left_out() {
        let labels = [
            "a=1".to_owned(),
            format!("bom={}", "x".repeat(LABELS_BYTES_MAX)),
            "b=2".to_owned(),
        ];
        assert_eq!(short_labels(&labels), ["a=1", "b=2"]);
    }

    #[test]
    fn lines_come_whole_and_once_also_over_a_change_of_files() {
        let data = tempfile::tempdir().unwrap();
        let mut reader = EventReader::open(data.path());
        assert!(reader.more().unwrap().is_empty());
        append(data.path(), b"{\"n\":1}\n{\"n\":").unwrap();
        assert_eq!(reader.more().unwrap(), [json!({"n": 1})]);
        append(data.path(), b"2}\nnothing\n").unwrap();
        assert_eq!(reader.more().unwrap(), [json!({"n": 2})]);
        let filler = vec![b'x'; FILE_BYTES_MAX as usize];
        append(data.path(), &[&filler[..], b"\n"].concat()).unwrap();
        append(data.path(), b"{\"n\":3}\n").unwrap();
        assert!(previous(data.path()).exists());
        assert_eq!(reader.more().unwrap(), [json!({"n": 3})]);
        let all = EventReader::open(data.path()).more().unwrap();
        assert_eq!(all, [json!({"n": 1}), json!({"n": 2}), json!({"n": 3})]);
    }
}
