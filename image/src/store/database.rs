//! Database of the store in SQLite: its images, their names and layers.

use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use super::StoreError;
use super::layers::LayerName;
use crate::digest::Digest;
use crate::directory::{DatabaseSpec, Directory, DirectoryError};
use crate::reference::{Reference, Version};

/// Description of the store's database.
pub const STORE_DATABASE: DatabaseSpec = DatabaseSpec {
    name: "state.db",
    table: "images",
    describes: &["blobs", "layers", "rootfs"],
    migrations: &MIGRATIONS,
};

/// Migrations: one step each from the version of its index to the next.
const MIGRATIONS: [&str; 2] = [
    "
    CREATE TABLE images (
        id TEXT PRIMARY KEY,
        manifest TEXT NOT NULL,
        size_bytes INTEGER NOT NULL,
        added INTEGER NOT NULL,
        rootfs TEXT NOT NULL
    ) STRICT;
    CREATE TABLE layers (
        image TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
        position INTEGER NOT NULL,
        name TEXT NOT NULL,
        PRIMARY KEY (image, position)
    ) STRICT;
    CREATE INDEX layers_by_name ON layers (name);
    CREATE TABLE tags (
        reference TEXT PRIMARY KEY,
        image TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE
    ) STRICT;
    CREATE TABLE digests (
        repository TEXT NOT NULL,
        digest TEXT NOT NULL,
        image TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
        PRIMARY KEY (repository, digest)
    ) STRICT;
",
    // Names that are about to be made, or that nothing needs any more: all that recovery may remove.
    "
    CREATE TABLE pending (
        kind TEXT NOT NULL,
        name TEXT NOT NULL,
        PRIMARY KEY (kind, name)
    ) STRICT, WITHOUT ROWID;
    CREATE TRIGGER layer_dropped AFTER DELETE ON layers BEGIN
        INSERT OR IGNORE INTO pending VALUES ('layers', OLD.name);
    END;
    CREATE TRIGGER image_dropped AFTER DELETE ON images BEGIN
        INSERT OR IGNORE INTO pending
            VALUES ('blobs', substr(OLD.id, 8)), ('blobs', substr(OLD.manifest, 8)), ('rootfs', OLD.rootfs);
    END;
    CREATE TRIGGER image_replaced AFTER UPDATE ON images BEGIN
        INSERT OR IGNORE INTO pending VALUES ('blobs', substr(OLD.manifest, 8)), ('rootfs', OLD.rootfs);
    END;
",
];

/// Directories of the store with changing entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StoreDirectory {
    Rootfs,
    Layers,
    Blobs,
    Tmp,
}

impl StoreDirectory {
    /// Kinds of objects.
    pub(super) const OBJECTS: [Self; 3] = [Self::Rootfs, Self::Layers, Self::Blobs];

    /// Name of the directory.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Rootfs => "rootfs",
            Self::Layers => "layers",
            Self::Blobs => "blobs",
            Self::Tmp => "tmp",
        }
    }
}

#[derive(Debug)]
pub(super) struct Database(Connection);

/// Image as recorded in its rows.
#[derive(Debug, Clone)]
pub(super) struct ImageRow {
    pub id: Digest,
    pub manifest: Digest,
    pub size_bytes: u64,
    pub added: i64,
    pub references: Vec<Reference>,
    pub layers: Vec<LayerName>,
}

impl Database {
    pub(super) fn open(directory: &Directory) -> Result<Self, DirectoryError> {
        Ok(Self(directory.open_database(&STORE_DATABASE)?))
    }

    /// Records that something of this name is about to be made.
    pub(super) fn record(&self, kind: StoreDirectory, name: &str) -> Result<(), StoreError> {
        let insert = "INSERT OR IGNORE INTO pending VALUES (?1, ?2)";
        self.0.prepare_cached(insert)?.execute([kind.as_str(), name])?;
        Ok(())
    }

    /// Names that are recorded as pending.
    pub(super) fn pending(&self, kind: StoreDirectory) -> Result<Vec<String>, StoreError> {
        let query = "SELECT name FROM pending WHERE kind = ?1 ORDER BY name";
        let mut statement = self.0.prepare_cached(query)?;
        let names = statement.query_map([kind.as_str()], |row| row.get(0))?;
        Ok(names.collect::<Result<_, _>>()?)
    }

    /// Deletes the records of objects that are gone, or are needed.
    pub(super) fn forget(&mut self, kind: StoreDirectory, names: &[String]) -> Result<(), StoreError> {
        if names.is_empty() {
            return Ok(());
        }
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for name in names {
            let delete = "DELETE FROM pending WHERE kind = ?1 AND name = ?2";
            transaction.prepare_cached(delete)?.execute([kind.as_str(), name])?;
        }
        Ok(transaction.commit()?)
    }

    pub(super) fn image(&self, id: Digest) -> Result<Option<ImageRow>, StoreError> {
        let query = "SELECT id, manifest, size_bytes, added FROM images WHERE id = ?1";
        let found = self.0.query_row(query, [id.to_string()], image_columns).optional()?;
        found.map(|columns| self.complete(columns)).transpose()
    }

    /// Rows of all images, newest first.
    pub(super) fn images(&self) -> Result<Vec<ImageRow>, StoreError> {
        let query = "SELECT id, manifest, size_bytes, added FROM images ORDER BY added DESC, id";
        let mut statement = self.0.prepare(query)?;
        let columns: Vec<ImageColumns> = statement.query_map([], image_columns)?.collect::<Result<_, _>>()?;
        columns.into_iter().map(|columns| self.complete(columns)).collect()
    }

    pub(super) fn id_of_name(&self, reference: &Reference) -> Result<Option<Digest>, StoreError> {
        let query = "SELECT image FROM tags WHERE reference = ?1";
        let found: Option<String> = self
            .0
            .query_row(query, [reference.canonical()], |row| row.get(0))
            .optional()?;
        found.map(digest).transpose()
    }

    pub(super) fn id_of_digest(&self, name: &Reference, wanted: Digest) -> Result<Option<Digest>, StoreError> {
        let query = "SELECT image FROM digests WHERE repository = ?1 AND digest = ?2";
        let values = [name.canonical_name(), wanted.to_string()];
        let found: Option<String> = self.0.query_row(query, values, |row| row.get(0)).optional()?;
        found.map(digest).transpose()
    }

    /// Ids that begin with these lower-case hexadecimal digits; two at most.
    pub(super) fn ids_starting_with(&self, digits: &str) -> Result<Vec<Digest>, StoreError> {
        let query = "SELECT id FROM images WHERE substr(id, 8, ?2) = ?1 LIMIT 2";
        let mut statement = self.0.prepare(query)?;
        let rows = statement.query_map(params![digits, digits.len() as i64], |row| row.get(0))?;
        rows.map(|text| digest(text?)).collect()
    }

    /// Inserts the image, or adds its names to the image with the same id.
    pub(super) fn insert_image(&mut self, row: ImageRow, rootfs: Digest) -> Result<ImageRow, StoreError> {
        let id = row.id.to_string();
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // The same config may come with other blobs (another compression): the newer ones are as good. No upsert: its
        // conflict handling replaces that of the triggers, which ignore names that another maker has recorded.
        let update = "UPDATE images SET manifest = ?2, size_bytes = ?3, rootfs = ?4 WHERE id = ?1";
        let (manifest, size_bytes) = (row.manifest.to_string(), row.size_bytes as i64);
        if transaction.execute(update, params![id, manifest, size_bytes, rootfs.hex()])? == 0 {
            let insert = "INSERT INTO images (id, manifest, size_bytes, added, rootfs) VALUES (?1, ?2, ?3, ?4, ?5)";
            transaction.execute(insert, params![id, manifest, size_bytes, row.added, rootfs.hex()])?;
        }
        transaction.execute("DELETE FROM layers WHERE image = ?1", [&id])?;
        for (position, layer) in row.layers.iter().enumerate() {
            let insert = "INSERT INTO layers (image, position, name) VALUES (?1, ?2, ?3)";
            transaction.execute(insert, params![id, position as i64, layer.to_string()])?;
        }
        for reference in &row.references {
            insert_name(&transaction, reference, &id)?;
        }
        let needed =
            "DELETE FROM pending WHERE (kind = 'blobs' AND name IN (?1, ?2)) OR (kind = 'rootfs' AND name = ?3)
            OR (kind = 'layers' AND name IN (SELECT name FROM layers WHERE image = ?4))";
        let (config, manifest) = (row.id.hex(), row.manifest.hex());
        transaction.execute(needed, params![config, manifest, rootfs.hex(), id])?;
        transaction.commit()?;
        self.image(row.id)?.ok_or(StoreError::Row { what: "image" })
    }

    pub(super) fn set_name(&mut self, reference: &Reference, id: Digest) -> Result<(), StoreError> {
        Ok(insert_name(&self.0, reference, &id.to_string())?)
    }

    /// Deletes a name, tag or digest.
    pub(super) fn delete_name(&mut self, reference: &Reference) -> Result<(), StoreError> {
        match reference.version() {
            Version::Tag(_) => self
                .0
                .execute("DELETE FROM tags WHERE reference = ?1", [reference.canonical()])?,
            Version::Digest(digest) => self.0.execute(
                "DELETE FROM digests WHERE repository = ?1 AND digest = ?2",
                [reference.canonical_name(), digest.to_string()],
            )?,
        };
        Ok(())
    }

    /// Deletes the image with its names.
    pub(super) fn delete_image(&mut self, id: Digest) -> Result<(), StoreError> {
        self.0.execute("DELETE FROM images WHERE id = ?1", [id.to_string()])?;
        Ok(())
    }

    /// Whether an image needs the object.
    pub(super) fn needs(&self, kind: StoreDirectory, name: &str) -> Result<bool, StoreError> {
        let query = match kind {
            StoreDirectory::Layers => "SELECT 1 FROM layers WHERE name = ?1",
            StoreDirectory::Rootfs => "SELECT 1 FROM images WHERE rootfs = ?1",
            StoreDirectory::Blobs => "SELECT 1 FROM images WHERE id = 'sha256:' || ?1 OR manifest = 'sha256:' || ?1",
            StoreDirectory::Tmp => return Ok(false),
        };
        Ok(self.0.prepare_cached(query)?.exists([name])?)
    }

    fn complete(&self, columns: ImageColumns) -> Result<ImageRow, StoreError> {
        let (id, manifest, size_bytes, added) = columns;
        let mut references = Vec::new();
        let mut statement = self
            .0
            .prepare_cached("SELECT reference FROM tags WHERE image = ?1 ORDER BY reference")?;
        for text in statement.query_map([&id], |row| row.get::<_, String>(0))? {
            references.push(reference(&text?)?);
        }
        let query = "SELECT repository || '@' || digest FROM digests WHERE image = ?1 ORDER BY 1";
        let mut statement = self.0.prepare_cached(query)?;
        for text in statement.query_map([&id], |row| row.get::<_, String>(0))? {
            references.push(reference(&text?)?);
        }
        let mut layers = Vec::new();
        let mut statement = self
            .0
            .prepare_cached("SELECT name FROM layers WHERE image = ?1 ORDER BY position")?;
        for text in statement.query_map([&id], |row| row.get::<_, String>(0))? {
            layers.push(LayerName::parse(&text?).ok_or(StoreError::Row { what: "layer name" })?);
        }
        let (id, manifest) = (digest(id)?, digest(manifest)?);
        Ok(ImageRow {
            id,
            manifest,
            size_bytes: size_bytes as u64,
            added,
            references,
            layers,
        })
    }
}

type ImageColumns = (String, String, i64, i64);

fn image_columns(row: &Row<'_>) -> rusqlite::Result<ImageColumns> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
}

fn insert_name(connection: &Connection, reference: &Reference, id: &str) -> rusqlite::Result<()> {
    match reference.version() {
        Version::Tag(_) => connection.execute(
            "INSERT INTO tags (reference, image) VALUES (?1, ?2) ON CONFLICT (reference) DO UPDATE SET image = ?2",
            params![reference.canonical(), id],
        )?,
        Version::Digest(digest) => connection.execute(
            "INSERT INTO digests (repository, digest, image) VALUES (?1, ?2, ?3)
                ON CONFLICT (repository, digest) DO UPDATE SET image = ?3",
            params![reference.canonical_name(), digest.to_string(), id],
        )?,
    };
    Ok(())
}

fn digest(text: String) -> Result<Digest, StoreError> {
    text.parse().map_err(|_| StoreError::Row { what: "digest" })
}

fn reference(text: &str) -> Result<Reference, StoreError> {
    text.parse().map_err(|_| StoreError::Row { what: "reference" })
}
