//! Cache of the last verdict, kept for one boot: a small JSON file in the runtime folder.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use capsid_image::own_file;
use serde::{Deserialize, Serialize};

use super::KvmVerdict;

const FILE: &str = "kvm-verdict.json";
/// Most bytes of the file, far more than a verdict takes; a larger file is not Capsid's.
const MAX_FILE: u64 = 4096;
/// Version of the probe's judgement; changes where a new version of the probe would judge differently.
const PROBE_VERSION: u32 = 1;

/// Circumstances of a verdict. Another boot, device or permission (which changes the time) needs a new one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Key {
    probe: u32,
    boot_id: String,
    device: u64,
    changed: (i64, i64),
}

#[derive(Serialize, Deserialize)]
struct Entry {
    key: Key,
    verdict: KvmVerdict,
}

impl Key {
    /// Returns the key of `device` in this boot; `None` where there is no device, or a kernel that does not report the
    /// boot.
    pub(super) fn of(device: &Path) -> Option<Key> {
        let metadata = fs::metadata(device).ok()?;
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(Key {
            probe: PROBE_VERSION,
            boot_id: boot_id.trim().to_owned(),
            device: metadata.rdev(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// Loads the verdict stored for exactly `key`. A file that is missing, cut off or otherwise wrong holds none.
pub(super) fn load(folder: &Path, key: &Key) -> Option<KvmVerdict> {
    let mut text = Vec::new();
    own_file::read(&folder.join(FILE))
        .ok()?
        .take(MAX_FILE)
        .read_to_end(&mut text)
        .ok()?;
    let entry: Entry = serde_json::from_slice(&text).ok()?;
    (entry.key == *key).then_some(entry.verdict)
}

/// Stores a verdict; readers see the old file or the whole new one.
pub(super) fn store(folder: &Path, key: Key, verdict: &KvmVerdict) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(&serde_json::to_vec(&Entry {
        key,
        verdict: verdict.clone(),
    })?)?;
    file.persist(folder.join(FILE))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::of(Path::new("/dev/null")).expect("every machine has it")
    }

    #[test]
    fn a_verdict_comes_back_for_the_same_key_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let verdict = KvmVerdict::EmulatedRing0 {
            detail: "slow".to_owned(),
        };
        assert_eq!(load(folder.path(), &key()), None);
        store(folder.path(), key(), &verdict).expect("a writable folder");
        assert_eq!(load(folder.path(), &key()), Some(verdict));
        assert_eq!(
            load(
                folder.path(),
                &Key {
                    boot_id: "other".to_owned(),
                    ..key()
                }
            ),
            None
        );
        assert_eq!(
            load(
                folder.path(),
                &Key {
                    changed: (0, 0),
                    ..key()
                }
            ),
            None
        );
        assert_eq!(folder.path().read_dir().expect("a folder").count(), 1);
    }

    #[test]
    fn a_damaged_cache_holds_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join(FILE);
        store(folder.path(), key(), &KvmVerdict::Usable).expect("a writable folder");
        let whole = fs::read(&file).expect("the stored file");
        for length in 0..whole.len() {
            fs::write(&file, &whole[..length]).expect("a writable folder");
            assert_eq!(load(folder.path(), &key()), None);
        }
        fs::write(&file, vec![b' '; 1 << 20]).expect("a writable folder");
        assert_eq!(load(folder.path(), &key()), None);
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error_and_no_more() {
        assert!(store(Path::new("/nonexistent"), key(), &KvmVerdict::Usable).is_err());
        assert_eq!(load(Path::new("/nonexistent"), &key()), None);
    }
}
