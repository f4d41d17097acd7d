//! File tree of an image: its layers applied one over the other.
//!
//! Entries apply in the order of the tar; the last one wins. A symbolic link in the directory part of a name is
//! followed *inside the root*, with `..` stopping there; the last component is never followed; a directory over a
//! directory keeps its content; any other clash replaces. [`whiteouts`] are entries like others, so a whiteout in a
//! directory with which its own layer replaces a link hides nothing at the link's target. umoci does the same; tests
//! compare with it.

mod walk;
mod whiteouts;

use std::collections::BTreeMap;

use crate::layer::entry::{Action, Attributes, Entry, Node};
use crate::layer::fault::LayerFault;
use crate::layer::path::LayerPath;
use crate::limits::{ROOTFS_ENTRIES_MAX, ROOTFS_NAME_BYTES_MAX};
use crate::tree::walk::{Step, Walk};

/// Number of a layer, from 1 on; 0 means none.
type LayerNumber = u16;

/// Number of an inode in a [`Tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct InodeId(u32);

impl InodeId {
    pub(crate) const ROOT: Self = Self(0);

    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Debug)]
pub(crate) struct Inode {
    pub attributes: Attributes,
    pub content: Content,
    /// Number of names of the inode; a directory has one.
    names: u32,
}

#[derive(Debug)]
pub(crate) enum Content {
    Directory(Directory),
    /// File of `size` bytes, from block `block` of data blob `blob` on.
    File {
        blob: u16,
        block: u32,
        size: u64,
    },
    Symlink(Vec<u8>),
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Fifo,
}

#[derive(Debug)]
pub(crate) struct Directory {
    /// Children in byte order, as EROFS requires.
    children: BTreeMap<Box<[u8]>, Name>,
    pub parent: InodeId,
    /// Last layer that has an entry for the directory or beneath it.
    touched_by: LayerNumber,
    /// Last layer that left nothing of lower layers in the directory.
    cleared_by: LayerNumber,
}

/// Name in a directory.
#[derive(Debug, Clone, Copy)]
struct Name {
    inode: InodeId,
    /// Layer that has the entry for the name.
    layer: LayerNumber,
}

impl Directory {
    fn new(parent: InodeId, layer: LayerNumber) -> Self {
        Self {
            children: BTreeMap::new(),
            parent,
            touched_by: 0,
            cleared_by: layer,
        }
    }

    /// Entries of the directory, by name.
    pub(crate) fn children(&self) -> impl DoubleEndedIterator<Item = (&[u8], InodeId)> {
        self.children.iter().map(|(name, child)| (&**name, child.inode))
    }
}

/// File tree held in memory, without the contents of files.
#[derive(Debug)]
pub(crate) struct Tree {
    inodes: Vec<Inode>,
    /// Slots of inodes without a name, to be reused.
    free: Vec<InodeId>,
    /// Total length of names, link targets and attributes, bytes.
    name_bytes: u64,
    /// Layer that is being applied.
    layer: LayerNumber,
}

impl Inode {
    /// Link count that `stat` shows.
    pub(crate) fn link_count(&self, tree: &Tree) -> u32 {
        match &self.content {
            Content::Directory(directory) => {
                let is_directory = |id: &InodeId| matches!(tree[*id].content, Content::Directory(_));
                2 + directory.children().map(|(_, id)| id).filter(is_directory).count() as u32
            }
            _ => self.names,
        }
    }
}

impl std::ops::Index<InodeId> for Tree {
    type Output = Inode;

    fn index(&self, id: InodeId) -> &Inode {
        &self.inodes[id.index()]
    }
}

impl Tree {
    /// Creates a tree of the root directory alone.
    pub(crate) fn new() -> Self {
        let directory = Directory::new(InodeId::ROOT, 0);
        let attributes = Attributes::implied_directory();
        let root = Inode {
            attributes,
            content: Content::Directory(directory),
            names: 1,
        };
        Self {
            inodes: vec![root],
            free: Vec::new(),
            name_bytes: 0,
            layer: 0,
        }
    }

    /// Begins the next layer: the present content of the tree belongs to lower layers from here on.
    pub(crate) fn begin_layer(&mut self) {
        self.layer += 1;
    }

    /// Largest index of an inode, plus one.
    pub(crate) fn index_bound(&self) -> usize {
        self.inodes.len()
    }

    /// Applies an entry. `blob` is the data blob of the entry's layer.
    pub(crate) fn apply(&mut self, entry: Entry, blob: u16) -> Result<(), LayerFault> {
        match entry.action {
            Action::Make(attributes, node) => self.make(&entry.path, attributes, node, blob),
            Action::Link(target) => self.link(&entry.path, &target),
            Action::Whiteout => self.hide_name(&entry.path),
            Action::Opaque => self.hide_children(&entry.path),
        }
    }

    fn make(&mut self, path: &LayerPath, attributes: Attributes, node: Node, blob: u16) -> Result<(), LayerFault> {
        let Some((directory, name)) = path.split_last() else {
            return match node {
                Node::Directory => self.set_attributes(InodeId::ROOT, attributes),
                _ => Err(LayerFault::Root),
            };
        };
        let directory = self.make_directories(&directory, path)?;
        if let (Node::Directory, Some(existing)) = (&node, self.child(directory, name))
            && matches!(self[existing].content, Content::Directory(_))
        {
            self.touch(existing);
            return self.set_attributes(existing, attributes);
        }
        self.unlink(directory, name);
        let content = match node {
            Node::Directory => Content::Directory(Directory::new(directory, self.layer)),
            Node::File { block, size } => Content::File { blob, block, size },
            Node::Symlink(target) => Content::Symlink(target),
            Node::CharDevice { major, minor } => Content::CharDevice { major, minor },
            Node::BlockDevice { major, minor } => Content::BlockDevice { major, minor },
            Node::Fifo => Content::Fifo,
        };
        let id = self.add_inode(attributes, content)?;
        self.add_name(directory, name, id)?;
        self.touch(id);
        Ok(())
    }

    fn link(&mut self, path: &LayerPath, target: &LayerPath) -> Result<(), LayerFault> {
        let missing = || LayerFault::LinkTarget {
            path: path.to_string(),
            target: target.to_string(),
        };
        let (target_directory, target_name) = target.split_last().ok_or(LayerFault::Root)?;
        let target_directory = self.find_directory(&target_directory)?.ok_or_else(missing)?;
        let id = self.child(target_directory, target_name).ok_or_else(missing)?;
        if matches!(self[id].content, Content::Directory(_)) {
            return Err(LayerFault::LinkToDirectory {
                path: path.to_string(),
                target: target.to_string(),
            });
        }
        let (directory, name) = path.split_last().ok_or(LayerFault::Root)?;
        let directory = self.make_directories(&directory, path)?;
        // The new name may replace a directory that holds the target: count the new name first, or the target would be
        // freed.
        self.inodes[id.index()].names += 1;
        self.unlink(directory, name);
        self.inodes[id.index()].names -= 1;
        self.add_name(directory, name, id)
    }

    /// Finds the directory at `path`, following links inside the root; `None` if there is none.
    fn find_directory(&self, path: &LayerPath) -> Result<Option<InodeId>, LayerFault> {
        let mut walk = Walk::new(path);
        let mut directory = InodeId::ROOT;
        while let Some(part) = walk.next() {
            match self.step(directory, &part, &mut walk, path)? {
                Step::Into(next) => directory = next,
                Step::Restart(at) => directory = at,
                Step::Missing | Step::File => return Ok(None),
            }
        }
        Ok(Some(directory))
    }

    /// Finds the directory at `path`, and creates missing ones with implied attributes. `entry` is named in errors.
    fn make_directories(&mut self, path: &LayerPath, entry: &LayerPath) -> Result<InodeId, LayerFault> {
        let mut walk = Walk::new(path);
        let mut directory = InodeId::ROOT;
        while let Some(part) = walk.next() {
            match self.step(directory, &part, &mut walk, entry)? {
                Step::Into(next) => directory = next,
                Step::Restart(at) => directory = at,
                Step::File => {
                    return Err(LayerFault::NotADirectory {
                        path: entry.to_string(),
                    });
                }
                Step::Missing => {
                    let content = Content::Directory(Directory::new(directory, self.layer));
                    let id = self.add_inode(Attributes::implied_directory(), content)?;
                    self.add_name(directory, &part, id)?;
                    directory = id;
                }
            }
        }
        self.touch(directory);
        Ok(directory)
    }

    fn step(&self, at: InodeId, part: &[u8], walk: &mut Walk, entry: &LayerPath) -> Result<Step, LayerFault> {
        let Content::Directory(directory) = &self[at].content else {
            return Ok(Step::File);
        };
        if part == b".." {
            return Ok(Step::Into(directory.parent));
        }
        let Some(&Name { inode: id, .. }) = directory.children.get(part) else {
            return Ok(Step::Missing);
        };
        Ok(match &self[id].content {
            Content::Directory(_) => Step::Into(id),
            Content::Symlink(target) => {
                walk.follow(target).ok_or_else(|| LayerFault::TooManyLinks {
                    path: entry.to_string(),
                })?;
                Step::Restart(if target.starts_with(b"/") { InodeId::ROOT } else { at })
            }
            _ => Step::File,
        })
    }

    fn child(&self, directory: InodeId, name: &[u8]) -> Option<InodeId> {
        match &self[directory].content {
            Content::Directory(directory) => directory.children.get(name).map(|child| child.inode),
            _ => None,
        }
    }

    fn set_attributes(&mut self, id: InodeId, attributes: Attributes) -> Result<(), LayerFault> {
        self.name_bytes -= attribute_bytes(&self[id].attributes);
        self.charge(attribute_bytes(&attributes))?;
        self.inodes[id.index()].attributes = attributes;
        Ok(())
    }

    fn add_inode(&mut self, attributes: Attributes, content: Content) -> Result<InodeId, LayerFault> {
        self.charge(attribute_bytes(&attributes) + content_bytes(&content))?;
        let inode = Inode {
            attributes,
            content,
            names: 0,
        };
        if let Some(id) = self.free.pop() {
            self.inodes[id.index()] = inode;
            return Ok(id);
        }
        if self.inodes.len() >= ROOTFS_ENTRIES_MAX as usize {
            return Err(LayerFault::TooManyFiles);
        }
        let id = InodeId(self.inodes.len() as u32);
        self.inodes.push(inode);
        Ok(id)
    }

    fn add_name(&mut self, directory: InodeId, name: &[u8], id: InodeId) -> Result<(), LayerFault> {
        self.charge(name.len() as u64)?;
        self.inodes[id.index()].names += 1;
        if let Content::Directory(directory) = &mut self.inodes[directory.index()].content {
            let layer = self.layer;
            directory.children.insert(name.into(), Name { inode: id, layer });
        }
        Ok(())
    }

    /// Removes a name, and everything that only this name leads to.
    fn unlink(&mut self, directory: InodeId, name: &[u8]) {
        let Content::Directory(parent) = &mut self.inodes[directory.index()].content else {
            return;
        };
        let Some(removed) = parent.children.remove(name) else {
            return;
        };
        self.name_bytes -= name.len() as u64;
        let mut unnamed = vec![removed.inode];
        while let Some(id) = unnamed.pop() {
            let inode = &mut self.inodes[id.index()];
            inode.names -= 1;
            if inode.names > 0 {
                continue;
            }
            let content = std::mem::replace(&mut inode.content, Content::Fifo);
            let attributes = std::mem::replace(&mut inode.attributes, Attributes::implied_directory());
            self.name_bytes -= attribute_bytes(&attributes) + content_bytes(&content);
            if let Content::Directory(removed) = content {
                self.name_bytes -= removed.children.keys().map(|name| name.len() as u64).sum::<u64>();
                unnamed.extend(removed.children.into_values().map(|child| child.inode));
            }
            self.free.push(id);
        }
    }

    fn charge(&mut self, bytes: u64) -> Result<(), LayerFault> {
        self.name_bytes += bytes;
        if self.name_bytes > ROOTFS_NAME_BYTES_MAX {
            Err(LayerFault::TooManyNames)
        } else {
            Ok(())
        }
    }
}

fn attribute_bytes(attributes: &Attributes) -> u64 {
    attributes
        .xattrs
        .iter()
        .map(|xattr| (xattr.name.len() + xattr.value.len()) as u64)
        .sum()
}

fn content_bytes(content: &Content) -> u64 {
    match content {
        Content::Symlink(target) => target.len() as u64,
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
