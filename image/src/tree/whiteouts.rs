//! Whiteouts: entries of a layer that hide entries of lower layers, and never those of the same layer, before or after
//! them (image specification, "Whiteouts").

use super::{Content, Directory, InodeId, Tree};
use crate::layer::fault::LayerFault;
use crate::layer::path::LayerPath;

impl Tree {
    /// Hides what lower layers have at `path`: all of it, or only the content of a directory that this layer has an
    /// entry for.
    pub(super) fn hide_name(&mut self, path: &LayerPath) -> Result<(), LayerFault> {
        let Some((directory, name)) = path.split_last() else {
            return Ok(());
        };
        if let Some(directory) = self.find_directory(&directory)? {
            self.hide(vec![(directory, name.into())]);
        }
        Ok(())
    }

    /// Hides what lower layers have in the directory at `path`: an opaque whiteout.
    pub(super) fn hide_children(&mut self, path: &LayerPath) -> Result<(), LayerFault> {
        if let Some(directory) = self.find_directory(path)? {
            let names = self.names_to_clear(directory);
            self.hide(names);
        }
        Ok(())
    }

    fn hide(&mut self, mut names: Vec<(InodeId, Box<[u8]>)>) {
        while let Some((directory, name)) = names.pop() {
            let Content::Directory(Directory { children, .. }) = &self[directory].content else {
                continue;
            };
            let Some(&child) = children.get(&name) else {
                continue;
            };
            match &self[child.inode].content {
                Content::Directory(inner) if inner.touched_by == self.layer => {
                    names.extend(self.names_to_clear(child.inode));
                }
                Content::Directory(_) => self.unlink(directory, &name),
                _ if child.layer == self.layer => {}
                _ => self.unlink(directory, &name),
            }
        }
    }

    /// Names in a directory, each of which may be of a lower layer. None the second time: names that a layer adds to a
    /// directory are its own. So a layer of many whiteouts reads each directory once.
    fn names_to_clear(&mut self, id: InodeId) -> Vec<(InodeId, Box<[u8]>)> {
        let layer = self.layer;
        match &mut self.inodes[id.index()].content {
            Content::Directory(directory) if directory.cleared_by != layer => {
                directory.cleared_by = layer;
                directory.children.keys().map(|name| (id, name.clone())).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Records that this layer has an entry for a directory or beneath it.
    pub(super) fn touch(&mut self, id: InodeId) {
        let (mut at, layer) = (id, self.layer);
        while let Content::Directory(directory) = &mut self.inodes[at.index()].content
            && directory.touched_by != layer
        {
            directory.touched_by = layer;
            at = directory.parent;
        }
    }
}
